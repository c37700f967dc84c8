//! What a step on a CPU is priced by.
//!
//! Linear layers: the first row pays for streaming the weights, and each further row pays by the class it falls into,
//! because products of few rows wait for memory and larger ones for arithmetic. Attention: each key that a decoding sequence
//! sees, each pair of a prompt, each key that a tile of a prompt's queries reads. The output projection and sampling: the first
//! row, then each further one by class. And one price for each step and each sequence, whatever it does.

use llmlab_models::ModelSpec;
use llmlab_models::architecture::Window;
use serde::{Deserialize, Serialize};

use crate::shape::SeqShape;

/// Upper ends of the classes of rows; the first row belongs to the step, what is above the last end to one more class.
const ROWS: [u64; 8] = [2, 4, 8, 16, 32, 64, 128, 256];
/// The same for rows that get logits.
const LOGIT_ROWS: [u64; 3] = [4, 16, 64];

/// Query vectors (tokens times query heads on one KV head) that the CPU kernels read a key for at once.
const TILE_QUERIES: u32 = 32;

/// One a term, in the order of [`of`].
pub const NAMES: [&str; COUNT] = [
    "step, with its first row",
    "rows 2",
    "rows 3 to 4",
    "rows 5 to 8",
    "rows 9 to 16",
    "rows 17 to 32",
    "rows 33 to 64",
    "rows 65 to 128",
    "rows 129 to 256",
    "rows above 256",
    "sequence",
    "decode, key seen",
    "prefill, pair",
    "prefill, key read",
    "logits, first row",
    "logits, rows 2 to 4",
    "logits, rows 5 to 16",
    "logits, rows 17 to 64",
    "logits, rows above 64",
];

/// The place of the first term of prompts.
const PREFILL_PAIR: usize = 1 + (ROWS.len() + 1) + 2;

const COUNT: usize = 1 + (ROWS.len() + 1) + 4 + 1 + (LOGIT_ROWS.len() + 1);

/// What the terms need of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttentionShape {
    /// Windows of the layers with the share of the layers that has each.
    windows: Vec<(Option<u32>, f64)>,
    /// Tokens whose queries share one read of the keys.
    tile_tokens: u32,
}

impl AttentionShape {
    pub fn of(spec: &ModelSpec) -> AttentionShape {
        let mut windows: Vec<(Option<u32>, f64)> = Vec::new();
        let share = 1.0 / spec.layers.len().max(1) as f64;
        for layer in &spec.layers {
            match windows.iter_mut().find(|(window, _)| *window == layer.window) {
                Some((_, sum)) => *sum += share,
                None => windows.push((layer.window, share)),
            }
        }
        let heads_on_one = (spec.num_heads / spec.num_kv_heads.max(1)).max(1);
        AttentionShape { windows, tile_tokens: (TILE_QUERIES / heads_on_one).max(1) }
    }

    /// The mean of a count over the layers.
    fn mean(&self, count: impl Fn(Option<Window>) -> u64) -> f64 {
        self.windows.iter().map(|(window, share)| share * count(window.map(Window::Sliding)) as f64).sum()
    }

    /// Keys that a chunk of a prompt reads, once for each tile of its queries.
    fn keys_read(&self, seq: &SeqShape, window: Option<Window>) -> u64 {
        let (context, new, tile) = (u64::from(seq.context), u64::from(seq.new), u64::from(self.tile_tokens));
        let (whole, tiles) = (new / tile, new.div_ceil(tile));
        let last = if tiles > whole { new } else { 0 };
        let all = tiles * context + tile * whole * (whole + 1) / 2 + last;
        window.map_or(all, |window| all.min(tiles * (u64::from(window.tokens()) + tile - 1)))
    }
}

/// How much of each term a step has.
pub fn of(shape: &AttentionShape, seqs: &[SeqShape]) -> [f64; COUNT] {
    let rows = seqs.iter().map(SeqShape::rows).sum();
    let logits = seqs.iter().map(SeqShape::logits).sum();
    let work = seqs.iter().filter(|seq| seq.new > 0);
    let (prompts, decodes): (Vec<&SeqShape>, Vec<&SeqShape>) = work.partition(|seq| seq.new > 1);
    let decode_keys = shape.mean(|window| decodes.iter().map(|seq| seq.seen(window)).sum());
    let mut terms = counts(rows, logits, seqs.len(), decode_keys);
    for seq in prompts {
        terms[PREFILL_PAIR] += shape.mean(|window| seq.pairs(window));
        terms[PREFILL_PAIR + 1] += shape.mean(|window| shape.keys_read(seq, window));
    }
    terms
}

/// The same where so many sequences compute one token each, seeing `keys` keys in all; `None` if some layer has a window.
pub fn of_decode(shape: &AttentionShape, sequences: usize, keys: u64) -> Option<[f64; COUNT]> {
    let rows = sequences as u64;
    let open = shape.windows.iter().all(|(window, _)| window.is_none());
    open.then(|| counts(rows, rows, sequences, shape.mean(|_| keys)))
}

/// All terms but those of prompts.
fn counts(rows: u64, logits: u64, sequences: usize, decode_keys: f64) -> [f64; COUNT] {
    let mut terms = [0.0; COUNT];
    let (head, rest) = terms.split_at_mut(1);
    let (by_rows, rest) = rest.split_at_mut(ROWS.len() + 1);
    let (attention, rest) = rest.split_at_mut(4);
    let (first_logits, by_logits) = rest.split_at_mut(1);
    head[0] = 1.0;
    classes(rows, &ROWS, by_rows);
    attention[0] = sequences as f64;
    attention[1] = decode_keys;
    first_logits[0] = f64::from(u8::from(logits > 0));
    classes(logits, &LOGIT_ROWS, by_logits);
    terms
}

/// Splits the rows after the first into classes: each gets those between its ends.
fn classes(rows: u64, ends: &[u64], counts: &mut [f64]) {
    let mut low = 1;
    for (count, high) in counts.iter_mut().zip(ends.iter().copied().chain([u64::MAX])) {
        *count = (rows.min(high).saturating_sub(low)) as f64;
        low = high;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_fall_into_classes_that_add_up() {
        for rows in [0, 1, 2, 3, 16, 17, 300, 5000] {
            let mut counts = [0.0; 9];
            classes(rows, &ROWS, &mut counts);
            assert_eq!(counts.iter().sum::<f64>(), rows.saturating_sub(1) as f64, "{rows}");
        }
        let mut counts = [0.0; 9];
        classes(20, &ROWS, &mut counts);
        assert_eq!(counts, [1.0, 2.0, 4.0, 8.0, 4.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_mixed_step_has_the_terms_of_its_parts() {
        let shape = AttentionShape { windows: vec![(None, 0.5), (Some(8), 0.5)], tile_tokens: 3 };
        let decode = SeqShape { context: 9, new: 1, padding: 0, sample: true, drafts: 0 };
        let prefill = SeqShape { context: 0, new: 4, padding: 0, sample: false, drafts: 0 };
        let terms = of(&shape, &[decode, prefill]);
        let named = |name: &str| terms[NAMES.iter().position(|known| *known == name).unwrap()];
        assert_eq!(named("step, with its first row"), 1.0);
        assert_eq!(terms[1..10].iter().sum::<f64>(), 4.0, "5 rows");
        assert_eq!(named("sequence"), 2.0);
        assert_eq!(named("decode, key seen"), (10.0 + 8.0) / 2.0);
        assert_eq!(named("prefill, pair"), 10.0);
        // Tokens 0 to 2 are a tile and read 3 keys, token 3 is another and reads 4.
        assert_eq!(named("prefill, key read"), 7.0);
        assert_eq!((named("logits, first row"), named("logits, rows 2 to 4")), (1.0, 0.0));
    }
}
