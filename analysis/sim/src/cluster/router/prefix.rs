//! Routing by what replicas have in their prefix caches, as far as the router can tell from what it sent them: the rule of
//! SGLang's router (`cache_aware`) with its defaults (docs of sgl-router / SMG, 2026).

use llmlab_loadgen::Prompt;
use llmlab_loadgen::workload::PlannedRequest;
use rustc_hash::FxHashMap;

use super::{View, least_by, outstanding};
use crate::executor::mix;

/// If one replica has more than `balance_abs_threshold` requests in flight more than another, and more than
/// `balance_rel_threshold` times as many, the one with the fewest gets the request. Else the one that was sent the longest
/// beginning of it, if that is more than `cache_threshold` of the prompt; else the one that was sent the least.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrefixAware {
    pub cache_threshold: f64,
    pub balance_abs_threshold: u32,
    pub balance_rel_threshold: f64,
    /// Beginnings are compared by blocks of so many tokens; at least 1.
    pub block_tokens: usize,
    /// Blocks remembered of a replica; the half not seen for longest is forgotten when there are more.
    pub most_blocks: usize,
}

impl Default for PrefixAware {
    fn default() -> Self {
        PrefixAware {
            cache_threshold: 0.3,
            balance_abs_threshold: 64,
            balance_rel_threshold: 1.5,
            block_tokens: 16,
            most_blocks: 1 << 20,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Prefixes {
    /// By replica: hashes of beginnings, and when each was seen last.
    sent: Vec<FxHashMap<u64, u64>>,
    requests: u64,
    /// Memory for the hashes of a prompt.
    beginnings: Vec<u64>,
}

impl Prefixes {
    pub fn pick(&mut self, rule: &PrefixAware, request: &PlannedRequest, candidates: &[View]) -> usize {
        self.requests += 1;
        self.read(rule, request);
        let last = candidates.iter().map(|view| view.replica).max().unwrap_or(0);
        if self.sent.len() <= last {
            self.sent.resize_with(last + 1, FxHashMap::default);
        }
        let chosen = self.choose(rule, candidates);
        self.remember(rule, candidates[chosen].replica);
        chosen
    }

    pub fn forget(&mut self, replica: usize) {
        if let Some(sent) = self.sent.get_mut(replica) {
            *sent = FxHashMap::default();
        }
    }

    fn choose(&self, rule: &PrefixAware, candidates: &[View]) -> usize {
        let loads = candidates.iter().map(|view| view.outstanding);
        let (most, fewest) = (loads.clone().max().unwrap_or(0), loads.min().unwrap_or(0));
        if most - fewest > rule.balance_abs_threshold
            && f64::from(most) > rule.balance_rel_threshold * f64::from(fewest)
        {
            return least_by(candidates, outstanding);
        }
        let best = least_by(candidates, |view| -(self.known(view.replica) as f64));
        let share = self.known(candidates[best].replica) as f64 / self.beginnings.len().max(1) as f64;
        if share > rule.cache_threshold {
            return best;
        }
        least_by(candidates, |view| self.sent[view.replica].len() as f64 / view.weight)
    }

    /// Blocks at the beginning that the replica was sent before.
    fn known(&self, replica: usize) -> usize {
        let sent = &self.sent[replica];
        self.beginnings.iter().take_while(|hash| sent.contains_key(hash)).count()
    }

    fn read(&mut self, rule: &PrefixAware, request: &PlannedRequest) {
        self.beginnings.clear();
        // Prompts of words are different from each other here.
        let Prompt::Tokens(tokens) = &request.prompt else { return };
        let mut hash = 0;
        for block in tokens.chunks_exact(rule.block_tokens.max(1)) {
            hash = block.iter().fold(hash, |hash, token| mix(hash ^ u64::from(*token)));
            self.beginnings.push(hash);
        }
    }

    fn remember(&mut self, rule: &PrefixAware, replica: usize) {
        let sent = &mut self.sent[replica];
        sent.extend(self.beginnings.iter().map(|hash| (*hash, self.requests)));
        if sent.len() > rule.most_blocks {
            let mut seen: Vec<u64> = sent.values().copied().collect();
            let middle = seen.len() / 2;
            let (_, median, _) = seen.select_nth_unstable(middle);
            let median = *median;
            sent.retain(|_, seen| *seen > median);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub fn request(index: u64, tokens: &[u32]) -> PlannedRequest {
        PlannedRequest {
            index,
            at: Duration::ZERO,
            prompt: Prompt::Tokens(tokens.to_vec()),
            prompt_tokens: tokens.len() as u32,
            max_tokens: 1,
            adapter: None,
            turn: None,
            hang_up: None,
        }
    }

    fn view(replica: usize, outstanding: u32) -> View {
        View { replica, weight: 1.0, outstanding, tokens: 0, waiting: 0, kv_share: 0.0 }
    }

    #[test]
    fn a_known_beginning_goes_where_it_was_until_the_loads_differ_too_much() {
        let rule = PrefixAware { block_tokens: 2, balance_abs_threshold: 4, ..PrefixAware::default() };
        let mut prefixes = Prefixes::default();
        let even = [view(0, 0), view(1, 0)];
        let mut pick = |tokens: &[u32], views: &[View]| prefixes.pick(&rule, &request(0, tokens), views);
        assert_eq!(pick(&[1, 1, 2, 2], &even), 0);
        // Nothing of it is known: the one that was sent less.
        assert_eq!(pick(&[7, 7, 8, 8], &even), 1);
        // Half of it is known at each.
        assert_eq!(pick(&[1, 1, 9, 9], &even), 0);
        assert_eq!(pick(&[7, 7, 9, 9], &even), 1);
        // A block counts only behind the blocks before it.
        assert_eq!(pick(&[5, 5, 2, 2, 6, 6], &[view(0, 5), view(1, 0)]), 1);
        assert_eq!(pick(&[1, 1, 2, 2], &[view(0, 4), view(1, 0)]), 0);
        assert_eq!(pick(&[1, 1, 2, 2], &[view(0, 5), view(1, 0)]), 1);
        // 9 is not more than 1.5 times 6... but 10 is.
        assert_eq!(pick(&[1, 1, 3, 3], &[view(0, 16), view(1, 11)]), 0);
    }

    #[test]
    fn what_was_not_seen_for_longest_is_forgotten() {
        let rule = PrefixAware { block_tokens: 1, most_blocks: 10, ..PrefixAware::default() };
        let mut prefixes = Prefixes::default();
        for token in 0..100 {
            prefixes.pick(&rule, &request(0, &[token]), &[view(0, 0)]);
            assert!(prefixes.sent[0].len() <= 10);
        }
        prefixes.read(&rule, &request(0, &[99]));
        assert_eq!(prefixes.known(0), 1);
        prefixes.read(&rule, &request(0, &[0]));
        assert_eq!(prefixes.known(0), 0);
        prefixes.forget(0);
        assert!(prefixes.sent[0].is_empty());
    }
}
