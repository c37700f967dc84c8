//! The runs of all shards of a schedule as one run: the records of all, with the schedule's own facts again. Refuses runs
//! that are not parts of one schedule.

use std::collections::HashMap;

use crate::calibration::ClientCalibration;
use crate::machine_sample::MachineSample;
use crate::manifest::{
    ClientFacts, HostFacts, Manifest, PartFacts, RunStatus, ShardFacts, Sharding, TrialFacts, TrialKind,
};
use crate::prompt_fit::{PromptFit, PromptFitMethod};
use crate::read::{TrialFiles, last_timestamp_ns};

/// A run that may be a shard's, as [`crate::read_run`] returns it.
#[derive(Debug, Clone)]
pub struct Part {
    /// Name of the run directory, for messages.
    pub run: String,
    pub manifest: Manifest,
    pub trials: Vec<TrialFiles>,
    /// The verdict on this run alone, and why not.
    pub trusted: bool,
    pub causes: Vec<String>,
}

/// Why runs do not make one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    #[error("no runs to merge")]
    Nothing,
    #[error("{run} is not the run of a shard; accepted are runs of llmlab run --shard I/N")]
    NotAShard { run: String },
    #[error("{run} has {trials} measured trials; the run of a shard has one")]
    Trials { run: String, trials: usize },
    #[error("{run} does not belong to {first}: another {what} ({theirs}; {first} has {ours})")]
    Other { run: String, first: String, what: &'static str, ours: String, theirs: String },
    #[error("{run} and {first} are both shard {index}/{total}")]
    Double { run: String, first: String, index: u32, total: u32 },
    #[error("shards {} of {total} are missing", indexes.join(", "))]
    Missing { indexes: Vec<String>, total: u32 },
    #[error("{run} is shard {index} of {total}, which does not exist")]
    Impossible { run: String, index: u32, total: u32 },
    #[error("request {request} is in {first} and in {run}; it can belong to one shard only")]
    Request { request: u64, first: String, run: String },
}

/// One run of all shards. The order of `parts` does not matter.
pub fn merge(parts: Vec<Part>) -> Result<(Manifest, TrialFiles), MergeError> {
    let mut shards = parts.into_iter().map(OneTrial::of).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = shards.first() else { return Err(MergeError::Nothing) };
    shards.iter().try_for_each(|part| part.belongs_to(first))?;
    shards.sort_by_key(|part| part.shard.index);
    complete(&shards)?;
    no_request_twice(&shards)?;

    let facts = trial_facts(&shards);
    let manifest = manifest(&shards, &facts);
    let mut trial = TrialFiles {
        facts,
        records: Vec::new(),
        steps: Vec::new(),
        server: Vec::new(),
        // Each part that saw the server's machine saw the same; its clock is that of its own machine.
        machine: seen_machine(&shards),
        warnings: Vec::new(),
    };
    for part in shards {
        trial.records.extend(part.trial.records);
        trial.server.extend(part.trial.server);
        let named = part.trial.warnings.into_iter().map(|warning| format!("{}: {warning}", part.run));
        trial.warnings.extend(named);
    }
    trial.records.sort_by_key(|record| (last_timestamp_ns(record), record.index));
    trial.server.sort_by_key(|sample| sample.at_ns);
    Ok((manifest, trial))
}

/// What the first part beside the server saw of its machine, on the clock of the merged run.
fn seen_machine(shards: &[OneTrial]) -> Vec<MachineSample> {
    let Some(part) = shards.iter().find(|part| !part.trial.machine.is_empty()) else { return Vec::new() };
    let (its, merged) = (part.trial.facts.start_monotonic_ns, shards[0].trial.facts.start_monotonic_ns);
    let rebased = |sample: &MachineSample| MachineSample {
        at_monotonic_ns: sample.at_monotonic_ns.saturating_sub(its).saturating_add(merged),
        ..sample.clone()
    };
    part.trial.machine.iter().map(rebased).collect()
}

/// A part that has what a shard's run has.
struct OneTrial {
    run: String,
    shard: ShardFacts,
    manifest: Manifest,
    trial: TrialFiles,
    trusted: bool,
    causes: Vec<String>,
}

impl OneTrial {
    fn of(part: Part) -> Result<OneTrial, MergeError> {
        let Part { run, manifest, mut trials, trusted, causes } = part;
        let Some(Sharding::Shard(shard)) = manifest.sharding.clone() else {
            return Err(MergeError::NotAShard { run });
        };
        if shard.index >= shard.total {
            return Err(MergeError::Impossible { run, index: shard.index, total: shard.total });
        }
        trials.retain(|trial| trial.facts.kind == TrialKind::Measure);
        match (trials.pop(), trials.len()) {
            (Some(trial), 0) => Ok(OneTrial { run, shard, manifest, trial, trusted, causes }),
            (last, others) => Err(MergeError::Trials { run, trials: others + usize::from(last.is_some()) }),
        }
    }

    /// Everything that makes a schedule is the same, and so is what it was sent to.
    fn belongs_to(&self, first: &OneTrial) -> Result<(), MergeError> {
        let same = |what: &'static str, ours: &dyn ToString, theirs: &dyn ToString| {
            let (ours, theirs) = (ours.to_string(), theirs.to_string());
            match ours == theirs {
                true => Ok(()),
                false => Err(MergeError::Other {
                    run: self.run.clone(),
                    first: first.run.clone(),
                    what,
                    ours: short(ours),
                    theirs: short(theirs),
                }),
            }
        };
        let (a, b) = (&first.manifest, &self.manifest);
        same("scenario", &a.name, &b.name)?;
        same("seed", &a.seed, &b.seed)?;
        same("number of shards", &first.shard.total, &self.shard.total)?;
        same("start", &first.shard.start_at, &self.shard.start_at)?;
        same("target", &first.trial.facts.target, &self.trial.facts.target)?;
        same("version of llmlab", &a.llmlab_version, &b.llmlab_version)?;
        same("resolved scenario", &a.resolved, &b.resolved)?;
        same("schedule", &first.shard.schedule_digest, &self.shard.schedule_digest)
    }

    fn facts(&self) -> PartFacts {
        PartFacts {
            shard: self.shard.clone(),
            run: self.run.clone(),
            host: self.manifest.host.clone(),
            started_at: self.manifest.started_at.clone(),
            finished_at: self.manifest.finished_at.clone(),
            command_line: self.manifest.command_line.clone(),
            requests: self.trial.records.len() as u64,
            elapsed_ns: self.trial.facts.elapsed_ns,
            client: self.trial.facts.client.clone(),
            trusted: self.trusted,
            causes: self.causes.clone(),
        }
    }
}

/// A whole scenario does not fit an error message.
fn short(text: String) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// `shards` are sorted by index and agree on the total.
fn complete(shards: &[OneTrial]) -> Result<(), MergeError> {
    let total = shards[0].shard.total;
    for pair in shards.windows(2) {
        if pair[0].shard.index == pair[1].shard.index {
            let index = pair[0].shard.index;
            return Err(MergeError::Double {
                run: pair[1].run.clone(),
                first: pair[0].run.clone(),
                index,
                total,
            });
        }
    }
    if shards.len() as u64 == u64::from(total) {
        return Ok(());
    }
    // A total comes from a file: name a few, whatever it says.
    const NAMED: usize = 10;
    let there: Vec<u32> = shards.iter().map(|part| part.shard.index).collect();
    let missing = (0..total).filter(|index| there.binary_search(index).is_err());
    let mut indexes: Vec<String> = missing.take(NAMED).map(|index| index.to_string()).collect();
    let unnamed = total as usize - shards.len() - indexes.len();
    if unnamed > 0 {
        indexes.push(format!("{unnamed} more"));
    }
    Err(MergeError::Missing { indexes, total })
}

fn no_request_twice(shards: &[OneTrial]) -> Result<(), MergeError> {
    let mut owner: HashMap<u64, &str> = HashMap::new();
    for part in shards {
        for record in &part.trial.records {
            if let Some(first) = owner.insert(record.index, &part.run) {
                let (first, run) = (first.to_owned(), part.run.clone());
                return Err(MergeError::Request { request: record.index, first, run });
            }
        }
    }
    Ok(())
}

/// The client facts are those of the worst machine, since each drove a part of every percentile.
fn trial_facts(shards: &[OneTrial]) -> TrialFacts {
    let first = &shards[0];
    let cores = |host: &HostFacts| f64::from(host.cores.max(1));
    let elapsed_ns = shards.iter().map(|part| part.trial.facts.elapsed_ns).max().unwrap_or(0);
    let worst = |of: &dyn Fn(&OneTrial) -> f64| shards.iter().map(of).fold(0.0, f64::max);
    let share = |part: &OneTrial, ns: u64| ns as f64 / part.trial.facts.elapsed_ns.max(1) as f64;
    let cpu = worst(&|part| share(part, part.trial.facts.client.cpu_ns));
    let steal = worst(&|part| share(part, part.trial.facts.client.steal_ns) / cores(&part.manifest.host));
    let most = |of: fn(&ClientFacts) -> u64| {
        shards.iter().map(|part| of(&part.trial.facts.client)).max().unwrap_or(0)
    };
    TrialFacts {
        client: ClientFacts {
            cpu_ns: (cpu * elapsed_ns as f64).round() as u64,
            steal_ns: (steal * cores(&first.manifest.host) * elapsed_ns as f64).round() as u64,
            loop_delay_p99_ns: most(|client| client.loop_delay_p99_ns),
            loop_delay_max_ns: most(|client| client.loop_delay_max_ns),
            peak_rss_bytes: most(|client| client.peak_rss_bytes),
        },
        elapsed_ns,
        prompt_fit: prompt_fit(shards),
        complete: shards.iter().all(|part| part.trial.facts.complete),
        ..first.trial.facts.clone()
    }
}

/// As the least certain part fitted its prompts, with all that were missed.
fn prompt_fit(shards: &[OneTrial]) -> Option<PromptFit> {
    let fits = || shards.iter().filter_map(|part| part.trial.facts.prompt_fit.as_ref());
    let certainty = |fit: &&PromptFit| match fit.method {
        PromptFitMethod::Estimate => 0,
        PromptFitMethod::Usage => 1,
        PromptFitMethod::Tokenizer => 2,
    };
    let missed = fits().map(|fit| fit.missed).sum();
    fits().min_by_key(certainty).map(|fit| PromptFit { missed, ..fit.clone() })
}

/// In each figure that of the worst client.
fn worst_calibration(shards: &[OneTrial]) -> Option<ClientCalibration> {
    let found = || shards.iter().filter_map(|part| part.manifest.client_calibration.as_ref());
    let measured = found().filter_map(|calibration| match calibration {
        ClientCalibration::Measured(facts) => Some(facts.clone()),
        ClientCalibration::Skipped { .. } | ClientCalibration::Failed { .. } => None,
    });
    // What one client was found to do is not undone by another of which nothing is known.
    match measured.reduce(|worst, facts| worst.worse_of(&facts)) {
        Some(facts) => Some(ClientCalibration::Measured(facts)),
        None => found().next().cloned(),
    }
}

fn manifest(shards: &[OneTrial], trial: &TrialFacts) -> Manifest {
    let first = &shards[0];
    // Where one run says that it is not complete, the merged one is not either.
    let status = shards.iter().map(|part| part.manifest.status).find(|s| *s != RunStatus::Complete);
    let finished: Option<Vec<&String>> =
        shards.iter().map(|part| part.manifest.finished_at.as_ref()).collect();
    Manifest {
        workload: first.shard.whole.clone(),
        started_at: shards.iter().map(|part| part.manifest.started_at.clone()).min().unwrap_or_default(),
        finished_at: finished.and_then(|times| times.into_iter().max().cloned()),
        trials: vec![trial.clone()],
        status: status.unwrap_or(RunStatus::Complete),
        sharding: Some(Sharding::Merged(shards.iter().map(OneTrial::facts).collect())),
        client_calibration: worst_calibration(shards),
        ..first.manifest.clone()
    }
}
