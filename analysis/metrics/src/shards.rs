//! A run put together from shards is as good as the worst of them, whatever the pooled records look like.

use std::collections::BTreeSet;

use llmlab_results::manifest::{ClockOffset, HostFacts, Manifest, PartFacts, Sharding};

use crate::trust::UntrustedCause;

/// Empty for a run of one machine.
pub fn parts(manifest: &Manifest) -> &[PartFacts] {
    match &manifest.sharding {
        Some(Sharding::Merged(parts)) => parts,
        Some(Sharding::Shard(_)) | None => &[],
    }
}

/// What single shards had against them, and clocks that cannot have begun together.
pub fn causes(parts: &[PartFacts]) -> Vec<UntrustedCause> {
    let untrusted = parts.iter().filter(|part| !part.trusted).map(|part| UntrustedCause::Shard {
        shard: part.shard.index,
        host: part.host.hostname.clone(),
        words: match part.causes.is_empty() {
            true => "its run did not end".into(),
            false => part.causes.join("; "),
        },
    });
    let mut causes: Vec<UntrustedCause> = untrusted.collect();
    let known = |part: &PartFacts| part.shard.clock.map(|clock| (part.shard.index, clock));
    let clocks: Vec<(u32, ClockOffset)> = parts.iter().filter_map(known).collect();
    // The two that are surely furthest apart: one is behind the server by at least what the other is at most.
    let behind = clocks.iter().max_by_key(|(_, clock)| clock.least_ms);
    let ahead = clocks.iter().min_by_key(|(_, clock)| clock.most_ms);
    if let (Some((one, slow)), Some((other, fast))) = (behind, ahead)
        && slow.least_ms > fast.most_ms
    {
        let apart_ms = slow.least_ms.saturating_sub(fast.most_ms);
        causes.push(UntrustedCause::ShardClocks { shards: (*one, *other), apart_ms });
    }
    causes
}

/// The machines by name, each once.
pub fn hosts(parts: &[PartFacts]) -> Vec<String> {
    let name = |host: &HostFacts| host.hostname.clone();
    parts.iter().map(|part| name(&part.host)).collect::<BTreeSet<_>>().into_iter().collect()
}
