//! `llmlab replay`: is a recorded run what this scheduler does?

use std::fs::File;
use std::io::BufReader;

use llmlab_sim::replay::{ReplayError, Replayed, replay as go_through};
use serde_json::json;

use crate::cli::ReplayArgs;
use crate::exit::{Code, Failure};

pub fn replay(args: ReplayArgs) -> Result<Code, Failure> {
    let name = args.file.display();
    let file = File::open(&args.file).map_err(|error| Failure::bad_input(format!("{name}: {error}")))?;
    let replayed = go_through(&mut BufReader::new(file)).map_err(|error| {
        let words = format!("{name}, {error}");
        match error {
            // Not 1: nothing broke here. The recorded run and this scheduler are not the same, so neither says anything
            // about the other.
            ReplayError::Different { .. } => {
                Failure { code: Code::Invalid, error: miette::miette!("{words}") }
            }
            ReplayError::NotARecording { .. } | ReplayError::Read { .. } => Failure::bad_input(words),
        }
    })?;
    if args.json {
        println!("{}", as_json(&replayed));
    } else {
        print!("{}", summary(&replayed));
    }
    Ok(Code::Pass)
}

fn as_json(replayed: &Replayed) -> serde_json::Value {
    let stats = &replayed.stats;
    json!({
        "llmlab": replayed.header.llmlab,
        "policy": replayed.header.engine.policy.knobs().rules(),
        "calls": replayed.calls,
        "steps": replayed.steps,
        "requests": stats.submitted_total,
        "refused": stats.rejected_total,
        "aborted": stats.aborted_total,
        "preemptions": stats.preemptions_total,
        "prefix_query_tokens": stats.prefix_query_tokens_total,
        "prefix_hit_tokens": stats.prefix_hit_tokens_total,
        "draft_tokens": stats.draft_tokens_total,
        "accepted_draft_tokens": stats.accepted_draft_tokens_total,
        "decodes": replayed.decodes.0,
        "decodes_with_drafts": replayed.decodes.1,
        "speculative_acceptance_rate": replayed.acceptance,
        "uncommitted_step": replayed.uncommitted,
        "cut_off": replayed.cut_off,
    })
}

fn summary(replayed: &Replayed) -> String {
    let (header, stats) = (&replayed.header, &replayed.stats);
    let mut text = format!(
        "{} steps planned again, all as recorded (llmlab {}, {}, policy {}, {} blocks of {})\n\
         requests        {} ({} refused, {} aborted)\n\
         preemptions     {}\n\
         prefix cache    {} of {} tokens found\n\
         drafts          {} of {} accepted, in {} of {} decodes\n",
        replayed.steps,
        header.llmlab,
        header.model,
        header.engine.policy.knobs().rules(),
        header.engine.num_blocks,
        header.engine.block_size,
        stats.submitted_total,
        stats.rejected_total,
        stats.aborted_total,
        stats.preemptions_total,
        stats.prefix_hit_tokens_total,
        stats.prefix_query_tokens_total,
        stats.accepted_draft_tokens_total,
        stats.draft_tokens_total,
        replayed.decodes.1,
        replayed.decodes.0,
    );
    if !replayed.acceptance.is_empty() {
        let rates: Vec<String> = replayed.acceptance.iter().map(|rate| format!("{rate:.3}")).collect();
        text.push_str(&format!("for a simulation speculative_acceptance_rate = [{}]\n", rates.join(", ")));
    }
    if replayed.cut_off {
        text.push_str("The last line is not whole and was left out: the server was killed.\n");
    }
    if let Some(step) = replayed.uncommitted {
        text.push_str(&format!("Step {step} was planned and its outcome never recorded.\n"));
    }
    text
}
