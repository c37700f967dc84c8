//! Several batches under way, as in the stages of a pipeline: planned one by one, executed in that order, committed later.

use std::collections::VecDeque;

use llmlab_core::executor::Executor;
use llmlab_core::step::{StepOutcome, StepPlan};
use llmlab_core::{Planned, Scheduler};

use super::Run;

impl Run {
    /// Plans while it may, but for some times that `seed` chooses, at which the oldest batch comes back before.
    pub fn run_in_flight(mut self, batches: usize, mut seed: u64) {
        self.scheduler =
            Scheduler::new(self.config.clone()).unwrap().with_batches_in_flight(batches).unwrap();
        let mut under_way: VecDeque<(StepPlan, StepOutcome)> = VecDeque::new();
        let mut most = 0;
        for _ in 0..20_000 {
            self.arrivals_and_aborts(!under_way.is_empty());
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let waits = seed >> 62 == 0 && !under_way.is_empty();
            let planned =
                (!waits && self.scheduler.has_room_in_flight()).then(|| self.scheduler.plan_one(self.now));
            if let Some(Planned::Step(plan)) = planned {
                self.check_plan(&plan);
                for seq in &plan.seqs {
                    let sampled = |(other, _): &(StepPlan, StepOutcome)| {
                        other.seqs.iter().any(|other| other.id == seq.id && other.sample)
                    };
                    let aborted = !self.scheduler.running().contains(&seq.id);
                    assert!(aborted || !under_way.iter().any(sampled), "{:?} has a token under way", seq.id);
                }
                let outcome = self.executor.execute(&plan).unwrap();
                under_way.push_back((plan, outcome));
                most = most.max(under_way.len());
                assert!(most <= batches);
            } else if let Some((plan, outcome)) = under_way.pop_front() {
                self.now += outcome.elapsed;
                let events = self.scheduler.commit(self.now, &plan, &outcome);
                self.told(events);
            } else {
                let stats = self.scheduler.stats();
                assert_eq!((stats.running, stats.waiting), (0, 0), "idle with work left: {stats:?}");
                match self.next_arrival() {
                    Some(at) => self.now = at,
                    None => return self.check_the_end(),
                }
            }
            self.check_books();
        }
        panic!("no end in sight: {:?}", self.scheduler.stats());
    }
}
