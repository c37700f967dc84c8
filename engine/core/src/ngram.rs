//! Prompt lookup: guesses that a text goes on as it went on before (Saxena, 2023; vLLM's method `ngram`).

use crate::request::TokenId;

/// The tokens that followed the last earlier occurrence of the text's end. The longest end of `min` to `max` tokens that
/// occurred before counts. At most `count` tokens; none if even the last `min` tokens are new.
pub fn propose(tokens: &[TokenId], min: usize, max: usize, count: usize) -> Vec<TokenId> {
    let min = min.max(1);
    let (mut longest, mut follows) = (min - 1, None);
    // `end` is where an earlier occurrence ends, latest first.
    for end in (1..tokens.len()).rev() {
        let matching = tokens[..end].iter().rev().zip(tokens.iter().rev());
        let length = matching.take(max).take_while(|(a, b)| a == b).count();
        if length > longest {
            (longest, follows) = (length, Some(end));
            if length == max {
                break;
            }
        }
    }
    follows.map_or_else(Vec::new, |start| tokens[start..tokens.len().min(start + count)].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_end_wins_and_then_the_latest_place() {
        let text = [1, 2, 3, 9, 2, 3, 7, 5, 3, 8, 1, 2, 3];
        // "1 2 3" occurred once, before 9; "3" alone last before 8.
        assert_eq!(propose(&text, 1, 3, 2), [9, 2]);
        assert_eq!(propose(&text, 1, 2, 2), [7, 5]);
        assert_eq!(propose(&text, 1, 1, 9), [8, 1, 2, 3]);
        assert_eq!(propose(&text, 4, 5, 2), []);
    }

    #[test]
    fn an_occurrence_may_overlap_the_end() {
        assert_eq!(propose(&[4, 4, 4], 1, 2, 3), [4]);
        assert_eq!(propose(&[5, 6, 5, 6, 5], 1, 3, 4), [6, 5]);
        assert_eq!(propose(&[], 1, 3, 4), []);
        assert_eq!(propose(&[7], 0, 3, 4), []);
    }
}
