//! In what two plans differ, in words.

use llmlab_core::recording::{PlanRecord, SeqRecord};

/// The first thing in which they differ.
pub fn difference(recorded: &PlanRecord, planned: &PlanRecord) -> Option<String> {
    if recorded == planned {
        return None;
    }
    let (was, is) = (&recorded.seqs, &planned.seqs);
    if let Some(place) = was.iter().zip(is).position(|(was, is)| was != is) {
        let what = sequences(&was[place], &is[place]);
        return Some(format!("sequence {} of {}: {what}", place + 1, was.len()));
    }
    if was.len() != is.len() {
        return Some(format!("recorded {} sequences, planned {}", was.len(), is.len()));
    }
    if recorded.preempted != planned.preempted {
        return Some(format!("recorded preempted {:?}, planned {:?}", recorded.preempted, planned.preempted));
    }
    if recorded.admitted != planned.admitted {
        return Some(format!(
            "recorded admitted (with ns waited) {:?}, planned {:?}",
            recorded.admitted, planned.admitted
        ));
    }
    Some(format!("recorded as step {}, planned as step {}", recorded.step, planned.step))
}

fn sequences(was: &SeqRecord, is: &SeqRecord) -> String {
    let numbers = [
        ("request", was.id.0, is.id.0),
        ("context", u64::from(was.context), u64::from(is.context)),
        ("tokens", u64::from(was.tokens), u64::from(is.tokens)),
        ("drafts", u64::from(was.drafts), u64::from(is.drafts)),
        ("padding", u64::from(was.padding), u64::from(is.padding)),
        ("blocks", u64::from(was.blocks), u64::from(is.blocks)),
    ];
    if let Some((what, was, is)) = numbers.into_iter().find(|(_, was, is)| was != is) {
        return format!("recorded {what} {was}, planned {is}");
    }
    let id = was.id.0;
    if was.sample != is.sample {
        return format!("request {id} was recorded to sample: {}, planned to: {}", was.sample, is.sample);
    }
    let same_count = [
        ("tokens", was.tokens_xxh3 == is.tokens_xxh3),
        ("blocks", was.blocks_xxh3 == is.blocks_xxh3),
        ("sampling", was.sampling_xxh3 == is.sampling_xxh3),
    ];
    let others = same_count.into_iter().filter(|(_, same)| !same).map(|(what, _)| what);
    format!("request {id} with other {}", others.collect::<Vec<_>>().join(" and "))
}
