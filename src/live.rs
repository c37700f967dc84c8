//! The run as it happens: fed by the load generator and the scraper, read by the TUI and the progress lines.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use llmlab_loadgen::Observer;
use llmlab_results::manifest::ServerSample;
use llmlab_results::record::RequestRecord;
use llmlab_tui::snapshot::{Percentiles, Snapshot, TargetState};

const HISTORY_POINTS: usize = 240;
const LOG_LINES: usize = 50;
/// Throughput is a rate over this long.
const RATE_WINDOW: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Live {
    state: Mutex<State>,
    /// Tokens since the rate was last taken. Not in the state: counting one must not cost a lock.
    window_tokens: AtomicU64,
}

#[derive(Debug)]
struct State {
    snapshot: Snapshot,
    started: Instant,
    latencies: Vec<Latencies>,
    trials_total: usize,
    trials_done: usize,
    /// Requests of the trial under way.
    trial_requests: u64,
    trial_done: u64,
    window_started: Instant,
}

#[derive(Debug)]
struct Latencies {
    ttft_us: Histogram<u64>,
    tpot_us: Histogram<u64>,
}

impl Latencies {
    fn new() -> Latencies {
        // One minute to three digits; anything slower is shown as the last bucket.
        let new = || {
            let mut h = Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds are constants in range");
            h.auto(false);
            h
        };
        Latencies { ttft_us: new(), tpot_us: new() }
    }
}

fn percentiles(h: &Histogram<u64>) -> Percentiles {
    let ms = |p: f64| if h.is_empty() { 0.0 } else { h.value_at_quantile(p) as f64 / 1e3 };
    Percentiles { p50_ms: ms(0.5), p90_ms: ms(0.9), p99_ms: ms(0.99), count: h.len() }
}

#[allow(clippy::disallowed_methods, reason = "the live view shows wall time; nothing recorded depends on it")]
fn wall() -> Instant {
    Instant::now()
}

impl Live {
    /// `targets` are (name, description); `trials_total` counts measured trials over the whole run.
    pub fn new(run_name: &str, targets: &[(String, String)], trials_total: usize) -> Live {
        let states = targets.iter().map(|(name, description)| TargetState {
            name: name.clone(),
            description: description.clone(),
            phase: "waiting".into(),
            ..TargetState::default()
        });
        let snapshot =
            Snapshot { run_name: run_name.into(), targets: states.collect(), ..Snapshot::default() };
        let now = wall();
        Live {
            window_tokens: AtomicU64::new(0),
            state: Mutex::new(State {
                snapshot,
                started: now,
                latencies: targets.iter().map(|_| Latencies::new()).collect(),
                trials_total,
                trials_done: 0,
                trial_requests: 0,
                trial_done: 0,
                window_started: now,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a drawing thread must not take the run with it.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn snapshot(&self) -> Snapshot {
        let mut state = self.lock();
        self.take_rate(&mut state);
        let elapsed = state.started.elapsed().as_secs_f64();
        let progress = state.progress();
        // Here and not as values arrive: a percentile walks the whole histogram, and values arrive on the timed thread.
        let State { snapshot, latencies, .. } = &mut *state;
        for (target, seen) in snapshot.targets.iter_mut().zip(latencies.iter()) {
            (target.ttft, target.tpot) = (percentiles(&seen.ttft_us), percentiles(&seen.tpot_us));
        }
        state.snapshot.elapsed_s = elapsed;
        state.snapshot.progress = progress;
        // Too early, an ETA is noise.
        state.snapshot.eta_s = (progress > 0.05).then(|| elapsed * (1.0 - progress) / progress);
        state.snapshot.clone()
    }

    /// The rate since it was last taken, if that is long enough ago.
    fn take_rate(&self, state: &mut State) {
        let elapsed = state.window_started.elapsed();
        if elapsed < RATE_WINDOW || state.trial_requests == 0 {
            return;
        }
        let rate = self.window_tokens.swap(0, Ordering::Relaxed) as f64 / elapsed.as_secs_f64();
        state.window_started = wall();
        let target = state.target();
        target.output_tokens_per_s = rate;
        push_point(&mut target.throughput_history, rate);
    }

    pub fn log(&self, line: impl Into<String>) {
        let mut state = self.lock();
        state.snapshot.log.push(line.into());
        let extra = state.snapshot.log.len().saturating_sub(LOG_LINES);
        state.snapshot.log.drain(..extra);
    }

    /// A target enters a phase; `activity` says it in words for the header.
    pub fn phase(&self, target: usize, phase: &str, activity: String) {
        let mut state = self.lock();
        state.snapshot.current = target;
        state.snapshot.targets[target].phase = phase.into();
        state.snapshot.activity = activity;
        state.snapshot.targets[target].in_flight = 0;
    }

    /// What is done beside the targets, in words for the header.
    pub fn activity(&self, words: &str) {
        self.lock().snapshot.activity = words.into();
    }

    /// A measured trial begins; the probe does not count.
    pub fn begin_trial(&self, target: usize, requests: u64) {
        let mut state = self.lock();
        state.trial_requests = requests;
        state.trial_done = 0;
        state.window_started = wall();
        self.window_tokens.store(0, Ordering::Relaxed);
        state.snapshot.targets[target].requests_total += requests;
    }

    pub fn end_trial(&self) {
        let mut state = self.lock();
        state.trials_done += 1;
        state.trial_requests = 0;
        state.trial_done = 0;
    }

    pub fn finish(&self) {
        let mut state = self.lock();
        state.snapshot.finished = true;
        state.snapshot.activity = "done".into();
    }

    pub fn server(&self, sample: &ServerSample) {
        let mut state = self.lock();
        let current = state.snapshot.current;
        let target = &mut state.snapshot.targets[current];
        target.queue = sample.waiting;
        target.batch = sample.running;
        target.kv_usage = sample.kv_usage;
        target.preemptions = sample.preemptions_total;
        push_point(&mut target.batch_history, sample.running.unwrap_or(0.0));
        push_point(&mut target.kv_history, sample.kv_usage.unwrap_or(0.0));
    }
}

impl State {
    fn progress(&self) -> f64 {
        if self.snapshot.finished {
            return 1.0;
        }
        let within = self.trial_done as f64 / self.trial_requests.max(1) as f64;
        ((self.trials_done as f64 + within) / self.trials_total.max(1) as f64).clamp(0.0, 1.0)
    }

    fn target(&mut self) -> &mut TargetState {
        let current = self.snapshot.current;
        &mut self.snapshot.targets[current]
    }
}

fn push_point(history: &mut Vec<f64>, value: f64) {
    if history.len() == HISTORY_POINTS {
        history.remove(0);
    }
    history.push(value);
}

impl Observer for Live {
    fn sent(&self, _index: u64) {
        self.lock().target().in_flight += 1;
    }

    fn first_token(&self, _index: u64, ttft: Duration) {
        let mut state = self.lock();
        let current = state.snapshot.current;
        state.latencies[current].ttft_us.saturating_record(ttft.as_micros() as u64);
    }

    fn tokens(&self, n: u32) {
        self.window_tokens.fetch_add(u64::from(n), Ordering::Relaxed);
    }

    fn finished(&self, record: &RequestRecord) {
        let mut state = self.lock();
        let current = state.snapshot.current;
        state.trial_done += 1;
        if let (Some(first), Some(last)) = (record.events.first(), record.last_token_ns())
            && record.output_tokens > first.tokens
        {
            let per_token_ns = (last - first.at_ns) / u64::from(record.output_tokens - first.tokens);
            state.latencies[current].tpot_us.saturating_record(per_token_ns / 1_000);
        }
        let target = state.target();
        target.in_flight = target.in_flight.saturating_sub(u64::from(record.sent_ns.is_some()));
        target.requests_done += 1;
        if record.outcome.is_failure() {
            target.requests_failed += 1;
        }
    }
}
