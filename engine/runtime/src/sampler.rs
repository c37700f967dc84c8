//! From logits to a token.
//!
//! The draw of a token is a function of (request seed, index of the token) and its logits, so it does not depend on what
//! else is in the batch or how often the request was preempted.

use std::sync::{Mutex, MutexGuard, PoisonError};

use llmlab_core::executor::ExecutorError;
use llmlab_core::request::{SamplingParams, TokenId};
use llmlab_core::step::{Sampled, StepPlan};
use llmlab_kernels::ThreadPool;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Why no token can be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    #[error("the logit of token {0} is not finite")]
    NotFinite(TokenId),
    #[error("every token is banned")]
    AllBanned,
}

/// Picks the tokens of a step, a sequence at a time on each thread; keeps its buffers between calls.
#[derive(Default)]
pub struct Sampler {
    /// One per thread.
    pickers: Vec<Mutex<Picker>>,
    /// What is picked from: a sequence of the plan, and how many drafts lie before the place.
    rows: Vec<(usize, u32)>,
    /// One per row.
    picked: Vec<Mutex<Result<TokenId, SampleError>>>,
}

/// Picks one token; keeps its buffers between calls.
#[derive(Default)]
pub struct Picker {
    masked: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// A token with its logit, later its weight.
#[derive(Clone, Copy)]
struct Candidate {
    value: f32,
    token: TokenId,
}

impl Sampler {
    /// Tokens for each sampling sequence of the plan: the next one, and one more for each draft that was accepted. `logits`
    /// holds first the rows that are sampled from, in plan order: that of the last token that is no draft, then those of
    /// the drafts.
    ///
    /// Every row is picked as it would be without speculation, and a draft is accepted if it is what was picked. Since a
    /// pick depends on nothing but the request's seed, its place and the logits, speculation changes no token. For a draft
    /// that was not drawn at random this is rejection sampling (Leviathan et al., 2023): it is accepted with the target's
    /// probability of it, and what replaces it follows the target's distribution without it.
    pub fn sample(
        &mut self,
        pool: &ThreadPool,
        plan: &StepPlan,
        logits: &[f32],
        vocab: usize,
    ) -> Result<Vec<Sampled>, ExecutorError> {
        self.rows.clear();
        for (index, seq) in plan.seqs.iter().enumerate().filter(|(_, seq)| seq.sample) {
            self.rows.extend((0..=seq.drafts).map(|ahead| (index, ahead)));
        }
        let count = self.rows.len();
        self.pickers.resize_with(pool.threads().max(self.pickers.len()), Mutex::default);
        self.picked.resize_with(count.max(self.picked.len()), || Mutex::new(Ok(0)));
        let (pickers, picked, rows) = (&self.pickers, &self.picked, &self.rows);
        pool.split(count, 1, &|worker, range| {
            let mut picker = lock(&pickers[worker]);
            for row in range {
                let (index, ahead) = rows[row];
                let seq = &plan.seqs[index];
                let generated = seq.generated + ahead;
                let banned: &[TokenId] =
                    if ahead > 0 && generated >= seq.banned_until { &[] } else { &seq.banned };
                let logits = &logits[row * vocab..(row + 1) * vocab];
                *lock(&picked[row]) = picker.pick(logits, &seq.sampling, generated, banned);
            }
        });
        let mut sampled = Vec::with_capacity(count);
        let mut refused = None;
        for (&(index, ahead), picked) in self.rows.iter().zip(&self.picked) {
            if refused == Some(index) {
                continue;
            }
            let seq = &plan.seqs[index];
            let token = (*lock(picked)).map_err(|error| {
                ExecutorError(format!("step {}, request {}: {error}", plan.step, seq.id.0))
            })?;
            sampled.push(Sampled { seq: index as u32, token });
            let draft = seq.tokens[seq.tokens.len() - seq.drafts as usize..].get(ahead as usize);
            if draft != Some(&token) {
                refused = Some(index);
            }
        }
        Ok(sampled)
    }
}

/// Nothing is left half done by a panic that would matter to the next step: every buffer is filled anew.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Picker {
    /// Greedy at `temperature == 0`: the first of the largest logits. Otherwise the order of vLLM: temperature, then
    /// top-k, then top-p over what is left, then one draw. Banned tokens are never picked.
    pub fn pick(
        &mut self,
        logits: &[f32],
        params: &SamplingParams,
        generated: u32,
        banned: &[TokenId],
    ) -> Result<TokenId, SampleError> {
        let mut best = first_max(logits)?;
        let mut logits = logits;
        if !banned.is_empty() {
            self.masked.clear();
            self.masked.extend_from_slice(logits);
            for token in banned {
                if let Some(logit) = self.masked.get_mut(*token as usize) {
                    // Low enough never to be picked, and finite, so that the search takes it for a logit.
                    *logit = f32::MIN;
                }
            }
            logits = &self.masked;
            best = first_max(logits)?;
        }
        if logits[best] == f32::MIN {
            return Err(SampleError::AllBanned);
        }
        if params.temperature > 0.0 {
            Ok(draw(&mut self.candidates, logits, logits[best], params, generated))
        } else {
            Ok(best as TokenId)
        }
    }
}

/// The first of the largest logits, all of which must be finite. One pass in lanes; only the block that holds the largest
/// is searched for its place.
fn first_max(logits: &[f32]) -> Result<usize, SampleError> {
    const BLOCK: usize = 1024;
    let (mut max, mut first) = (f32::NEG_INFINITY, 0);
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        let mut lanes = [f32::NEG_INFINITY; 16];
        // A product with zero is NaN for NaN and infinity alike, and summing needs no branch.
        let mut zeros = [0.0f32; 16];
        let chunks = block.as_chunks::<16>();
        for chunk in chunks.0 {
            for i in 0..16 {
                lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
                zeros[i] += chunk[i] * 0.0;
            }
        }
        let finite = zeros.iter().sum::<f32>() + chunks.1.iter().map(|logit| logit * 0.0).sum::<f32>();
        if !finite.is_finite() {
            let bad = block.iter().position(|logit| !logit.is_finite()).unwrap_or_default();
            return Err(SampleError::NotFinite((index * BLOCK + bad) as TokenId));
        }
        let block_max = lanes.iter().chain(chunks.1).copied().fold(f32::NEG_INFINITY, f32::max);
        if block_max > max {
            (max, first) = (block_max, index * BLOCK);
        }
    }
    let block = &logits[first..logits.len().min(first + BLOCK)];
    Ok(first + block.iter().position(|logit| *logit == max).unwrap_or_default())
}

fn draw(
    candidates: &mut Vec<Candidate>,
    logits: &[f32],
    max: f32,
    params: &SamplingParams,
    generated: u32,
) -> TokenId {
    candidates.clear();
    let allowed = logits.iter().enumerate().filter(|(_, logit)| **logit > f32::MIN);
    candidates.extend(allowed.map(|(token, logit)| Candidate { value: *logit, token: token as TokenId }));
    let by_value = |a: &Candidate, b: &Candidate| b.value.total_cmp(&a.value).then(a.token.cmp(&b.token));
    let top_k = params.top_k as usize;
    if top_k > 0 && top_k < candidates.len() {
        candidates.select_nth_unstable_by(top_k - 1, by_value);
        candidates.truncate(top_k);
        candidates.sort_unstable_by_key(|candidate| candidate.token);
    }
    for candidate in candidates.iter_mut() {
        candidate.value = ((candidate.value - max) / params.temperature).exp();
    }
    let mut total = sum(candidates);
    if params.top_p < 1.0 {
        let wanted = f64::from(params.top_p.max(0.0)) * total;
        // All tokens below this weight together hold less than the share that is cut: none of them is in the nucleus,
        // and what is left to sort is short.
        let floor = (total - wanted) / candidates.len() as f64;
        candidates.retain(|candidate| f64::from(candidate.value) >= floor);
        candidates.sort_unstable_by(by_value);
        let mut reached = 0.0;
        let kept = candidates.iter().position(|candidate| {
            reached += f64::from(candidate.value);
            reached >= wanted
        });
        candidates.truncate(kept.map_or(candidates.len(), |last| last + 1));
        total = sum(candidates);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(params.seed);
    rng.set_stream(u64::from(generated));
    let mut left = rng.random::<f64>() * total;
    for candidate in candidates.iter() {
        left -= f64::from(candidate.value);
        if left < 0.0 {
            return candidate.token;
        }
    }
    // Rounding may leave a remainder; it belongs to the last token that has any weight.
    candidates.iter().rev().find(|c| c.value > 0.0).map_or(0, |candidate| candidate.token)
}

fn sum(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.value)).sum()
}

#[cfg(test)]
mod tests {
    use llmlab_core::request::RequestId;
    use llmlab_core::step::{BlockId, SeqStep};

    use super::*;

    fn params(temperature: f32, top_k: u32, top_p: f32, seed: u64) -> SamplingParams {
        SamplingParams { temperature, top_k, top_p, seed }
    }

    fn counts(logits: &[f32], params: impl Fn(u64) -> SamplingParams, draws: u64) -> Vec<u32> {
        let mut counts = vec![0; logits.len()];
        for seed in 0..draws {
            counts[Picker::default().pick(logits, &params(seed), 0, &[]).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_equal_maxima_and_skips_banned_tokens() {
        let mut logits = vec![0.0f32; 50];
        (logits[7], logits[23], logits[49]) = (3.0, 3.0, 2.5);
        let pick = |banned: &[u32]| Picker::default().pick(&logits, &params(0.0, 5, 0.1, 9), 0, banned);
        assert_eq!(pick(&[]), Ok(7));
        assert_eq!(pick(&[7]), Ok(23));
        assert_eq!(pick(&[23, 7, 1000]), Ok(49));
        let all: Vec<u32> = (0..50).collect();
        assert_eq!(pick(&all), Err(SampleError::AllBanned));
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut logits = vec![1.0; 40];
            logits[33] = bad;
            for temperature in [0.0, 1.0] {
                let result = Picker::default().pick(&logits, &params(temperature, 0, 1.0, 0), 0, &[]);
                assert_eq!(result, Err(SampleError::NotFinite(33)));
            }
        }
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0, -1.0];
        let draws = 20_000;
        for temperature in [0.5f32, 1.0, 2.0] {
            let counts = counts(&logits, |seed| params(temperature, 0, 1.0, seed), draws);
            let weights = logits.map(|l| f64::from(l / temperature).exp());
            let total: f64 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(weights) {
                let (p, seen) = (weight / total, f64::from(*count) / draws as f64);
                let deviation = (p * (1.0 - p) / draws as f64).sqrt();
                assert!((seen - p).abs() < 4.0 * deviation, "temperature {temperature}: {seen} against {p}");
            }
        }
    }

    #[test]
    fn top_k_and_top_p_keep_the_right_tokens() {
        // Probabilities 0.1, 0.4, 0.3, 0.2.
        let logits = [0.1f32, 0.4, 0.3, 0.2].map(f32::ln);
        let seen = |top_k, top_p| -> Vec<bool> {
            counts(&logits, |seed| params(1.0, top_k, top_p, seed), 500).iter().map(|c| *c > 0).collect()
        };
        assert_eq!(seen(0, 1.0), [true, true, true, true]);
        assert_eq!(seen(2, 1.0), [false, true, true, false]);
        // 0.4 does not reach 0.6, 0.4 + 0.3 does.
        assert_eq!(seen(0, 0.6), [false, true, true, false]);
        assert_eq!(seen(0, 0.75), [false, true, true, true]);
        assert_eq!(seen(0, 0.0), [false, true, false, false]);
        // After top-k 3 the shares are 4/9, 3/9, 2/9: two tokens reach 0.75.
        assert_eq!(seen(3, 0.75), [false, true, true, false]);
        // Equal logits at the edge of top-k: the smaller ids stay.
        let ties = counts(&[1.0f32; 6], |seed| params(1.0, 2, 1.0, seed), 200);
        assert!(ties[0] > 0 && ties[1] > 0 && ties[2..].iter().all(|c| *c == 0));
    }

    /// What a step with these drafts brings, many times with other seeds.
    fn verified(rows: &[[f32; 3]], drafts: &[TokenId], draws: u64) -> Vec<Vec<TokenId>> {
        let pool = ThreadPool::new(2);
        let logits: Vec<f32> = rows.concat();
        let seq = |seed| SeqStep {
            drafts: drafts.len() as u32,
            sampling: params(1.0, 0, 1.0, seed),
            generated: 4,
            ..SeqStep::new(RequestId(seed), 0, [&[9], drafts].concat(), vec![BlockId(1)])
        };
        let mut sampler = Sampler::default();
        let mut step = |seed| {
            let plan = StepPlan { step: 1, seqs: vec![seq(seed)], preempted: vec![], admitted: vec![] };
            let sampled = sampler.sample(&pool, &plan, &logits, 3).unwrap();
            sampled.iter().map(|s| s.token).collect()
        };
        (0..draws).map(&mut step).collect()
    }

    /// The first token follows the target's distribution whatever was guessed, the second follows that of its row, and a
    /// guess is accepted as often as the target would have said it.
    #[test]
    fn drafts_change_no_frequency() {
        let draws = 20_000;
        let (first, second) = ([0.5f64, 0.3, 0.2], [0.1f64, 0.2, 0.7]);
        let rows = [first, second].map(|row| row.map(|p| p.ln() as f32));
        let close = |seen: usize, of: usize, p: f64| {
            let share = seen as f64 / of as f64;
            assert!((share - p).abs() < 4.0 * (p * (1.0 - p) / of as f64).sqrt(), "{share} against {p}");
        };
        for draft in 0..3 {
            let steps = verified(&rows, &[draft], draws);
            for token in 0..3 {
                let firsts = steps.iter().filter(|tokens| tokens[0] == token).count();
                close(firsts, steps.len(), first[token as usize]);
            }
            let accepted: Vec<_> = steps.iter().filter(|tokens| tokens.len() == 2).collect();
            assert!(accepted.iter().all(|tokens| tokens[0] == draft));
            close(accepted.len(), steps.len(), first[draft as usize]);
            for token in 0..3 {
                let seconds = accepted.iter().filter(|tokens| tokens[1] == token).count();
                close(seconds, accepted.len(), second[token as usize]);
            }
        }
    }

    #[test]
    fn a_draw_is_fixed_by_seed_and_index() {
        let logits = vec![0.0f32; 1000];
        let pick = |seed, generated| {
            Picker::default().pick(&logits, &params(1.0, 0, 1.0, seed), generated, &[]).unwrap()
        };
        assert_eq!(pick(5, 3), pick(5, 3));
        let by_index: Vec<u32> = (0..8).map(|index| pick(5, index)).collect();
        let by_seed: Vec<u32> = (0..8).map(|seed| pick(seed, 0)).collect();
        for row in [by_index, by_seed] {
            assert!(row.windows(2).any(|pair| pair[0] != pair[1]), "{row:?}");
        }
    }
}
