//! Who holds a place in the batch from which step to which.

use std::collections::HashMap;

use llmlab_results::step::StepRow;

/// A request in the running batch, from admission to its end or to a preemption. Steps are positions in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stay {
    pub id: u64,
    pub first: usize,
    /// The last step that has it.
    pub last: usize,
    /// The step whose planning threw it out.
    pub preempted_at: Option<usize>,
    /// Tokens it had computed when it was last thrown out; what it computes below that, it computes again.
    pub lost: u64,
}

/// Every stay of the log, in order of their beginnings.
pub fn stays(rows: &[StepRow]) -> Vec<Stay> {
    let mut stays: Vec<Stay> = Vec::new();
    // By request: its latest stay, and what it has computed.
    let mut known: HashMap<u64, (usize, u64)> = HashMap::new();
    for (step, row) in rows.iter().enumerate() {
        for id in &row.preempted {
            let Some((stay, _)) = known.get(id) else { continue };
            let stay = &mut stays[*stay];
            if stay.preempted_at.is_none() {
                // It kept its place until now, though it may have sat out the last steps.
                (stay.preempted_at, stay.last) = (Some(step), step.saturating_sub(1).max(stay.first));
            }
        }
        for seq in &row.seqs {
            let computed = u64::from(seq.context) + u64::from(seq.new_tokens);
            let lost = match known.get_mut(&seq.id) {
                Some((stay, so_far)) if stays[*stay].preempted_at.is_none() => {
                    stays[*stay].last = step;
                    *so_far = computed;
                    continue;
                }
                Some((_, so_far)) => *so_far,
                None => 0,
            };
            known.insert(seq.id, (stays.len(), computed));
            stays.push(Stay { id: seq.id, first: step, last: step, preempted_at: None, lost });
        }
    }
    stays
}

/// A place for each stay, the lowest that is free; who has one keeps it. `stays` are in order of their beginnings.
pub fn places<'a>(stays: impl Iterator<Item = &'a Stay>) -> Vec<usize> {
    // By place, the last step of who holds it.
    let mut held_until: Vec<usize> = Vec::new();
    stays
        .map(|stay| match held_until.iter().position(|last| *last < stay.first) {
            Some(place) => {
                held_until[place] = stay.last;
                place
            }
            None => {
                held_until.push(stay.last);
                held_until.len() - 1
            }
        })
        .collect()
}

/// At most `width` consecutive steps in which most happens: requests that come, end or are thrown out.
pub fn busiest(rows: &[StepRow], stays: &[Stay], width: usize) -> std::ops::Range<usize> {
    if rows.len() <= width {
        return 0..rows.len();
    }
    // A whole batch that comes at once is one event and not all there is to see.
    const MOST_A_STEP: usize = 4;
    let mut comings = vec![0_usize; rows.len()];
    let mut endings = vec![0_usize; rows.len()];
    for stay in stays {
        comings[stay.first] += 1;
        endings[stay.last] += 1;
    }
    let score = |step: usize| {
        let thrown_out = 3 * rows[step].preempted.len();
        comings[step].min(MOST_A_STEP) + endings[step].min(MOST_A_STEP) + thrown_out.min(2 * MOST_A_STEP)
    };
    let mut sum: usize = (0..width).map(score).sum();
    let (mut best, mut first, mut last) = (sum, 0, 0);
    for start in 1..=rows.len() - width {
        sum = sum + score(start + width - 1) - score(start - 1);
        if sum > best {
            (best, first, last) = (sum, start, start);
        } else if sum == best && last == start - 1 {
            last = start;
        }
    }
    // The middle of equally good ones, so that what happens does not happen at the edge.
    let start = first + (last - first) / 2;
    start..start + width
}

#[cfg(test)]
mod tests {
    use llmlab_results::step::StepSeq;

    use super::*;

    fn row(ids: &[u64], preempted: &[u64]) -> StepRow {
        let seq = |id: &u64| StepSeq { id: *id, new_tokens: 1, context: 5, ..StepSeq::default() };
        StepRow { seqs: ids.iter().map(seq).collect(), preempted: preempted.to_vec(), ..StepRow::default() }
    }

    #[test]
    fn a_request_keeps_its_place_and_the_next_one_takes_the_lowest_that_is_free() {
        let rows = [
            row(&[1, 2, 3], &[]),
            // Two is over; three sits this step out and keeps its place.
            row(&[1], &[]),
            row(&[1, 3, 4], &[]),
            row(&[3, 4], &[1]),
            row(&[3, 4, 1], &[]),
        ];
        let stays = stays(&rows);
        let told: Vec<_> = stays.iter().map(|s| (s.id, s.first, s.last, s.preempted_at, s.lost)).collect();
        assert_eq!(
            told,
            [
                (1, 0, 2, Some(3), 0),
                (2, 0, 0, None, 0),
                (3, 0, 4, None, 0),
                (4, 2, 4, None, 0),
                (1, 4, 4, None, 6)
            ]
        );
        assert_eq!(places(stays.iter()), [0, 1, 2, 1, 0]);
    }

    #[test]
    fn the_window_holds_what_happens_not_at_its_edge() {
        let mut rows = vec![row(&[1], &[]); 40];
        rows[20] = row(&[1, 2, 3], &[]);
        let stays = stays(&rows);
        let window = busiest(&rows, &stays, 10);
        assert_eq!(window.len(), 10);
        assert!((13..=18).contains(&window.start), "{window:?}");
        assert_eq!(busiest(&rows, &stays, 50), 0..40);
    }
}
