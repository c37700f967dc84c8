//! Writes every kind of report for made-up trials into a folder, to look at them while changing templates:
//! `cargo run -p llmlab-metrics --example synthetic_report -- <folder> [repeats] [bad]`; `bad` makes the second target refuse requests
//! and the client late.

#[path = "../tests/common/mod.rs"]
mod common;

use std::path::PathBuf;

use llmlab_metrics::{analyse, html, markdown, svgs, terminal};

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or_else(|| "synthetic-report".into()));
    let repeats = args.next().and_then(|n| n.parse().ok()).unwrap_or(4);
    let (manifest, mut trials) = common::example(repeats);
    if args.next().as_deref() == Some("bad") {
        for t in trials.iter_mut().filter(|t| t.facts.target == "tgi") {
            let refusing = common::Toy { refuse_every: 9, ..common::PREFILL_FIRST };
            *t = common::simulate("tgi", t.facts.repeat, 7, 320, 16.0, &refusing);
            t.facts.client.loop_delay_p99_ns = 90 * common::MS;
        }
    }
    let analysis = analyse(&manifest, &trials);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("report.html"), html(&analysis, &manifest, &trials))?;
    std::fs::write(folder.join("report.md"), markdown(&analysis))?;
    std::fs::write(folder.join("analysis.json"), serde_json::to_string_pretty(&analysis)?)?;
    for (name, svg) in svgs(&analysis, &manifest, &trials) {
        std::fs::write(folder.join(name), svg)?;
    }
    print!("{}", terminal(&analysis, true, 110));
    Ok(())
}
