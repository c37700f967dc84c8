use llmlab_planner::validate::held_out::*;
use llmlab_planner::validate::report::*;
use llmlab_planner::validate::*;
fn main() {
    let rows = table::read(MEASURED, "analysis/validation/measured.csv").unwrap();
    let (cases, unusable) = sorted(&rows);
    let all: Vec<&Case> = cases.iter().collect();
    let mut fitted = fit::fit(&all, &fit::prior(), 5);
    fitted.source = "llmlab validate --write-fit, from analysis/validation/measured.csv; what no row says anything of: analysis/planner/src/validate/prior.toml".into();
    fitted.spread = spreads(&outcomes(&all, &fitted));
    std::fs::write("/tmp/efficiency.toml", toml::to_string(&fitted).unwrap()).unwrap();
    eprintln!("fitted");
    let mut sections = vec![Section::of("The shipped figures", &outcomes(&all, &fitted))];
    if std::env::args().count() > 1 {
        let start = fit::prior();
        sections.push(Section::of(
            "Whole devices left out of the fit",
            &held_out(&cases, &start, LeaveOut::Gpu, 3),
        ));
        eprintln!("gpus");
        sections.push(Section::of(
            "Whole models left out of the fit",
            &held_out(&cases, &start, LeaveOut::Model, 3),
        ));
    }
    println!(
        "{}",
        Report {
            table: "analysis/validation/measured.csv".into(),
            rows: rows.len(),
            usable: cases.len(),
            unusable,
            sections
        }
        .text()
    );
}
