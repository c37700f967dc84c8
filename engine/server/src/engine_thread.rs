//! The engine thread: drain commands, plan, execute, commit, route. It owns the scheduler and the executor, reads the
//! clock for them, and never waits for a client or a disk.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};

use llmlab_core::executor::{Executor, ExecutorError};
use llmlab_core::request::{At, Event, FinishReason, RequestId, TokenId};
use llmlab_core::scheduler::Planned;
use llmlab_core::stats::Stats;
use llmlab_core::step::{StepOutcome, StepPlan};
use tokio::sync::mpsc;

use crate::engine::{Clock, Command, QueueSlot, Submission, Update};
use crate::error::ApiError;
use crate::line_log::LineLog;
use crate::metrics::{Metrics, Timeline};
use crate::recorder::Recorded;
use crate::step_log::{StepRow, StepSeq};

pub(crate) struct EngineThread {
    pub scheduler: Recorded,
    pub executor: Box<dyn Executor>,
    pub commands: Receiver<Command>,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub step_log: Option<LineLog<StepRow>>,
    pub failure: Arc<OnceLock<String>>,
    pub block_size: u32,
    pub live: HashMap<RequestId, Live>,
}

/// A request between its acceptance and its end.
pub(crate) struct Live {
    updates: mpsc::Sender<Update>,
    /// Held until the first scheduling.
    slot: Option<QueueSlot>,
    timeline: Timeline,
}

enum Flow {
    Go,
    Stop,
}

impl EngineThread {
    /// Runs until [`Command::Shutdown`] or a failure; either way every request gets its end.
    pub fn run(mut self) {
        // After a panic only `live` and the metrics are touched; neither is left half-written by the code that can panic.
        let failure = match catch_unwind(AssertUnwindSafe(|| self.serve())) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(format!("panic: {}", panic_text(panic.as_ref()))),
        };
        let end = match failure {
            None => ApiError::draining(),
            Some(reason) => {
                let error = ApiError::internal(format!("the engine stopped: {reason}"));
                // Before the requests hear of it, so that whoever sees one fail also sees /health fail.
                let _ = self.failure.set(reason);
                error
            }
        };
        for (_, live) in self.live.drain() {
            self.metrics.errored();
            let _ = live.updates.try_send(Update::Failed(Box::new(end.clone())));
        }
        self.metrics.set_load(0, 0, 0.0);
    }

    fn serve(&mut self) -> Result<(), ExecutorError> {
        loop {
            while let Ok(command) = self.commands.try_recv() {
                if let Flow::Stop = self.obey(command) {
                    return Ok(());
                }
            }
            let now = self.clock.now();
            let (planned, expired) = self.scheduler.plan(now);
            self.route(now, expired);
            // Once per step, and before going to sleep: what the gauges show is never older than that.
            let stats = self.scheduler.stats();
            self.show_load(&stats);
            let command = match planned {
                Planned::Step(plan) => {
                    self.step(now, &plan, &stats)?;
                    continue;
                }
                Planned::WaitUntil(at) => match self.commands.recv_timeout(at.saturating_sub(now)) {
                    Ok(command) => command,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                },
                Planned::Idle => match self.commands.recv() {
                    Ok(command) => command,
                    Err(_) => return Ok(()),
                },
            };
            if let Flow::Stop = self.obey(command) {
                return Ok(());
            }
        }
    }

    fn obey(&mut self, command: Command) -> Flow {
        match command {
            Command::Submit(submission) => self.accept(submission),
            Command::End { id, reason } => self.end(id, reason),
            Command::Shutdown => return Flow::Stop,
        }
        Flow::Go
    }

    fn accept(&mut self, Submission { request, arrived, slot, updates }: Submission) {
        let id = request.id;
        let prompt_tokens = request.prompt.len() as u32;
        let rest_of_context = self.scheduler.config().max_model_len.saturating_sub(prompt_tokens);
        let timeline = Timeline {
            arrived,
            scheduled: None,
            first_token: None,
            last_token: None,
            prompt_tokens,
            generated: 0,
            max_tokens: request.stop.max_tokens.min(rest_of_context),
            preemptions: 0,
        };
        let answer = match self.scheduler.enqueue_arrived(self.clock.now(), arrived, request) {
            Ok(()) => Update::Accepted,
            Err(error) => Update::Refused(error.to_string()),
        };
        let accepted = matches!(answer, Update::Accepted);
        // A reader that left already sends its own end command.
        let _ = updates.try_send(answer);
        if accepted {
            self.live.insert(id, Live { updates, slot: Some(slot), timeline });
        }
    }

    /// Ends a request from outside: its blocks are free before the next plan.
    fn end(&mut self, id: RequestId, reason: FinishReason) {
        if let Some(live) = self.live.remove(&id) {
            self.scheduler.abort(self.clock.now(), id);
            self.metrics.finished(reason, &live.timeline);
        }
    }

    /// `planned` is the scheduler's state while the step runs.
    fn step(&mut self, now: At, plan: &StepPlan, planned: &Stats) -> Result<(), ExecutorError> {
        self.note_planned(now, plan);

        let outcome = self.executor.execute(plan)?;
        let done = self.clock.now();
        let events = self.scheduler.commit(done, plan, &outcome);

        self.metrics.step(plan.new_tokens(), plan.preempted.len());
        self.route(done, events);
        if let Some(log) = &mut self.step_log {
            let elapsed_ns = done.saturating_sub(now).as_nanos() as u64;
            let start_ns = self.clock.monotonic_ns(now);
            log.push(row(plan, planned, &outcome, start_ns, elapsed_ns, self.block_size));
        }
        Ok(())
    }

    fn note_planned(&mut self, now: At, plan: &StepPlan) {
        for (id, _) in &plan.admitted {
            if let Some(live) = self.live.get_mut(id) {
                live.slot = None;
                live.timeline.scheduled = Some(now);
                self.metrics.scheduled(now.saturating_sub(live.timeline.arrived));
            }
        }
        for id in &plan.preempted {
            if let Some(live) = self.live.get_mut(id) {
                live.timeline.preemptions += 1;
            }
        }
    }

    fn route(&mut self, now: At, events: Vec<Event>) {
        for (id, token, finished) in with_ends(events) {
            let Some(live) = self.live.get_mut(&id) else { continue };
            if token.is_some() {
                note_token(&self.metrics, &mut live.timeline, now);
            }
            let update = match (token, finished) {
                (Some(token), finished) => Update::Token { token, finished },
                (None, Some(reason)) => Update::Finished(reason),
                (None, None) => continue,
            };
            let Some(reason) = finished else {
                if let Err(mpsc::error::TrySendError::Full(_)) = live.updates.try_send(update) {
                    // The reader is too far behind. Dropping our end tells it so once it has read what is there.
                    self.end(id, FinishReason::Abort);
                }
                continue;
            };
            // Counted before it is told: a client that has its answer finds it in the metrics.
            self.metrics.finished(reason, &live.timeline);
            let _ = live.updates.try_send(update);
            self.live.remove(&id);
        }
    }

    fn show_load(&self, stats: &Stats) {
        let used = stats.total_blocks - stats.free_blocks - stats.cached_blocks;
        self.metrics.set_load(stats.running, stats.waiting, used as f64 / stats.total_blocks.max(1) as f64);
        self.metrics.set_prefix_cache(stats.prefix_query_tokens_total, stats.prefix_hit_tokens_total);
        self.metrics.set_speculation(stats.draft_tokens_total, stats.accepted_draft_tokens_total);
    }
}

fn note_token(metrics: &Metrics, timeline: &mut Timeline, now: At) {
    match timeline.last_token {
        None => {
            timeline.first_token = Some(now);
            metrics.first_token(now.saturating_sub(timeline.arrived), timeline.prompt_tokens);
        }
        Some(previous) => metrics.next_token(now.saturating_sub(previous)),
    }
    timeline.last_token = Some(now);
    timeline.generated += 1;
}

/// Joins each end to the token of its request that it follows, so that a client learns both at once.
fn with_ends(events: Vec<Event>) -> Vec<(RequestId, Option<TokenId>, Option<FinishReason>)> {
    let mut joined: Vec<(RequestId, Option<TokenId>, Option<FinishReason>)> =
        Vec::with_capacity(events.len());
    for event in events {
        match (event, joined.last_mut()) {
            (Event::Token { id, token, .. }, _) => joined.push((id, Some(token), None)),
            (Event::Finished { id, reason }, Some((last, _, end @ None))) if *last == id => {
                *end = Some(reason)
            }
            (Event::Finished { id, reason }, _) => joined.push((id, None, Some(reason))),
        }
    }
    joined
}

fn row(
    plan: &StepPlan,
    planned: &Stats,
    outcome: &StepOutcome,
    start_monotonic_ns: u64,
    elapsed_ns: u64,
    block_size: u32,
) -> StepRow {
    StepRow {
        step: plan.step,
        start_monotonic_ns,
        elapsed_ns,
        seqs: plan
            .seqs
            .iter()
            .map(|s| StepSeq {
                id: s.id.0,
                new_tokens: s.tokens.len() as u32,
                context: s.context,
                padding: s.padding,
                drafts: s.drafts,
            })
            .collect(),
        running: planned.running as u32,
        waiting: planned.waiting as u32,
        // Those that a policy only remembers are there for the asking, as vLLM's cached blocks are.
        free_blocks: (planned.free_blocks + planned.cached_blocks) as u32,
        total_blocks: planned.total_blocks as u32,
        kv_tokens: planned.kv_tokens as u64,
        block_size,
        kv_shared_tokens: planned.kv_shared_tokens as u64,
        kv_held_tokens: planned.kv_held_tokens as u64,
        external_fragmentation: planned.external_fragmentation,
        accepted_drafts: outcome.accepted_drafts(plan) as u32,
        preempted: plan.preempted.iter().map(|id| id.0).collect(),
        admitted: plan.admitted.iter().map(|(id, waited)| (id.0, waited.as_nanos() as u64)).collect(),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_travels_with_the_token_it_follows() {
        let token = |id, token, index| Event::Token { id: RequestId(id), token, index };
        let end = |id, reason| Event::Finished { id: RequestId(id), reason };
        let events = vec![
            token(1, 10, 0),
            token(1, 11, 1),
            end(1, FinishReason::Stop),
            token(2, 20, 5),
            end(2, FinishReason::Length),
            end(4, FinishReason::Abort),
            token(3, 30, 0),
        ];
        assert_eq!(
            with_ends(events),
            vec![
                (RequestId(1), Some(10), None),
                (RequestId(1), Some(11), Some(FinishReason::Stop)),
                (RequestId(2), Some(20), Some(FinishReason::Length)),
                (RequestId(4), None, Some(FinishReason::Abort)),
                (RequestId(3), Some(30), None),
            ]
        );
    }
}
