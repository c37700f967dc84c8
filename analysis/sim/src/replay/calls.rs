//! A fresh scheduler, led through recorded calls.
//!
//! The calls are an outsider's: what a scheduler takes for granted of its driver is checked before it is called.

use std::time::Duration;

use llmlab_core::recording::{Call, Header, HeaderError, PlanCall};
use llmlab_core::request::At;
use llmlab_core::scheduler::Scheduler;
use llmlab_core::stats::Stats;
use llmlab_core::step::{Sampled, SeqStep, StepOutcome, StepPlan};
use llmlab_core::{Planned, config::PolicyConfig};

use super::difference::difference;

/// A scheduler and where it stands in the recording.
pub struct Replay {
    scheduler: Scheduler,
    /// Planned and not committed.
    step: Option<StepPlan>,
    steps: u64,
    /// Drafts of a sequence that a commit may bring.
    most_drafts: usize,
    /// By place among a sequence's drafts: those that all before them were accepted for, and how many of these were too.
    drafts: Vec<(u64, u64)>,
    /// Decodes, and those of them that had drafts.
    decodes: (u64, u64),
}

/// Why a call was not gone through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No driver calls a scheduler so.
    #[error("{0}")]
    Impossible(String),
    /// The scheduler did something else.
    #[error("{0}")]
    Different(String),
}

impl Replay {
    pub fn new(header: &Header) -> Result<Replay, HeaderError> {
        header.check()?;
        let most_drafts = match &header.engine.policy {
            PolicyConfig::Vllm(vllm) => {
                vllm.speculative_config.map_or(0, |s| s.num_speculative_tokens as usize)
            }
            _ => 0,
        };
        Ok(Replay {
            scheduler: Scheduler::new(header.engine.clone())?,
            step: None,
            steps: 0,
            most_drafts,
            drafts: Vec::new(),
            decodes: (0, 0),
        })
    }

    /// Goes through one call. After an error the scheduler is not where the recorded one was.
    pub fn call(&mut self, call: Call) -> Result<(), CallError> {
        match call {
            Call::Enqueue { now, arrived, refused, request } => {
                let id = request.id.0;
                let answer = self.scheduler.enqueue_arrived(now, arrived, request);
                let words = answer.as_ref().map_or_else(|error| error.to_string(), |()| "taken".into());
                match answer.is_err() == refused {
                    true => Ok(()),
                    false => different(format!(
                        "request {id} was recorded as {}, here: {words}",
                        if refused { "refused" } else { "taken" }
                    )),
                }
            }
            Call::Abort { now, id } => {
                self.scheduler.abort(now, id);
                Ok(())
            }
            Call::Plan(recorded) => self.plan(&recorded),
            Call::Commit { now, sampled, drafts } => self.commit(now, sampled, drafts),
        }
    }

    fn plan(&mut self, recorded: &PlanCall) -> Result<(), CallError> {
        if let Some(step) = &self.step {
            return impossible(format!("a plan while step {} is not committed", step.step));
        }
        let planned = self.scheduler.plan(recorded.now);
        let expired = self.scheduler.take_expired();
        let here = PlanCall::of(recorded.now, &planned, &expired);
        match (&recorded.step, &here.step) {
            (Some(was), Some(is)) => {
                if let Some(difference) = difference(was, is) {
                    return different(format!("step {} is not the recorded one: {difference}", is.step));
                }
            }
            (Some(was), None) => {
                return different(format!("step {} was recorded, none is planned", was.step));
            }
            (None, Some(is)) => {
                return different(format!("no step was recorded, step {} is planned", is.step));
            }
            (None, None) => {}
        }
        if recorded.expired != here.expired {
            return different(format!(
                "recorded ends of waiting requests {:?}, here {:?}",
                recorded.expired, here.expired
            ));
        }
        if recorded.wait_until_ns != here.wait_until_ns {
            return different(format!(
                "recorded wait until {:?} ns, here {:?} ns",
                recorded.wait_until_ns, here.wait_until_ns
            ));
        }
        if let Planned::Step(plan) = planned {
            self.step = Some(plan);
            self.steps += 1;
        }
        Ok(())
    }

    fn commit(&mut self, now: At, sampled: Vec<Sampled>, drafts: Vec<Sampled>) -> Result<(), CallError> {
        let Some(plan) = self.step.take() else { return impossible("a commit without a step".into()) };
        check_sampled(&plan, &sampled)
            .and_then(|()| check_drafts(&plan, &drafts, self.most_drafts))
            .map_err(|wrong| CallError::Impossible(format!("the outcome of step {}: {wrong}", plan.step)))?;
        self.count_drafts(&plan, &sampled);
        let outcome = StepOutcome { sampled, drafts, elapsed: Duration::ZERO };
        self.scheduler.commit(now, &plan, &outcome);
        self.scheduler.recycle(plan);
        Ok(())
    }

    fn count_drafts(&mut self, plan: &StepPlan, mut sampled: &[Sampled]) {
        for (seq, index) in plan.seqs.iter().zip(0..) {
            let decodes = seq.sample && seq.generated > 0;
            self.decodes.0 += u64::from(decodes);
            self.decodes.1 += u64::from(decodes && seq.drafts > 0);
            let accepted = take_own(&mut sampled, index).len().saturating_sub(1);
            for place in 0..(seq.drafts as usize).min(accepted + 1) {
                if self.drafts.len() == place {
                    self.drafts.push((0, 0));
                }
                self.drafts[place].0 += 1;
                self.drafts[place].1 += u64::from(place < accepted);
            }
        }
    }

    /// For each draft of a step, the share that was accepted where all before it were.
    pub fn acceptance(&self) -> Vec<f64> {
        self.drafts.iter().map(|(reached, accepted)| *accepted as f64 / (*reached).max(1) as f64).collect()
    }

    /// Decodes, and those of them that had drafts to verify.
    pub fn decodes(&self) -> (u64, u64) {
        self.decodes
    }

    pub fn stats(&self) -> Stats {
        self.scheduler.stats()
    }

    /// Plans that were as recorded.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The plan of the last call, if its commit is still to come.
    pub fn uncommitted(&self) -> Option<u64> {
        self.step.as_ref().map(|plan| plan.step)
    }
}

/// Each sampling sequence has a token, and those before its last are the drafts that were accepted.
fn check_sampled(plan: &StepPlan, mut sampled: &[Sampled]) -> Result<(), String> {
    for (seq, index) in plan.seqs.iter().zip(0..) {
        let own = take_own(&mut sampled, index);
        let most = if seq.sample { 1 + seq.drafts as usize } else { 0 };
        if own.len() > most || own.is_empty() == seq.sample {
            return Err(format!("request {} has {} tokens, not 1 to {most}", seq.id.0, own.len()));
        }
        let accepted = own.len().saturating_sub(1);
        if own.iter().map(|sampled| sampled.token).take(accepted).ne(drafts_of(seq).take(accepted)) {
            return Err(format!("request {} accepted tokens that are not its drafts", seq.id.0));
        }
    }
    in_plan_order(sampled)
}

fn check_drafts(plan: &StepPlan, mut drafts: &[Sampled], most: usize) -> Result<(), String> {
    for (seq, index) in plan.seqs.iter().zip(0..) {
        let own = take_own(&mut drafts, index);
        let most = if seq.sample { most } else { 0 };
        if own.len() > most {
            return Err(format!("request {} has {} drafts, at most {most} are made", seq.id.0, own.len()));
        }
    }
    in_plan_order(drafts)
}

fn drafts_of(seq: &SeqStep) -> impl Iterator<Item = u32> {
    seq.tokens[seq.tokens.len() - seq.drafts as usize..].iter().copied()
}

/// Takes the leading entries of the sequence at this place of the plan.
fn take_own<'a>(rest: &mut &'a [Sampled], place: u32) -> &'a [Sampled] {
    let count = rest.iter().take_while(|sampled| sampled.seq == place).count();
    let (own, others) = rest.split_at(count);
    *rest = others;
    own
}

fn in_plan_order(rest: &[Sampled]) -> Result<(), String> {
    match rest.first() {
        None => Ok(()),
        Some(first) => Err(format!("sequence {} does not follow in the order of the plan", first.seq)),
    }
}

fn impossible(words: String) -> Result<(), CallError> {
    Err(CallError::Impossible(words))
}

fn different(words: String) -> Result<(), CallError> {
    Err(CallError::Different(words))
}
