//! What a request pays around its steps: the real server under the real load generator, its step log beside the client's
//! records, both on one clock.

use std::collections::HashMap;
use std::time::Duration;

use llmlab_loadgen::{
    Arrivals, Endpoint, LengthDist, Lengths, Prefixes, PromptStyle, Protocol, Silent, Timeouts,
    WorkloadConfig, drive, generate,
};
use llmlab_results::record::RequestRecord;
use llmlab_results::step::StepRow;
use llmlab_runtime::RuntimeConfig;
use llmlab_sim::Overhead;
use llmlab_sim::fit::Fitted;
use llmlab_sim::shape::logged;
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;
use crate::leftovers::Folder;
use crate::target::{EngineLaunch, EngineProcess};

/// Users at the same time, and requests, of each part. One user shows a request's own path, more show what tokens cost.
const PARTS: [(u32, u64); 3] = [(1, 60), (4, 120), (12, 240)];
/// Points of a line at most: all pairs of them are looked at.
const MOST_POINTS: usize = 600;

pub struct Served {
    /// A step takes this many times as long in the server as in the executor alone, and this much more: cores and caches are
    /// shared, and planning is part of the step.
    pub stretch: f64,
    pub planning_s: f64,
    pub overhead: Overhead,
}

/// Records of one part on the machine's clock.
struct Part {
    start_monotonic_ns: u64,
    users: u32,
    records: Vec<RequestRecord>,
    steps: Vec<StepRow>,
}

pub fn measure(
    source: &str,
    model_seed: u64,
    config: &RuntimeConfig,
    fitted: &Fitted,
) -> Result<Served, Failure> {
    let mut parts = Vec::new();
    for (users, requests) in PARTS {
        parts.push(part(source, model_seed, config, users, requests)?);
    }
    overhead(&parts, fitted)
        .ok_or_else(|| Failure::target("the server's step log and the client's records do not fit together"))
}

fn part(
    source: &str,
    model_seed: u64,
    config: &RuntimeConfig,
    users: u32,
    requests: u64,
) -> Result<Part, Failure> {
    let knobs = [
        format!("weights={}", config.weights),
        format!("kv={}", config.kv),
        format!("threads={}", config.threads),
        "enable_prefix_caching=false".to_string(),
    ];
    let launch = EngineLaunch {
        model: source.to_string(),
        model_seed,
        max_model_len: config.max_model_len,
        threads: config.threads,
        record: false,
        engine: llmlab_scenarios::engine_from_knobs("vllm", &knobs).map_err(Failure::usage)?,
        lora_modules: Vec::new(),
    };
    let folder = Folder::create()?;
    let EngineProcess { process, url } = EngineProcess::start(&launch, folder.path())?;
    let endpoint = Endpoint {
        base_url: url,
        protocol: Protocol::OpenAiCompletions,
        model: "llmlab".into(),
        api_key: None,
        ca_file: None,
        timeouts: Timeouts::default(),
    };
    let room = config.max_model_len / 2;
    let workload = generate(&WorkloadConfig {
        seed: u64::from(users),
        requests,
        lengths: Lengths::Independent {
            input: LengthDist::Uniform { min: 8, max: 256 },
            output: LengthDist::Uniform { min: 8, max: 24 },
        },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, room.max(1)),
        output_range: (1, room.max(1)),
        arrivals: Arrivals::Closed { users, think_time: Duration::ZERO },
        prompts: PromptStyle::TokenIds { first: 4, end: 256 },
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: None,
        abandonment: None,
    })
    .map_err(Failure::internal)?;
    let mut records = Vec::new();
    let driven = drive(&endpoint, &workload, &mut records, &Silent, &CancellationToken::new())
        .map_err(Failure::target)?;
    process.stop()?;
    let log = std::fs::read_to_string(folder.path().join("steps.jsonl")).map_err(Failure::internal)?;
    let steps = log.lines().map(serde_json::from_str).collect::<Result<_, _>>().map_err(Failure::internal)?;
    Ok(Part { start_monotonic_ns: driven.start_monotonic_ns, users, records, steps })
}

/// `None` when there is nothing to go by.
fn overhead(parts: &[Part], fitted: &Fitted) -> Option<Served> {
    let (mut before, mut delivery, mut between, mut steps) = (vec![], vec![], vec![], vec![]);
    for part in parts {
        for step in &part.steps {
            let told = fitted.seconds(&shapes(step));
            steps.push((told, step.elapsed_ns as f64 / 1e9));
        }
        between.extend(gaps(&part.steps));
        if part.users == 1 {
            let (sent, delivered) = paths(part);
            before.extend(sent);
            delivery.extend(delivered);
        }
    }
    let (planning_s, stretch) = line(steps);
    if before.len() < 10 || between.len() < 10 || stretch <= 0.0 {
        return None;
    }
    let (request_s, prompt_token_s) = line(before);
    let (step_s, step_token_s) = line(between);
    let delivery_s = median(delivery).max(0.0);
    let overhead = Overhead { request_s, prompt_token_s, step_s, step_token_s, delivery_s, ..Overhead::NONE };
    Some(Served { stretch, planning_s, overhead })
}

/// The log does not say who samples. With one token it is a decode or the end of a prompt; a chunk of more is the end of a
/// prompt here, because the step budget holds any prompt of this workload several times.
fn shapes(step: &StepRow) -> Vec<llmlab_sim::SeqShape> {
    step.seqs.iter().map(|seq| logged(seq, seq.new_tokens > 0)).collect()
}

/// (tokens emitted, seconds until the next step) where the next step goes on with a sequence of this one, so that nobody
/// waited for a request.
fn gaps(steps: &[StepRow]) -> Vec<(f64, f64)> {
    let pairs = steps
        .windows(2)
        .filter(|pair| pair[0].seqs.iter().any(|seq| pair[1].seqs.iter().any(|next| next.id == seq.id)));
    pairs
        .map(|pair| {
            let end = pair[0].start_monotonic_ns + pair[0].elapsed_ns;
            (pair[0].seqs.len() as f64, pair[1].start_monotonic_ns.saturating_sub(end) as f64 / 1e9)
        })
        .collect()
}

/// With one user requests follow each other: (prompt tokens, seconds from sending to the first step), and seconds from the end
/// of each step to its token's arrival.
fn paths(part: &Part) -> (Vec<(f64, f64)>, Vec<f64>) {
    let mut steps_of: HashMap<u64, Vec<&StepRow>> = HashMap::new();
    for step in &part.steps {
        step.seqs.iter().for_each(|seq| steps_of.entry(seq.id).or_default().push(step));
    }
    let mut ids: Vec<u64> = steps_of.keys().copied().collect();
    // The server numbers requests as they come.
    ids.sort();
    let (mut before, mut delivered) = (Vec::new(), Vec::new());
    for (record, id) in part.records.iter().zip(ids) {
        let steps = &steps_of[&id];
        let (Some(sent_ns), true) = (record.sent_ns, record.outcome.is_success()) else { continue };
        let sent = part.start_monotonic_ns + sent_ns;
        let wait = steps[0].start_monotonic_ns.saturating_sub(sent) as f64 / 1e9;
        before.push((f64::from(record.prompt_tokens), wait));
        // The last steps emitted one token each; those before computed the prompt.
        let emitting = &steps[steps.len().saturating_sub(record.events.len())..];
        for (event, step) in record.events.iter().zip(emitting) {
            let end = step.start_monotonic_ns + step.elapsed_ns;
            delivered.push((part.start_monotonic_ns + event.at_ns).saturating_sub(end) as f64 / 1e9);
        }
    }
    (before, delivered)
}

/// The middle of the values; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// (constant, slope) by the median of all slopes between two points (Theil 1950, Sen 1968): a stalled thread in one point out
/// of ten does not move it. Neither is negative.
fn line(mut points: Vec<(f64, f64)>) -> (f64, f64) {
    let every = points.len().div_ceil(MOST_POINTS).max(1);
    points = points.into_iter().step_by(every).collect();
    let mut slopes = Vec::new();
    for (at, (x, y)) in points.iter().enumerate() {
        let others = points[at + 1..].iter().filter(|(other, _)| other != x);
        slopes.extend(others.map(|(other_x, other_y)| (other_y - y) / (other_x - x)));
    }
    let slope = median(slopes).max(0.0);
    let constant = median(points.iter().map(|(x, y)| y - slope * x).collect());
    (constant.max(0.0), slope)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_among_outliers() {
        let mut points: Vec<(f64, f64)> = (0..40).map(|x| (f64::from(x), 5.0 + 0.5 * f64::from(x))).collect();
        points[7].1 = 900.0;
        points[30].1 = 400.0;
        let (constant, slope) = line(points);
        assert!((constant - 5.0).abs() < 1e-9 && (slope - 0.5).abs() < 1e-9, "{constant} {slope}");
        assert_eq!(line(vec![(1.0, 3.0), (1.0, 4.0), (1.0, 9.0)]), (4.0, 0.0));
    }

    #[test]
    fn the_median_of_even_and_odd_numbers() {
        assert_eq!((median(vec![3.0, 1.0, 2.0]), median(vec![4.0, 1.0]), median(vec![])), (2.0, 2.5, 0.0));
    }
}
