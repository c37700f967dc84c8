//! Stop strings over a text that arrives in pieces.
//!
//! Generation ends as soon as any stop string is complete; of several completed by the same character the longest
//! counts. The result therefore does not depend on how the text was cut into pieces, and nothing that may still
//! become part of a stop string is given out.

/// What one piece released.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Released {
    /// Text that can go to the client now.
    pub text: String,
    /// Index of the stop string that ended the text; nothing may be pushed after that.
    pub stopped: Option<usize>,
}

pub(crate) struct StopText {
    stops: Vec<String>,
    /// Seen but not given out: always a proper prefix of some stop string.
    held: String,
}

impl StopText {
    /// Empty stop strings would match everywhere and must have been refused before.
    pub fn new(stops: Vec<String>) -> Self {
        assert!(stops.iter().all(|s| !s.is_empty()), "an empty stop string among {}", stops.len());
        StopText { stops, held: String::new() }
    }

    pub fn push(&mut self, piece: &str) -> Released {
        if self.stops.is_empty() {
            return Released { text: piece.to_owned(), stopped: None };
        }
        // A match must end inside the new piece: everything before was searched already.
        let searched = self.held.len();
        self.held.push_str(piece);
        if let Some((start, stop)) = self.earliest_end(searched) {
            self.held.truncate(start);
            return Released { text: std::mem::take(&mut self.held), stopped: Some(stop) };
        }
        let keep = self.longest_open_prefix();
        let text = self.held.drain(..self.held.len() - keep).collect();
        Released { text, stopped: None }
    }

    /// The held text, once no more can come.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Start of the match with the smallest end after `searched`, and which stop string it was.
    fn earliest_end(&self, searched: usize) -> Option<(usize, usize)> {
        let text = self.held.as_bytes();
        (searched + 1..=text.len()).find_map(|end| {
            let mut best: Option<(usize, usize)> = None;
            for (index, stop) in self.stops.iter().enumerate() {
                let longer = best.is_none_or(|(start, _)| end.saturating_sub(stop.len()) < start);
                if longer && text[..end].ends_with(stop.as_bytes()) {
                    best = Some((end - stop.len(), index));
                }
            }
            best
        })
    }

    /// Length in bytes of the longest suffix of the held text that begins a stop string. Comparing bytes is safe: a
    /// suffix equal to the beginning of a string begins at a character boundary.
    fn longest_open_prefix(&self) -> usize {
        let text = self.held.as_bytes();
        let longest = self.stops.iter().map(|s| s.len() - 1).max().unwrap_or(0).min(text.len());
        (1..=longest)
            .rev()
            .find(|&n| {
                let suffix = &text[text.len() - n..];
                self.stops.iter().any(|s| s.len() > n && s.as_bytes().starts_with(suffix))
            })
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut matcher = StopText::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut out = String::new();
        for piece in pieces {
            let released = matcher.push(piece);
            out.push_str(&released.text);
            if released.stopped.is_some() {
                return (out, released.stopped);
            }
        }
        out.push_str(&matcher.finish());
        (out, None)
    }

    #[test]
    fn cuts_before_a_stop_string_split_over_pieces() {
        assert_eq!(run(&["END"], &["abE", "N", "Dxyz"]), ("ab".to_owned(), Some(0)));
        assert_eq!(run(&["END"], &["abE", "N", "E", "ND"]), ("abEN".to_owned(), Some(0)));
        assert_eq!(run(&["END"], &["abE", "N"]), ("abEN".to_owned(), None));
        assert_eq!(run(&["ü!"], &["aü", "b", "ü", "!"]), ("aüb".to_owned(), Some(0)));
    }

    #[test]
    fn the_first_to_be_complete_wins_then_the_longest() {
        assert_eq!(run(&["abc", "b"], &["abc"]), ("a".to_owned(), Some(1)));
        assert_eq!(run(&["b", "ab"], &["xab"]), ("x".to_owned(), Some(1)));
    }

    #[test]
    fn holds_back_no_more_than_it_must() {
        let mut matcher = StopText::new(vec!["ab".to_owned()]);
        assert_eq!(matcher.push("xa").text, "x");
        assert_eq!(matcher.push("c").text, "ac");
    }

    /// The definition, applied to the whole text at once.
    fn oracle(stops: &[String], text: &str) -> (String, Option<usize>) {
        for end in 1..=text.len() {
            let hits =
                stops.iter().enumerate().filter(|(_, s)| text.as_bytes()[..end].ends_with(s.as_bytes()));
            if let Some((index, stop)) = hits.max_by_key(|(index, s)| (s.len(), std::cmp::Reverse(*index))) {
                return (text[..end - stop.len()].to_owned(), Some(index));
            }
        }
        (text.to_owned(), None)
    }

    proptest! {
        #[test]
        fn any_cut_into_pieces_gives_the_same_result(
            stops in prop::collection::vec("[abé]{1,4}", 1..4),
            pieces in prop::collection::vec("[abé]{0,4}", 0..12),
        ) {
            let whole: String = pieces.concat();
            let stops_ref: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces_ref: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&stops_ref, &pieces_ref), oracle(&stops, &whole));
        }
    }
}
