//! `llmlab validate`: the planner's predictions beside other people's measurements.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use llmlab_planner::validate::held_out::{LeaveOut, held_out, outcomes};
use llmlab_planner::validate::report::{Section, sorted, spreads};
use llmlab_planner::validate::{Case, MEASURED, Report, fit, table};
use llmlab_sim::cost_model::Calibration;

use crate::cli::ValidateArgs;
use crate::exit::{Code, Failure};
use crate::text;

/// Bytes of a table; more is no table of measurements.
const MAX_TABLE_BYTES: u64 = 64 << 20;
/// Gauss-Newton steps of a fit; the sixth changes no median by a tenth of a percent.
const ITERATIONS: u32 = 5;
/// The same where there are dozens of fits; they are within a percent by then.
const HELD_OUT_ITERATIONS: u32 = 3;

pub fn validate(args: ValidateArgs) -> Result<Code, Failure> {
    let (name, content) = match &args.data {
        Some(path) => (path.display().to_string(), read(path)?),
        None => ("the shipped table (analysis/validation/measured.csv)".to_string(), MEASURED.to_string()),
    };
    let rows = table::read(&content, &name).map_err(Failure::bad_input)?;
    let (cases, unusable) = sorted(&rows);
    let all: Vec<&Case> = cases.iter().collect();
    if let Some(path) = &args.write_fit {
        return write_fit(path, &all);
    }
    let mut sections = vec![Section::of("The shipped figures", &outcomes(&all, Calibration::shipped()))];
    if args.data.is_none() && !args.quick {
        let start = fit::prior();
        let by = |name, by| Section::of(name, &held_out(&cases, &start, by, HELD_OUT_ITERATIONS));
        sections.push(by("Whole devices left out of the fit", LeaveOut::Gpu));
        sections.push(by("Whole models left out of the fit", LeaveOut::Model));
    }
    let report = Report { table: name, rows: rows.len(), usable: cases.len(), unusable, sections };
    if args.json {
        let json = serde_json::to_string_pretty(&report).map_err(Failure::internal)?;
        text::print(&format!("{json}\n"))
    } else {
        text::print(&report.text())
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let wrong = |error| Failure::bad_input(format!("{}: {error}", path.display()));
    let mut content = Vec::new();
    fs::File::open(path)
        .map_err(wrong)?
        .take(MAX_TABLE_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(wrong)?;
    if content.len() as u64 > MAX_TABLE_BYTES {
        return Err(Failure::bad_input(format!("{}: more than 64 MiB", path.display())));
    }
    // An accent in another encoding is no reason to refuse the numbers.
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// Fits to all of the table and writes the file that the binary is built with.
fn write_fit(path: &Path, cases: &[&Case]) -> Result<Code, Failure> {
    let mut fitted = fit::fit(cases, &fit::prior(), ITERATIONS);
    fitted.source = "llmlab validate --write-fit, from analysis/validation/measured.csv; what no row says anything of: analysis/planner/src/validate/prior.toml".into();
    fitted.spread = spreads(&outcomes(cases, &fitted));
    let text = rounded(&toml::to_string(&fitted).map_err(Failure::internal)?);
    fs::write(path, text).map_err(|error| Failure::bad_input(format!("{}: {error}", path.display())))?;
    text::print(&format!("wrote {}\n", path.display()))
}

/// Figures with six digits, of which the fit knows three.
fn rounded(toml: &str) -> String {
    let line = |line: &str| match line.split_once(" = ") {
        Some((key, value)) => match value.parse::<f64>() {
            Ok(number) if number.fract() != 0.0 => {
                let digits = format!("{number:.5e}").parse().unwrap_or(number);
                format!("{key} = {digits}\n")
            }
            _ => format!("{line}\n"),
        },
        None => format!("{line}\n"),
    };
    toml.lines().map(line).collect()
}
