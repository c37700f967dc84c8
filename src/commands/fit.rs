//! `llmlab fit`: a request log to a scenario with the same traffic, and how well the two agree.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use llmlab_loadgen::{PromptStyle, RequestShape, WorkloadConfig, shapes};
use llmlab_scenarios::fit::{self, Fit, Process, ks_distance, rank_correlation};
use llmlab_scenarios::spec::{QuantileTable, TraceRow};
use llmlab_scenarios::trace::{self, Columns, Log};

use super::run::workload_config;
use crate::cli::FitArgs;
use crate::exit::{Code, Failure};
use crate::text;

/// Requests of the scenario where the log has more; enough for tails, quick to simulate.
const DEFAULT_REQUESTS: usize = 1000;
/// Requests drawn for the comparison at most.
const MAX_DRAWN: usize = 200_000;
/// Longest prompt and output of a scenario that says nothing else.
const DEFAULT_LONGEST: f64 = 131_072.0;

pub fn fit(args: FitArgs) -> Result<Code, Failure> {
    let columns = match &args.columns {
        Some(text) => Columns::parse(text).map_err(|why| Failure::bad_input(format!("--columns: {why}")))?,
        None => Columns::default(),
    };
    let log = trace::read_log(&args.log, &columns).map_err(Failure::bad_input)?;
    let found =
        fit::fit(&log.rows).map_err(|why| Failure::bad_input(format!("{}: {why}", args.log.display())))?;
    let requests = args.requests.unwrap_or(log.rows.len().min(DEFAULT_REQUESTS) as u32);
    let scenario = scenario(&args.log, &found, requests, args.seed);
    let name = args.output.display().to_string();
    // What is compared is what the file says, read back as a run would read it.
    let spec = llmlab_scenarios::parse(&scenario, &name).map_err(Failure::usage)?;
    let config = WorkloadConfig {
        requests: log.rows.len().min(MAX_DRAWN) as u64,
        ..workload_config(
            spec.seed,
            &spec.workload,
            u32::MAX,
            PromptStyle::TokenIds { first: 0, end: 1 },
            1.0,
        )
    };
    let drawn = shapes(&config).map_err(Failure::internal)?;
    write_new(&args.output, &scenario, args.force)?;
    let mut words = summary(&args.log, &log, &found, &drawn);
    let _ = writeln!(words, "\nwrote {name}\nnext: llmlab run {name} --explain");
    text::print(&words)
}

fn write_new(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let mut file = super::init::new_file(path, force)?;
    file.write_all(text.as_bytes())
        .map_err(|error| Failure::bad_input(format!("cannot write {}: {error}", path.display())))
}

/// The scenario's text. Its target needs no server, so that it can be tried at once.
fn scenario(log: &Path, fit: &Fit, requests: u32, seed: u64) -> String {
    let name = log.file_stem().map_or("log".into(), |stem| stem.to_string_lossy());
    let plain: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
    let range = |key: &str, table: &QuantileTable| match table.values[10] {
        longest if longest > DEFAULT_LONGEST => format!("{key} = [1, {:.0}]\n", longest.ceil()),
        _ => String::new(),
    };
    let side = |table: &QuantileTable| {
        let values: Vec<String> = table.values.iter().map(f64::to_string).collect();
        format!("{{ distribution = \"quantiles\", values = [{}] }}", values.join(", "))
    };
    let arrivals = match &fit.arrivals {
        None => "{ process = \"poisson\", load = 0.7 }   # the log has no times".to_string(),
        Some(found) => {
            let rate = rounded(found.rate_rps);
            match found.process {
                Process::Poisson => format!("{{ process = \"poisson\", rate = {rate} }}"),
                Process::Constant => format!("{{ process = \"constant\", rate = {rate} }}"),
                Process::Gamma { cv } => {
                    format!("{{ process = \"gamma\", rate = {rate}, cv = {} }}", rounded(cv))
                }
            }
        }
    };
    let left_out: String = fit
        .arrivals
        .iter()
        .flat_map(|found| &found.left_out)
        .map(|sentence| format!("# Left out: {sentence}.\n"))
        .collect();
    format!(
        r#"# Traffic fitted to a request log by llmlab fit.
name = {name}
seed = {seed}

[model]
source = "spec:llama-3.1-8b"        # yours here; simulated targets need only its shape

[workload]
requests = {requests}
arrivals = {arrivals}
{left_out}{input_range}{output_range}
# Tokens at probabilities 0, .01, .05, .10, .25, .50, .75, .90, .95, .99, 1.
[workload.lengths]
input = {input}
output = {output}
rank_correlation = {correlation}

[[target]]                          # or endpoint = {{ url = "http://127.0.0.1:8000" }}, command = {{ ... }}, engine = {{ ... }}
name = "h100"
simulate = {{ hardware = "h100-sxm", policy = "vllm" }}
"#,
        name = toml_text(&format!("{plain}-traffic")),
        input_range = range("input_range", &fit.input),
        output_range = range("output_range", &fit.output),
        input = side(&fit.input),
        output = side(&fit.output),
        correlation = (fit.rank_correlation * 1000.0).round() / 1000.0,
    )
}

/// A TOML string; JSON's escapes are a part of TOML's.
fn toml_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// To four digits that count.
fn rounded(number: f64) -> f64 {
    format!("{number:.3e}").parse().unwrap_or(number)
}

fn summary(path: &Path, log: &Log, fit: &Fit, drawn: &[RequestShape]) -> String {
    let mut words = String::new();
    let rows = &log.rows;
    let _ = write!(words, "{}: {} requests", path.display(), rows.len());
    if let Some(span) = rows.last().and_then(|row| row.arrival_s) {
        let _ = write!(words, " over {span:.1} s");
    }
    if log.skipped > 0 {
        let _ = write!(words, "; {} without tokens left out", log.skipped);
    }
    let _ = writeln!(words, "\n\n{:<15}{:>28}{:>28}{:>13}", "", "log", "generated", "KS distance");
    let of = |pick: fn(&TraceRow) -> u32| rows.iter().map(|row| f64::from(pick(row))).collect::<Vec<_>>();
    let by = |pick: fn(&RequestShape) -> u32| drawn.iter().map(|r| f64::from(pick(r))).collect::<Vec<_>>();
    let (input, output) = (of(|row| row.input_tokens), of(|row| row.output_tokens));
    let (drawn_input, drawn_output) = (by(|r| r.prompt_tokens), by(|r| r.max_tokens));
    let _ = writeln!(words, "{}", line("input tokens", &input, &drawn_input));
    let _ = writeln!(words, "{}", line("output tokens", &output, &drawn_output));
    if let Some(arrivals) = &fit.arrivals {
        let at: Vec<f64> = rows.iter().filter_map(|row| row.arrival_s).collect();
        let drawn_at: Vec<f64> = drawn.iter().map(|r| r.at.as_secs_f64()).collect();
        let ms = |times: &[f64]| times.windows(2).map(|pair| (pair[1] - pair[0]) * 1e3).collect::<Vec<_>>();
        let _ = writeln!(words, "{}", line("gaps, ms", &ms(&at), &ms(&drawn_at)));
        let process = match arrivals.process {
            Process::Poisson => "Poisson".to_string(),
            Process::Constant => "evenly spaced".to_string(),
            Process::Gamma { cv } => format!("gamma with cv {}", rounded(cv)),
        };
        let _ = writeln!(words, "\narrivals: {process} at {} requests/s", rounded(arrivals.rate_rps));
    } else {
        let _ = writeln!(words, "\narrivals: the log has no times; the scenario asks for 70 % of saturation");
    }
    let _ = writeln!(
        words,
        "rank correlation of input and output: {:.2}, generated {:.2}",
        fit.rank_correlation,
        rank_correlation(&drawn_input, &drawn_output)
    );
    for sentence in fit.arrivals.iter().flat_map(|arrivals| &arrivals.left_out) {
        let _ = writeln!(words, "left out: {sentence}");
    }
    words.push_str(
        "\nCells are mean, p50, p99. A KS distance of 0 is the same distribution, 1 one without overlap.\n",
    );
    words
}

/// Both sides of one quantity as mean, median and 99th percentile.
fn line(name: &str, log: &[f64], drawn: &[f64]) -> String {
    let cell = |values: &[f64]| {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at =
            |p: f64| sorted.get((p * (sorted.len() - 1) as f64).round() as usize).copied().unwrap_or(0.0);
        let mean = sorted.iter().sum::<f64>() / sorted.len().max(1) as f64;
        format!("{mean:.1} / {:.0} / {:.0}", at(0.5), at(0.99))
    };
    format!("{name:<15}{:>28}{:>28}{:>13.3}", cell(log), cell(drawn), ks_distance(log, drawn))
}
