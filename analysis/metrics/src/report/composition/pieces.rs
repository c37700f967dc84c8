//! A window of the step log as rectangles on a time axis.

use std::collections::HashMap;
use std::ops::Range;

use llmlab_results::step::{StepRow, StepSeq};

use super::lanes::{Stay, busiest, places, stays};

/// Steps in a picture at most. More are too narrow to tell apart.
const MOST_STEPS: usize = 60;
/// Rectangles in a picture at most; a window with more is cut shorter.
const MOST_PIECES: usize = 2000;
/// Places drawn at most; the rest are counted.
const MOST_PLACES: usize = 64;

/// What a place in the batch does in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    Prefill,
    /// Prompt and output that were computed before a preemption already.
    Again,
    Decode,
    /// Guesses being verified.
    Drafts,
    Padding,
    /// Holds its place and its memory; nothing is computed for it.
    Held,
}

/// One place for some time. Times are milliseconds since the window began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Piece {
    pub place: usize,
    pub from: f64,
    pub to: f64,
    pub work: Work,
    pub tokens: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Composition {
    /// As the engine counts them.
    pub first_step: u64,
    pub last_step: u64,
    pub steps_in_log: usize,
    pub length_ms: f64,
    pub pieces: Vec<Piece>,
    /// (place, time) of each preemption.
    pub preempted: Vec<(usize, f64)>,
    pub places: usize,
    /// Places beyond those drawn.
    pub hidden_places: usize,
    /// When steps begin.
    pub begins: Vec<f64>,
    /// (time, value), held until the next one.
    pub waiting: Vec<(f64, f64)>,
    pub free_blocks: Vec<(f64, f64)>,
    pub total_blocks: u32,
}

impl Composition {
    /// `None` for an empty log. The picture has a bounded number of parts however long the log is.
    pub fn of(rows: &[StepRow]) -> Option<Composition> {
        let stays = stays(rows);
        let mut width = MOST_STEPS;
        loop {
            let window = busiest(rows, &stays, width);
            let composition = of_window(rows, &stays, window)?;
            if composition.pieces.len() <= MOST_PIECES || width == 1 {
                return Some(composition);
            }
            width = (width / 2).max(1);
        }
    }
}

fn of_window(rows: &[StepRow], all: &[Stay], window: Range<usize>) -> Option<Composition> {
    let seen = rows.get(window.clone())?;
    let (first, last) = (seen.first()?, seen.last()?);
    let ms = |ns: u64| ns.saturating_sub(first.start_monotonic_ns) as f64 / 1e6;
    let end = |row: &StepRow| ms(row.start_monotonic_ns.saturating_add(row.elapsed_ns));
    let inside: Vec<&Stay> =
        all.iter().filter(|stay| stay.first < window.end && stay.last >= window.start).collect();
    let places = places(inside.iter().copied());
    let mut pieces: Vec<Piece> = Vec::new();
    let mut preempted = Vec::new();
    let shares: Vec<HashMap<u64, &StepSeq>> =
        seen.iter().map(|row| row.seqs.iter().map(|seq| (seq.id, seq)).collect()).collect();
    for (stay, &place) in inside.iter().zip(&places).filter(|(_, place)| **place < MOST_PLACES) {
        let before = pieces.len();
        for step in stay.first.max(window.start)..=stay.last.min(window.end - 1) {
            let row = &rows[step];
            let span = (ms(row.start_monotonic_ns), end(row));
            let parts = match shares[step - window.start].get(&stay.id) {
                Some(seq) => parts(seq, stay.lost),
                None => vec![(Work::Held, 1)],
            };
            add(&mut pieces, before, place, span, &parts);
        }
        let thrown_out = stay.preempted_at.filter(|step| window.contains(step));
        preempted.extend(thrown_out.map(|step| (place, ms(rows[step].start_monotonic_ns))));
    }
    let all_places = places.iter().map(|place| place + 1).max().unwrap_or(0);
    let gauge = |value: fn(&StepRow) -> u32| {
        let values = seen.iter().map(|row| (ms(row.start_monotonic_ns), f64::from(value(row))));
        values.chain([(end(last), f64::from(value(last)))]).collect()
    };
    Some(Composition {
        first_step: first.step,
        last_step: last.step,
        steps_in_log: rows.len(),
        length_ms: end(last),
        pieces,
        preempted,
        places: all_places.min(MOST_PLACES),
        hidden_places: all_places.saturating_sub(MOST_PLACES),
        begins: seen.iter().map(|row| ms(row.start_monotonic_ns)).collect(),
        waiting: gauge(|row| row.waiting),
        free_blocks: gauge(|row| row.free_blocks),
        total_blocks: first.total_blocks,
    })
}

/// What a sequence computes in a step, with the rows of each kind of work.
fn parts(seq: &StepSeq, lost: u64) -> Vec<(Work, u32)> {
    let drafts = seq.drafts.min(seq.new_tokens);
    let own = seq.new_tokens - drafts;
    // One token on top of cached ones is a decode, as in the figures.
    let kind = match (own, seq.context) {
        (0 | 1, 1..) => Work::Decode,
        (_, context) if u64::from(context) < lost => Work::Again,
        _ => Work::Prefill,
    };
    let parts = [(kind, own), (Work::Drafts, drafts), (Work::Padding, seq.padding)];
    let parts: Vec<_> = parts.into_iter().filter(|(_, rows)| *rows > 0).collect();
    if parts.is_empty() { vec![(Work::Held, 1)] } else { parts }
}

/// Side by side in the step's time, each as wide as its share of the rows. The same work in the next step prolongs a piece,
/// but for prompts, whose chunks are worth seeing.
fn add(pieces: &mut Vec<Piece>, own: usize, place: usize, span: (f64, f64), parts: &[(Work, u32)]) {
    let rows: f64 = parts.iter().map(|(_, rows)| f64::from(*rows)).sum();
    let mut from = span.0;
    for &(work, tokens) in parts {
        let to = from + (span.1 - span.0) * f64::from(tokens) / rows;
        // An idle engine is not hidden; the pause between two steps is.
        let pause = (span.1 - span.0) * 0.5;
        match pieces[own..].last_mut() {
            Some(last)
                if last.work == work
                    && !matches!(work, Work::Prefill | Work::Again)
                    && from - last.to <= pause =>
            {
                last.to = to;
                last.tokens = last.tokens.saturating_add(tokens);
            }
            _ => pieces.push(Piece { place, from, to, work, tokens }),
        }
        from = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64, seqs: Vec<StepSeq>) -> StepRow {
        StepRow {
            step,
            start_monotonic_ns: step * 10_000_000,
            elapsed_ns: 9_000_000,
            seqs,
            ..StepRow::default()
        }
    }

    fn seq(id: u64, new_tokens: u32, context: u32, padding: u32) -> StepSeq {
        StepSeq { id, new_tokens, context, padding, ..StepSeq::default() }
    }

    fn told(rows: &[StepRow]) -> Vec<(usize, f64, f64, Work, u32)> {
        let composition = Composition::of(rows).unwrap();
        composition.pieces.iter().map(|p| (p.place, p.from, p.to, p.work, p.tokens)).collect()
    }

    #[test]
    fn a_padded_batch_is_split_by_its_rows() {
        let rows = [
            row(1, vec![seq(1, 8, 0, 0), seq(2, 6, 0, 2)]),
            row(2, vec![seq(1, 1, 8, 0), seq(2, 1, 6, 0)]),
            row(3, vec![seq(1, 1, 9, 0), seq(2, 0, 7, 1)]),
        ];
        assert_eq!(
            told(&rows),
            [
                (0, 0.0, 9.0, Work::Prefill, 8),
                (0, 10.0, 29.0, Work::Decode, 2),
                (1, 0.0, 6.75, Work::Prefill, 6),
                (1, 6.75, 9.0, Work::Padding, 2),
                (1, 10.0, 19.0, Work::Decode, 1),
                (1, 20.0, 29.0, Work::Padding, 1),
            ]
        );
    }

    #[test]
    fn stalls_drafts_and_second_computations_are_told_apart() {
        let mut thrown_out = row(3, vec![seq(1, 1, 5, 0)]);
        thrown_out.preempted = vec![2];
        let drafting = StepSeq { drafts: 3, ..seq(1, 4, 6, 0) };
        let rows = [
            row(1, vec![seq(1, 4, 0, 0), seq(2, 4, 0, 0)]),
            // A prompt runs alone: both others keep their places.
            row(2, vec![seq(3, 7, 0, 0)]),
            thrown_out,
            row(4, vec![drafting, seq(2, 4, 0, 0)]),
        ];
        assert_eq!(
            told(&rows),
            [
                (0, 0.0, 9.0, Work::Prefill, 4),
                (0, 10.0, 19.0, Work::Held, 1),
                (0, 20.0, 32.25, Work::Decode, 2),
                (0, 32.25, 39.0, Work::Drafts, 3),
                (1, 0.0, 9.0, Work::Prefill, 4),
                (1, 10.0, 19.0, Work::Held, 1),
                (2, 10.0, 19.0, Work::Prefill, 7),
                (1, 30.0, 39.0, Work::Again, 4),
            ]
        );
    }
}
