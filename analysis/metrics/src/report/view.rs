//! The analysis as words and table cells, shared by terminal, Markdown and HTML. Text here is not yet escaped.

use llmlab_results::calibration::ClientCalibration;
use llmlab_results::manifest::{HostRoofline, RunStatus, SessionFacts, TargetKind};
use llmlab_results::prompt_fit::PromptFitMethod;
use serde::Serialize;

use crate::analysis::{Analysis, TargetAnalysis, TrialAnalysis};
use crate::compare::{Difference, Spread, verdict_parts};
use crate::metric::Metric;
use crate::rates::outcome_words;
use crate::report::format::{duration, percent, range, si, value};
use crate::report::journey::{self, JourneyView, journeys};
use crate::report::server_side;
use crate::report::turns::turn_rows;

#[derive(Debug, Clone, Serialize)]
pub struct View {
    pub name: String,
    pub trusted: bool,
    /// TRUSTED, UNTRUSTED, or SIMULATED where no target was real.
    pub badge: &'static str,
    /// Why not, one line per trial and cause; one reassuring line when trusted.
    pub trust: Vec<String>,
    /// The client's own error, or why it is not known.
    pub client_error: Option<String>,
    pub facts: Vec<(String, String)>,
    pub targets: Vec<TargetView>,
    pub verdicts: Vec<Verdict>,
    /// What the intervals in the verdict are.
    pub verdict_note: String,
    pub table: Vec<Row>,
    /// By place in a conversation.
    pub turns: Vec<Row>,
    /// Some percentile holds failed requests at infinity.
    pub has_failures: bool,
    pub slo: Vec<Row>,
    /// What the server and its machine said of themselves; empty where nothing did.
    pub server_side: Vec<Row>,
    pub errors: Vec<Vec<String>>,
    pub journeys: Vec<JourneyView>,
    pub journey_note: &'static str,
    pub goose_note: &'static str,
    pub roofline: Vec<RooflineView>,
    pub roofline_host: Option<String>,
    pub token_counts: Vec<(String, String)>,
    /// How long prompts were, and how that was brought about.
    pub prompt_lengths: Vec<(String, String)>,
    pub method: Vec<(String, String)>,
    pub repeat_command: String,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct TargetView {
    pub name: String,
    /// Position in the list of targets; colours go by it.
    pub slot: usize,
    pub kind: String,
    pub description: String,
    pub baseline: bool,
    pub trusted: bool,
}

/// One target against the baseline.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    pub target: String,
    pub slot: usize,
    pub parts: Vec<VerdictPart>,
}

#[derive(Debug, Clone, Serialize)]
pub struct VerdictPart {
    pub text: String,
    /// "good", "bad" or "even".
    pub tone: &'static str,
}

#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub label: String,
    /// Blank line or rule before this row.
    pub group_start: bool,
    /// Among the rows of the terminal table.
    pub brief: bool,
    pub cells: Vec<Cell>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Cell {
    pub value: String,
    /// "[low, high]" over repeats, empty with one.
    pub range: String,
    /// "-31 % [-38, -24]" against the baseline when clear, else empty.
    pub delta: String,
    pub tone: &'static str,
}

impl Cell {
    /// Neither good nor bad.
    pub fn even() -> Cell {
        Cell { tone: "even", ..Cell::default() }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct RooflineView {
    pub target: String,
    pub slot: usize,
    /// 0..=100
    pub percent: f64,
    pub words: String,
    pub brief: String,
}

pub fn view(a: &Analysis) -> View {
    View {
        name: a.name.clone(),
        trusted: a.trusted,
        badge: match a.trusted {
            true if all_simulated(a) => "SIMULATED",
            true => "TRUSTED",
            false => "UNTRUSTED",
        },
        trust: trust_lines(a),
        client_error: a.client_calibration.as_ref().map(client_error),
        facts: facts(a),
        targets: a.targets.iter().enumerate().map(|(slot, t)| target_view(a, slot, t)).collect(),
        verdicts: verdicts(a),
        verdict_note: match a.comparisons.iter().map(|c| c.pairs).max() {
            None => String::new(),
            Some(1) => "one repeat: no interval, differences may be noise".into(),
            Some(n) => format!("{n} paired repeats, 95 % intervals"),
        },
        table: table(a),
        turns: turn_rows(a),
        has_failures: a.trials.iter().any(|t| t.requests.failed > 0),
        slo: slo_rows(a),
        server_side: server_side::rows(a),
        errors: error_rows(a),
        journeys: journeys(a),
        journey_note: journey::NOTE,
        goose_note: journey::GOOSE_NOTE,
        roofline: roofline_views(a),
        roofline_host: a.setting.roofline.as_ref().map(roofline_host),
        token_counts: token_counts(a),
        prompt_lengths: prompt_lengths(a),
        method: method(a),
        repeat_command: shell_line(&a.setting.command_line),
        warnings: warnings(a),
    }
}

fn kind_words(kind: Option<TargetKind>) -> &'static str {
    match kind {
        Some(TargetKind::Engine) => "our engine",
        Some(TargetKind::Endpoint) => "live endpoint",
        Some(TargetKind::Command) => "started server",
        Some(TargetKind::Simulate) => "simulated",
        None => "unknown",
    }
}

fn target_view(a: &Analysis, slot: usize, t: &TargetAnalysis) -> TargetView {
    TargetView {
        name: t.name.clone(),
        slot,
        kind: kind_words(t.kind).into(),
        description: t.description.clone(),
        baseline: slot == 0 && a.targets.len() > 1,
        trusted: t.trusted,
    }
}

fn all_simulated(a: &Analysis) -> bool {
    !a.targets.is_empty() && a.targets.iter().all(|t| t.kind == Some(TargetKind::Simulate))
}

fn trust_lines(a: &Analysis) -> Vec<String> {
    if a.trials.is_empty() {
        return vec!["nothing was measured".into()];
    }
    if a.trusted && all_simulated(a) {
        return vec![
            "simulated in virtual time: no client could be late; the figures are as good as the cost model (docs/simulation.md)"
                .into(),
        ];
    }
    if a.trusted {
        let most = |f: &dyn Fn(&crate::trust::TrialTrust) -> f64| {
            a.trials.iter().map(|t| f(&t.trust)).fold(0.0, f64::max)
        };
        return vec![format!(
            "client sent within {} of schedule (p99, worst trial), used {:.0} % of a core, event loop late {} (p99), steal {:.1} %",
            duration(most(&|t| t.send_lag_p99_ns.unwrap_or(0.0))),
            most(&|t| t.client_cpu_share_of_core) * 100.0,
            duration(most(&|t| t.loop_delay_p99_ns as f64)),
            most(&|t| t.steal_share) * 100.0
        )];
    }
    let causes = a.trials.iter().flat_map(|t| {
        t.trust
            .causes
            .iter()
            .map(|c| (std::mem::discriminant(c), t.target.as_str(), format!("{}: {c}", t.dir)))
    });
    once_per_target(causes)
}

fn client_error(calibration: &ClientCalibration) -> String {
    match calibration {
        ClientCalibration::Measured(facts) => format!(
            "client error at {} {}: TTFT p99 {}, ITL p99 {} (calibrated against our timing server, load of {})",
            facts.streams,
            if facts.streams == 1 { "stream" } else { "streams" },
            duration(facts.ttft.p99_ns as f64),
            match facts.itl.samples {
                0 => "–".into(),
                _ => duration(facts.itl.p99_ns as f64),
            },
            facts.trial
        ),
        ClientCalibration::Skipped { why } => format!("client not calibrated: {why}"),
        ClientCalibration::Failed { .. } => "client not calibrated: that failed, see the notes".into(),
    }
}

fn warnings(a: &Analysis) -> Vec<String> {
    let target_of = |dir: &str| a.trials.iter().find(|t| t.dir == dir).map_or("", |t| t.target.as_str());
    let mut lines = Vec::new();
    let (of_trials, others): (Vec<_>, Vec<_>) = a.warnings.iter().partition(|w| w.trial().is_some());
    let of_trials = of_trials
        .into_iter()
        .filter_map(|w| Some((std::mem::discriminant(w), target_of(w.trial()?), w.to_string())));
    lines.extend(once_per_target(of_trials));
    lines.extend(others.into_iter().map(ToString::to_string));
    lines
}

/// Repeats of a target usually have the same trouble: the first is told, the others are counted.
fn once_per_target<'a, K: PartialEq>(messages: impl Iterator<Item = (K, &'a str, String)>) -> Vec<String> {
    let mut groups: Vec<(K, &str, String, usize)> = Vec::new();
    for (kind, target, message) in messages {
        match groups.iter_mut().find(|g| g.0 == kind && g.1 == target) {
            Some(group) => group.3 += 1,
            None => groups.push((kind, target, message, 0)),
        }
    }
    groups
        .into_iter()
        .map(|(_, _, message, more)| match more {
            0 => message,
            1 => format!("{message} (and one more trial)"),
            n => format!("{message} (and {n} more trials)"),
        })
        .collect()
}

fn facts(a: &Analysis) -> Vec<(String, String)> {
    let s = &a.setting;
    let mut facts: Vec<(String, String)> = Vec::new();
    let mut add = |key: &str, value: String| facts.push((key.into(), value));
    add("Model", s.model.clone());
    add("Workload", s.workload.clone());
    add("Arrivals", s.arrivals.clone());
    if let Some(rate) = s.rate_rps {
        let source = s.rate_source.as_ref().map(|s| format!(" ({s})")).unwrap_or_default();
        add("Rate", format!("{} requests/s{source}", crate::report::format::significant(rate)));
    }
    if let Some(sessions) = &s.sessions {
        add("Sessions", sessions_in_words(a, sessions));
    }
    if let Some(share) = s.prefix_hit_rate {
        add("Prefixes", format!("a cache of any size would find {} % of the prompt tokens", percent(share)));
    }
    add("Host", s.host.clone());
    add("Started", s.started_at.clone());
    if let Some(price) = &s.price {
        add("Price", price.clone());
    }
    facts
}

/// "40, 2 of them cut short by the context; of the answers in later prompts 12 are stand-ins".
fn sessions_in_words(a: &Analysis, sessions: &SessionFacts) -> String {
    let mut words = sessions.sessions.to_string();
    if sessions.ended_early > 0 {
        words.push_str(&format!(", {} of them cut short by the context", sessions.ended_early));
    }
    let of_trial = |trial: &TrialAnalysis| trial.turns.iter().map(|group| group.stand_ins).sum();
    let stand_ins: Vec<u64> = a.trials.iter().map(of_trial).collect();
    let (least, most) =
        (stand_ins.iter().min().copied().unwrap_or(0), stand_ins.iter().max().copied().unwrap_or(0));
    if most > 0 {
        let number = if least == most { most.to_string() } else { format!("{least} to {most}") };
        words.push_str(&format!(
            "; {number} answers in later prompts of a trial are stand-ins, not what was answered"
        ));
    }
    words
}

fn tone(favourable: Option<bool>) -> &'static str {
    match favourable {
        Some(true) => "good",
        Some(false) => "bad",
        None => "even",
    }
}

fn verdicts(a: &Analysis) -> Vec<Verdict> {
    a.comparisons
        .iter()
        .map(|c| {
            let parts = verdict_parts(&c.differences, &c.infinite)
                .into_iter()
                .map(|(text, favourable)| VerdictPart { text, tone: tone(favourable) })
                .collect();
            Verdict { target: c.target.clone(), slot: slot(a, &c.target), parts }
        })
        .collect()
}

fn slot(a: &Analysis, target: &str) -> usize {
    a.targets.iter().position(|t| t.name == target).unwrap_or(0)
}

/// Rows for which at least one target has a value.
fn table(a: &Analysis) -> Vec<Row> {
    let group = |m: Metric| match m {
        Metric::TtftP50 | Metric::TtftP95 | Metric::TtftP99 => 0,
        Metric::TpotP50 | Metric::TpotP95 | Metric::TpotP99 => 1,
        Metric::ItlP50 | Metric::ItlP95 | Metric::ItlP99 => 2,
        Metric::E2eP50 | Metric::E2eP95 | Metric::E2eP99 => 3,
        Metric::QueueP50 | Metric::QueueP95 => 4,
        Metric::RequestsPerS
        | Metric::OutputTokensPerS
        | Metric::InputTokensPerS
        | Metric::TotalTokensPerS
        | Metric::Goodput
        | Metric::SloShare
        | Metric::FailedShare
        | Metric::AbandonedShare => 5,
        Metric::CostOutput | Metric::CostTotal => 7,
        _ => 6,
    };
    let mut rows = Vec::new();
    let mut last = None;
    for metric in Metric::ALL {
        let known = |s: &Spread| s.n + s.infinite > 0;
        if !a.targets.iter().any(|t| t.metric(metric).is_some_and(known)) {
            continue;
        }
        let cells = a.targets.iter().map(|t| cell(a, t, metric)).collect();
        let group_start = last.is_some_and(|g| g != group(metric));
        last = Some(group(metric));
        // These are the exception, and the whole story where they happen.
        let exception = matches!(
            metric,
            Metric::AbandonedShare
                | Metric::PrefixHitShare
                | Metric::PaddingShare
                | Metric::InternalFragmentation
                | Metric::ExternalFragmentation
                | Metric::RecomputedShare
                | Metric::DraftAcceptanceRate
                | Metric::AcceptanceLength
        );
        let happens =
            || a.targets.iter().any(|t| t.metric(metric).and_then(|s| s.median).is_some_and(|m| m >= 0.005));
        let reads_only = || a.trials.iter().any(|t| t.rates.is_some_and(|rates| !rates.generates));
        let brief = (exception && happens())
            || (metric == Metric::InputTokensPerS && reads_only())
            || Metric::BRIEF.contains(&metric);
        rows.push(Row { label: metric.label().into(), group_start, brief, cells });
    }
    rows
}

fn cell(a: &Analysis, target: &TargetAnalysis, metric: Metric) -> Cell {
    let Some(s) = target.metric(metric).filter(|s| s.n + s.infinite > 0) else {
        return Cell { value: "–".into(), tone: "even", ..Cell::default() };
    };
    let d = a
        .comparisons
        .iter()
        .find(|c| c.target == target.name)
        .and_then(|c| c.differences.iter().find(|d| d.metric == metric));
    let delta = d.filter(|d| d.clear()).map(delta_words).unwrap_or_default();
    let Some(median) = s.median else {
        return Cell { value: "∞".into(), tone: "bad", ..Cell::default() };
    };
    let range = match (s.n + s.infinite > 1, s.min, s.max) {
        // A range without width says nothing that the value does not.
        (true, Some(low), Some(high)) if high > low => range(median, low, high, metric.unit()),
        (true, _, None) => "[…, ∞]".into(),
        _ => String::new(),
    };
    Cell { value: value(median, metric.unit()), range, delta, tone: tone(d.and_then(Difference::favourable)) }
}

fn delta_words(d: &Difference) -> String {
    if d.ratio >= 2.0 { format!("{:.1}x", d.ratio) } else { format!("{:+.0} %", (d.ratio - 1.0) * 100.0) }
}

fn slo_rows(a: &Analysis) -> Vec<Row> {
    let Some(first) = a.targets.iter().find(|t| !t.slo.is_empty()) else { return Vec::new() };
    first
        .slo
        .iter()
        .enumerate()
        .map(|(i, s)| {
            let limit = &s.limit;
            let label = format!(
                "{} p{} ≤ {}",
                limit.metric.label(),
                limit.percentile,
                duration(limit.limit_ns as f64)
            );
            let cells = a
                .targets
                .iter()
                .map(|t| match t.slo.get(i) {
                    None => Cell { value: "–".into(), tone: "even", ..Cell::default() },
                    Some(s) if s.judged == 0 => {
                        Cell { value: "not measured".into(), tone: "even", ..Cell::default() }
                    }
                    Some(s) => Cell {
                        value: if s.met == s.judged { "met".into() } else { "MISSED".into() },
                        range: format!(
                            "{} ({}/{})",
                            s.median_ns.map_or("∞".into(), duration),
                            s.met,
                            s.judged
                        ),
                        delta: String::new(),
                        tone: if s.met == s.judged { "good" } else { "bad" },
                    },
                })
                .collect();
            Row { label, group_start: false, brief: true, cells }
        })
        .collect()
}

/// target, what, how many, example.
fn error_rows(a: &Analysis) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for t in &a.targets {
        for e in &t.errors {
            let status = e.http_status.map(|s| format!(" {s}")).unwrap_or_default();
            rows.push(vec![
                t.name.clone(),
                format!("{}{status}", outcome_words(e.outcome)),
                e.count.to_string(),
                e.example.clone().unwrap_or_default(),
            ]);
        }
    }
    rows
}

fn roofline_views(a: &Analysis) -> Vec<RooflineView> {
    a.targets
        .iter()
        .enumerate()
        .filter_map(|(slot, t)| {
            let r = t.roofline.as_ref()?;
            let words = format!(
                "The engine worked for {busy} s and no implementation could have needed less than {ideal} s on this host: {share:.0} % of the roofline. \
                 {bound_cap} is the binding limit: {memory:.0} % of the ideal time goes to steps that wait for memory. \
                 An average step moves {bytes}B and does {flops}FLOP; achieved {bw}B/s ({bw_share:.0} % of measured read bandwidth) and \
                 {fl}FLOP/s ({fl_share:.0} % of the {peak} peak).",
                busy = crate::report::format::significant(r.busy_s),
                ideal = crate::report::format::significant(r.ideal_s),
                share = r.share * 100.0,
                bound_cap = capital(r.bound.label()),
                memory = r.memory_bound_share * 100.0,
                bytes = si(r.bytes_per_step_mean),
                flops = si(r.flops_per_step_mean),
                bw = si(r.bytes_per_s),
                bw_share = r.bandwidth_share * 100.0,
                fl = si(r.flops_per_s),
                fl_share = r.compute_share * 100.0,
                peak = r.peak_name,
            );
            let brief = format!(
                "{} {:.0} % of roofline ({}-bound)",
                t.name,
                r.share * 100.0,
                match r.bound {
                    crate::roofline::Bound::Memory => "memory",
                    crate::roofline::Bound::Compute => "compute",
                }
            );
            Some(RooflineView { target: t.name.clone(), slot, percent: (r.share * 100.0).clamp(0.0, 100.0), words, brief })
        })
        .collect()
}

/// Rates the host does not have (zero) are left out.
fn roofline_host(r: &HostRoofline) -> String {
    let rates = [
        (r.read_bandwidth_bytes_per_s, "B/s read"),
        (r.f32_flops_per_s, "FLOP/s f32"),
        (r.bf16_flops_per_s, "FLOP/s bf16"),
        (r.int8_ops_per_s, "OP/s int8"),
    ];
    let known: Vec<String> =
        rates.into_iter().filter(|(v, _)| *v > 0.0).map(|(v, unit)| format!("{}{unit}", si(v))).collect();
    format!("Measured on this host with {} threads: {}.", r.threads, known.join(", "))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn token_counts(a: &Analysis) -> Vec<(String, String)> {
    a.targets
        .iter()
        .map(|t| {
            let s = t.token_sources;
            let words: Vec<String> = [
                (s.usage, "the server's usage object"),
                (s.server_detail, "a server-specific field"),
                (s.token_ids, "token ids"),
                (s.client_tokenizer, "the client's tokenizer"),
                (s.chunk_count, "one per event (assumed)"),
            ]
            .into_iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{n} requests by {what}"))
            .collect();
            (t.name.clone(), if words.is_empty() { "none".into() } else { words.join(", ") })
        })
        .collect()
}

fn prompt_lengths(a: &Analysis) -> Vec<(String, String)> {
    let words = |t: &TargetAnalysis| {
        let lengths = t.prompt_lengths?;
        let mut words = match lengths.counted {
            0 => "not counted by the server".to_owned(),
            n => format!(
                "exact in {} of {n} requests, {} tokens off in the median, {} at most",
                lengths.exact, lengths.median_off, lengths.most_off
            ),
        };
        if lengths.counted > 0 && lengths.unknown > 0 {
            words += &format!("; {} not counted", lengths.unknown);
        }
        if let Some(fit) = &t.prompt_fit {
            words += match fit.method {
                PromptFitMethod::Tokenizer => "; text fitted with the server's tokenizer",
                PromptFitMethod::Usage => "; text fitted by what the server counted for a few requests",
                PromptFitMethod::Estimate => {
                    "; text of guessed length: the server does not count the prompts of requests"
                }
            };
        }
        Some((t.name.clone(), words))
    };
    a.targets.iter().filter_map(words).collect()
}

fn method(a: &Analysis) -> Vec<(String, String)> {
    let s = &a.setting;
    let mut rules: Vec<&str> = a.trials.iter().filter_map(|t| t.window).map(|w| w.rule.words()).collect();
    rules.dedup();
    let window = if rules.is_empty() { "no window: nothing was measured".into() } else { rules.join("; ") };
    let repeats = match s.repeats {
        0 => "none".to_owned(),
        1 => "1 per target: no interval can be given".to_owned(),
        n => format!(
            "{n} per target, interleaved, same prompts and arrival times. Cells show the median over repeats and [lowest, highest]. \
             Differences: geometric mean of the paired ratios with a 95 % t-interval on log ratios, n = {n}; the repeat is the statistical unit"
        ),
    };
    let status = match s.status {
        RunStatus::Complete => "complete",
        RunStatus::Interrupted => "interrupted",
        RunStatus::Failed => "failed",
        RunStatus::Running => "unfinished (killed or still running)",
    };
    [
        ("Latency", "counts from the scheduled time of a request, so waiting in the client is part of it. TTFT: to the first event with a generated token. TPOT: (last − first) / (n − k), k tokens in the first event; missing when n ≤ k. ITL: gap / tokens in the event, per token. E2E: to the last token".to_owned()),
        ("Percentiles", "linear interpolation; a failed request counts as infinitely slow".to_owned()),
        ("Warm-up", format!("the first {} requests are left out", s.warmup_requests)),
        ("Window for rates", window),
        ("Goodput", "measured requests that met every limit (the one of the highest percentile per metric) per second".to_owned()),
        ("Repeats", repeats),
        ("Trust", format!(
            "a trial is UNTRUSTED when requests left late or the client's event loop stalled (p99 above {} and {:.0} % of the median TTFT), its calibration found it wrong by as much or did not get through, the client used more than {:.0} % of a core, other tenants took more than {:.0} % of CPU time, a request failed inside the client, none succeeded, or it did not finish",
            duration(crate::trust::LATE_NS), crate::trust::LATE_SHARE * 100.0, crate::trust::CLIENT_CPU_SHARE * 100.0, crate::trust::STEAL_SHARE * 100.0)),
        ("Seed", s.seed.to_string()),
        ("Status", status.to_owned()),
        ("Version", format!("llmlab {}{}", s.llmlab_version, s.git_commit.as_ref().map(|c| format!(", commit {c}")).unwrap_or_default())),
        ("Scenario", s.scenario_path.clone().unwrap_or_else(|| "given on the command line".into())),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect()
}

/// The command as it can be typed again; words with anything unusual are quoted.
fn shell_line(words: &[String]) -> String {
    let safe =
        |w: &str| !w.is_empty() && w.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c));
    let quote = |w: &String| if safe(w) { w.clone() } else { format!("'{}'", w.replace('\'', r"'\''")) };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}
