//! Writes every kind of report for made-up trials into a folder, to look at them while changing templates:
//! `cargo run -p llmlab-metrics --example synthetic_report -- <folder> [repeats]`.

#[path = "../tests/common/mod.rs"]
mod common;

use std::path::PathBuf;

use llmlab_metrics::{analyse, html, markdown, svgs, terminal};

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or_else(|| "synthetic-report".into()));
    let repeats = args.next().and_then(|n| n.parse().ok()).unwrap_or(4);
    let (manifest, trials) = common::example(repeats);
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
