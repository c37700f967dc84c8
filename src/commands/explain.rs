//! `llmlab run --explain`: the resolved plan in words and numbers, without running it.

use llmlab_loadgen::Workload;
use llmlab_results::manifest::SessionFacts;
use llmlab_scenarios::spec::{
    ArrivalSpec, CommandSpec, DayCurve, DwellSpec, LengthDist, LengthSpec, PatienceSpec, PhaseSpec,
    PopularitySpec, PrefixSpec, RateSpec, SweepPoint, TimeDist, TurnCount, WorkloadSpec,
};

use super::run::{How, Plan, Planned, PlannedTarget, ShardPlan};
use crate::command::shell_words;
use crate::exit::{Code, Failure};
use crate::host;
use crate::target::server_url;
use crate::text::{bytes, count};

/// Time to start and stop an engine child, seconds, for the estimate.
const TURNAROUND_S: f64 = 0.8;
/// Share of the roofline a mixed run reaches, for the estimate; the run itself measures the true one.
const EXPECTED_EFFICIENCY: f64 = 0.35;

pub fn explain(planned: &Planned) -> Result<Code, Failure> {
    match planned {
        Planned::Run(plan) => explain_run(plan)?,
        Planned::Sweep { name, cells } => explain_sweep(name, cells)?,
    }
    println!("\nnothing was run; drop --explain to run it");
    Ok(Code::Pass)
}

/// The first cell in full, then what tells the others from it.
fn explain_sweep(name: &str, cells: &[(SweepPoint, Plan)]) -> Result<(), Failure> {
    let Some((_, first)) = cells.first() else { return Ok(()) };
    let (targets, repeats) = (first.targets.len(), first.spec.repeats as usize);
    let trials = cells.len() * targets * repeats;
    println!(
        "{name}: {} cells x {targets} target(s) x {repeats} repeat(s) = {trials} trials; the first cell:\n",
        cells.len()
    );
    explain_run(first)?;
    println!();
    for (i, (point, plan)) in cells.iter().enumerate() {
        let workload = plan.workload(plan_rate(plan).unwrap_or(1.0))?;
        println!("cell {:<4} {point}: {}; {}", i + 1, lengths_in_words(plan), arrivals_in_words(plan));
        println!("          {}", workload_in_words(plan, &workload));
    }
    Ok(())
}

fn workload_in_words(plan: &Plan, workload: &Workload) -> String {
    let mut words = format!(
        "{} requests a trial, the first {} warm-up; {} prompt + {} output tokens",
        workload.requests.len(),
        plan.warmup_requests,
        count(workload.prompt_tokens_total() as f64),
        count(workload.output_tokens_total() as f64)
    );
    if let Some(SessionFacts { sessions, ended_early }) = workload.sessions {
        words.push_str(&format!("; {sessions} sessions, {ended_early} of them cut short by the context"));
    }
    if let Some(share) = workload.prefix_hit_rate {
        let share = share * 100.0;
        words.push_str(&format!("; a prefix cache of any size would find {share:.1} % of the prompt tokens"));
    }
    words
}

fn explain_run(plan: &Plan) -> Result<(), Failure> {
    // Arrival times do not change what is drawn, so any rate shows the requests.
    let workload = plan.workload(plan_rate(plan).unwrap_or(1.0))?;
    println!("{}  (seed {})", plan.spec.name, plan.spec.seed);
    println!("\nmodel     {}", plan.model.source);
    if plan.model.parameters > 0 {
        println!(
            "          {} parameters, {} layers, vocabulary {}, up to {} tokens",
            count(plan.model.parameters as f64),
            plan.model.layers,
            plan.model.vocab_size,
            plan.model.max_model_len
        );
    }
    match &plan.spec.journey {
        Some(journey) => crate::journey::explain(journey),
        None => println!("workload  {}", lengths_in_words(plan)),
    }
    if let LengthSpec::Quantiles { source, .. } = &plan.spec.workload.lengths {
        println!("          {source}");
    }
    if plan.spec.journey.is_none() {
        println!("          {}", workload_in_words(plan, &workload));
    }
    println!("arrivals  {}", arrivals_in_words(plan));
    if let Some(ShardPlan { shard, start_at }) = &plan.shard {
        let part = shard.of(&workload).map_err(|error| Failure::bad_input(format!("--shard: {error}")))?;
        println!(
            "shard     {shard}: {} of these requests, from {}",
            part.requests.len(),
            host::rfc3339(*start_at)
        );
    }
    for target in &plan.targets {
        println!("target    {}: {}", target.facts.name, target.facts.description);
        if let How::Engine { resolved, .. } = &target.how {
            println!(
                "          memory {}: weights {}, KV pool {} ({} per token)",
                bytes(resolved.footprint.stored_bytes + resolved.kv_pool_bytes()),
                bytes(resolved.footprint.stored_bytes),
                bytes(resolved.kv_pool_bytes()),
                bytes(target.facts.kv_bytes_per_token)
            );
        }
        if let How::Command(command) = &target.how {
            explain_command(command);
        }
        if let How::Simulate(resolved) = &target.how {
            println!("          memory {}", resolved.memory_words());
        }
    }
    for (metric, limits) in [
        ("TTFT", &plan.spec.slo.ttft),
        ("TPOT", &plan.spec.slo.tpot),
        ("ITL", &plan.spec.slo.itl),
        ("E2E", &plan.spec.slo.e2e),
    ] {
        for (percentile, limit) in limits {
            println!("SLO       {metric} p{percentile} within {limit:?}");
        }
    }
    if let Some(find) = &plan.spec.find {
        println!(
            "find      the highest {} at which each target meets the SLO, to {:.1} %, with at most {} trials of a value,\n          \
             after a short ramp that finds saturation",
            find.searched.name(),
            find.tolerance * 100.0,
            plan.spec.repeats
        );
        return Ok(());
    }
    println!(
        "order     {} repeat(s) of each target, interleaved{}",
        plan.spec.repeats,
        if plan.needs_probe() { ", after a short ramp that finds saturation" } else { "" }
    );
    match expected_seconds(plan, &workload) {
        Some(seconds) => println!(
            "expected  about {seconds:.0} s in all, from this machine's roofline; a guess within a factor of two"
        ),
        None if plan.all_simulated() => println!("expected  virtual time: nothing is waited for"),
        None => println!("expected  duration unknown: it depends on the server and its users"),
    }
    Ok(())
}

fn explain_command(command: &CommandSpec) {
    let variables = command
        .env
        .iter()
        .map(|(name, value)| format!("{name}={} ", shell_words(std::slice::from_ref(value))));
    println!("          runs {}{}", variables.collect::<String>(), shell_words(&command.run));
    println!(
        "          in {}, ready when {} answers, within {:?}; stopped after each trial",
        command.working_dir,
        server_url(&command.endpoint.url, &command.health_path),
        command.ready_timeout
    );
}

/// The fixed rate, if the scenario has one.
fn plan_rate(plan: &Plan) -> Option<f64> {
    match plan.spec.workload.arrivals.rate()? {
        RateSpec::PerSecond { rps } => Some(*rps),
        RateSpec::Load { .. } | RateSpec::Sought => None,
    }
}

/// Work divided by what the machine can do, per trial, or the schedule's own length when that is longer.
fn expected_seconds(plan: &Plan, workload: &Workload) -> Option<f64> {
    if plan.spec.journey.is_some() {
        return None;
    }
    let tokens = (workload.prompt_tokens_total() + workload.output_tokens_total()) as f64;
    let schedule_s = plan_rate(plan).map_or(0.0, |rps| workload.requests.len() as f64 / rps);
    let mut total = 0.0;
    for target in &plan.targets {
        let busy_s = compute_seconds(plan, target, tokens)?;
        let trial_s = match plan.load_share() {
            Some(share) => busy_s / share,
            None => busy_s.max(schedule_s),
        };
        let probe_s = if plan.needs_probe() { 8.0 } else { 0.0 };
        total += probe_s + f64::from(plan.spec.repeats) * (trial_s + TURNAROUND_S);
    }
    Some(total)
}

fn compute_seconds(plan: &Plan, target: &PlannedTarget, tokens: f64) -> Option<f64> {
    let How::Engine { resolved, .. } = &target.how else { return None };
    let roofline = host::roofline(resolved.runtime.threads as u32);
    let (_, peak) = llmlab_metrics::roofline::peak(&roofline, target.facts.weight_format.as_deref());
    Some(tokens * plan.model.linear_flops_per_token / (peak * EXPECTED_EFFICIENCY))
}

pub fn lengths_in_words(plan: &Plan) -> String {
    if let Some(journey) = &plan.spec.journey {
        return crate::journey::in_words(journey);
    }
    let w = &plan.spec.workload;
    let scaled = if w.scale_input == 1.0 && w.scale_output == 1.0 {
        String::new()
    } else {
        format!(", input x {}, output x {}", w.scale_input, w.scale_output)
    };
    let lengths = match &w.lengths {
        LengthSpec::Quantiles { name, .. } => format!("{name}{scaled}"),
        LengthSpec::Distributions { input, output } => {
            format!("input {}, output {}{scaled}", dist(input), dist(output))
        }
        LengthSpec::Trace { path, rows } => format!("{} rows of {path}{scaled}", rows.len()),
    };
    format!("{lengths}{}", shared_in_words(w))
}

/// ", each with one of 8 prefixes of 512 tokens (zipf 1), for one of 8 adapters (uniform)".
fn shared_in_words(workload: &WorkloadSpec) -> String {
    let popularity = |popularity: &PopularitySpec| match popularity {
        PopularitySpec::Uniform => "uniform".to_string(),
        PopularitySpec::Zipf { exponent } => format!("zipf {exponent}"),
    };
    let mut words = behaviour_in_words(workload);
    match (&workload.prefixes, workload.shared_prefix_tokens) {
        (Some(PrefixSpec::Each { count, tokens, popularity: shares }), _) => words.push_str(&format!(
            ", each with one of {count} prefixes of {tokens} tokens ({})",
            popularity(shares)
        )),
        (Some(PrefixSpec::Tree { block_tokens, depth, branching, hit_rate, popularity: shares }), _) => {
            let rate = hit_rate.map_or(String::new(), |rate| format!(" for a hit rate of {rate}"));
            words.push_str(&format!(
                ", on a tree of {block_tokens}-token blocks, {branching} branches, {depth} deep ({}){rate}",
                popularity(shares)
            ));
        }
        (None, 0) => {}
        (None, tokens) => words.push_str(&format!(", the first {tokens} tokens shared by all")),
    }
    if let Some(adapters) = &workload.adapters {
        let (count, shares) = (adapters.modules.len(), popularity(&adapters.popularity));
        words.push_str(&format!(", for one of {count} adapters ({shares})"));
    }
    words
}

/// ", in sessions of 4 turns with 2s between, 10 % abandoned after 3s".
fn behaviour_in_words(workload: &WorkloadSpec) -> String {
    let mut words = String::new();
    if let Some(sessions) = &workload.sessions {
        let turns = match sessions.turns {
            TurnCount::Fixed { turns } => format!("{turns} turns"),
            TurnCount::Uniform { min, max } => format!("{min} to {max} turns"),
            TurnCount::Geometric { mean } => format!("{mean} turns on average"),
        };
        words.push_str(&format!(
            " per turn, in sessions of {turns}, think time {}",
            time_in_words(sessions.think_time)
        ));
    }
    if let Some(abandon) = &workload.abandon {
        let patience = match &abandon.patience {
            PatienceSpec::Tokens { tokens } => dist(tokens),
            PatienceSpec::Time { time } => time_in_words(*time),
        };
        words.push_str(&format!(", {:.0} % abandoned after {patience}", abandon.share * 100.0));
    }
    words
}

fn time_in_words(time: TimeDist) -> String {
    match time {
        TimeDist::Fixed { time } => format!("{time:?}"),
        TimeDist::Exponential { mean } => format!("exponential with mean {mean:?}"),
        TimeDist::Lognormal { median, p95 } => format!("lognormal, median {median:?} and p95 {p95:?}"),
    }
}

fn dist(d: &LengthDist) -> String {
    match d {
        LengthDist::Fixed { tokens } => format!("{tokens} tokens"),
        LengthDist::Uniform { min, max } => format!("{min} to {max} tokens"),
        LengthDist::Lognormal { median, p95 } => format!("lognormal, median {median} and p95 {p95} tokens"),
    }
}

pub fn arrivals_in_words(plan: &Plan) -> String {
    if let Some(journey) = &plan.spec.journey {
        return crate::journey::arrivals_in_words(journey);
    }
    let what = if plan.spec.workload.sessions.is_some() { "sessions" } else { "requests" };
    let rate = |rate: &RateSpec| match rate {
        RateSpec::PerSecond { rps } => format!("{rps} {what}/s"),
        RateSpec::Load { share } => format!("{:.0} % of the lowest measured saturation", share * 100.0),
        RateSpec::Sought => "the rate that is searched".into(),
    };
    match &plan.spec.workload.arrivals {
        ArrivalSpec::Poisson { rate: r } => format!("Poisson at {}", rate(r)),
        ArrivalSpec::Gamma { rate: r, cv } => format!("gamma with cv {cv} at {}", rate(r)),
        ArrivalSpec::Constant { rate: r } => format!("evenly spaced at {}", rate(r)),
        ArrivalSpec::Closed { users, think_time } => {
            let users = match &plan.spec.find {
                Some(_) => "as many users as are searched".to_string(),
                None => format!("{users} users"),
            };
            let pause = if think_time.is_zero() { "no pause".into() } else { format!("{think_time:?}") };
            format!("closed loop, {users}, {pause} between {what}")
        }
        ArrivalSpec::Trace { speed, jitter } if jitter.is_zero() => {
            format!("as in the trace, {speed} x faster")
        }
        ArrivalSpec::Trace { speed, jitter } => {
            format!("as in the trace, {speed} x faster, each up to {jitter:?} of its time later")
        }
        ArrivalSpec::Mmpp { rate: r, factors: (calm, burst), dwell } => {
            let lasting = match dwell {
                DwellSpec::Time { calm, burst } => format!("{calm:?} and {burst:?}"),
                DwellSpec::MeanGaps { calm, burst } => format!("{calm:.1} and {burst:.1} mean gaps"),
            };
            format!("MMPP at {}, {calm:.3} and {burst:.3} times that for {lasting} on average", rate(r))
        }
        ArrivalSpec::Diurnal { rate: r, curve } => match curve {
            DayCurve::Sine { amplitude, period, peak } => {
                format!(
                    "Poisson at {} +- {:.0} %, highest at {peak:?} of {period:?}",
                    rate(r),
                    amplitude * 100.0
                )
            }
            DayCurve::Parts { rates, period } => {
                format!("Poisson at {} on average, in {} parts of {period:?}", rate(r), rates.len())
            }
        },
        ArrivalSpec::Phases { rate: r, phases } => {
            let phases: Vec<String> = phases.iter().map(phase_in_words).collect();
            match r {
                RateSpec::PerSecond { rps } if *rps == 1.0 => {
                    format!("Poisson in phases, requests/s: {}", phases.join(", "))
                }
                _ => format!("Poisson in phases, times {}: {}", rate(r), phases.join(", ")),
            }
        }
        ArrivalSpec::Clients { rate: r, mix } => {
            format!("{} clients ({}) at {} together", mix.clients, mix.name, rate(r))
        }
    }
}

/// "ramp 1 to 10 for 30s"
fn phase_in_words(phase: &PhaseSpec) -> String {
    let PhaseSpec { name, from, to, duration } = phase;
    let name = name.as_ref().map_or(String::new(), |name| format!("{name} "));
    match from == to {
        true => format!("{name}{from} for {duration:?}"),
        false => format!("{name}{from} to {to} for {duration:?}"),
    }
}
