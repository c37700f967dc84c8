//! Which value to try next: steps up or down until one value held and one missed, then halves of what is between them,
//! then steps outwards until a value is clear on either side, so that the edge has an interval.

/// Steps up are small, because every trial above the edge costs a queue that has to drain.
const UP: f64 = std::f64::consts::SQRT_2;
const DOWN: f64 = 0.5;
/// From a verdict that is not clear to the next value outwards.
const OUT: f64 = 1.15;

/// A search on one target. Values are requests per second, shares of saturation or users.
#[derive(Debug, Clone, PartialEq)]
pub struct Bisection {
    lowest: f64,
    highest: f64,
    /// The search ends when the lowest value that missed is within this share of the highest that held.
    tolerance: f64,
    /// Users: whole numbers.
    whole: bool,
    start: f64,
    held: Option<f64>,
    missed: Option<f64>,
    /// Lowest and highest value tried.
    tried: Option<(f64, f64)>,
    /// Whether a value held clearly, and one was missed clearly.
    clear: (bool, bool),
}

impl Bisection {
    /// `start` is brought between `lowest` and `highest`.
    pub fn new(start: f64, lowest: f64, highest: f64, tolerance: f64, whole: bool) -> Bisection {
        assert!(lowest > 0.0 && lowest <= highest && tolerance > 0.0, "{lowest} {highest} {tolerance}");
        let round = |value: f64| if whole { value.round().max(1.0) } else { value };
        let (lowest, highest) = (round(lowest), round(highest));
        let start = round(start.clamp(lowest, highest));
        Bisection {
            lowest,
            highest,
            tolerance,
            whole,
            start,
            held: None,
            missed: None,
            tried: None,
            clear: (false, false),
        }
    }

    /// `None` when the edge is known as well as was asked, or lies outside the range.
    pub fn next(&self) -> Option<f64> {
        self.nearer().or_else(|| self.outwards())
    }

    fn nearer(&self) -> Option<f64> {
        match (self.held, self.missed) {
            (None, None) => Some(self.start),
            (Some(held), None) => (held < self.highest).then(|| self.round_up(held * UP).min(self.highest)),
            (None, Some(missed)) => {
                (missed > self.lowest).then(|| self.round_down(missed * DOWN).max(self.lowest))
            }
            (Some(held), Some(missed)) if self.whole => {
                let between = missed - held > 1.0 && missed / held > 1.0 + self.tolerance;
                between.then(|| ((held + missed) / 2.0).floor())
            }
            // The middle of the ratio: load is felt in shares of what a server can take.
            (Some(held), Some(missed)) => {
                (missed / held > 1.0 + self.tolerance).then(|| (held * missed).sqrt())
            }
        }
    }

    /// Only where an edge was found: outside the range there is none to be sure of.
    fn outwards(&self) -> Option<f64> {
        let ((lowest, highest), (held, missed)) = (self.tried?, (self.held?, self.missed?));
        if !self.clear.1 && highest.max(missed) < self.highest {
            return Some(self.round_up(highest * OUT).min(self.highest));
        }
        let down = !self.clear.0 && lowest.min(held) > self.lowest;
        down.then(|| self.round_down(lowest / OUT).max(self.lowest))
    }

    /// A verdict on the other side of the edge that is known, as luck can have it, does not move the edge.
    pub fn tell(&mut self, value: f64, holds: bool, clear: bool) {
        let (low, high) = self.tried.unwrap_or((value, value));
        self.tried = Some((low.min(value), high.max(value)));
        match holds {
            true if self.missed.is_none_or(|missed| value < missed) => {
                self.held = Some(self.held.map_or(value, |known| known.max(value)));
            }
            false if self.held.is_none_or(|held| value > held) => {
                self.missed = Some(self.missed.map_or(value, |known| known.min(value)));
            }
            _ => return,
        }
        self.clear = (self.clear.0 || (holds && clear), self.clear.1 || (!holds && clear));
    }

    fn round_up(&self, value: f64) -> f64 {
        if self.whole { value.ceil() } else { value }
    }

    fn round_down(&self, value: f64) -> f64 {
        if self.whole { value.floor().max(1.0) } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the search on a server whose edge is known and returns the last values that held and missed.
    fn search(mut bisection: Bisection, edge: f64) -> (Option<f64>, Option<f64>, usize) {
        let mut tried = 0;
        while let Some(value) = bisection.next() {
            bisection.tell(value, value <= edge, true);
            tried += 1;
            assert!(tried < 100, "does not end: {bisection:?}");
        }
        (bisection.held, bisection.missed, tried)
    }

    #[test]
    fn the_edge_lies_between_the_two_last_values_wherever_it_is() {
        for edge in [0.11, 0.5, 3.0, 6.99, 7.0, 7.01, 12.0, 39.0] {
            let (held, missed, tried) = search(Bisection::new(7.0, 0.1, 40.0, 0.05, false), edge);
            let (held, missed) = (held.unwrap(), missed.unwrap());
            assert!(
                held <= edge && edge < missed && missed / held <= 1.05 + 1e-12,
                "{edge}: {held} {missed}"
            );
            assert!(tried <= 13, "{edge}: {tried}");
        }
    }

    #[test]
    fn an_edge_that_is_not_clear_is_approached_from_outside() {
        let mut bisection = Bisection::new(7.0, 0.1, 40.0, 0.05, false);
        let mut tried = Vec::new();
        while let Some(value) = bisection.next() {
            // Clear only half as far and twice as far as the edge.
            bisection.tell(value, value <= 7.2, !(3.6..14.4).contains(&value));
            tried.push(value);
            assert!(tried.len() < 60, "{tried:?}");
        }
        assert!(
            tried.iter().any(|value| *value < 3.6) && tried.iter().any(|value| *value >= 14.4),
            "{tried:?}"
        );
        assert!(tried.iter().all(|value| (3.0..17.0).contains(value)), "{tried:?}");
        assert!(bisection.held.unwrap() <= 7.2 && bisection.missed.unwrap() > 7.2);
    }

    #[test]
    fn users_are_whole_and_found_exactly() {
        for edge in [1.0, 2.0, 17.0, 63.0] {
            let (held, missed, _) = search(Bisection::new(8.0, 1.0, 64.0, 1e-6, true), edge);
            assert_eq!((held, missed), (Some(edge), Some(edge + 1.0)));
        }
    }

    #[test]
    fn an_edge_outside_the_range_is_on_one_side_only() {
        assert_eq!(search(Bisection::new(7.0, 1.0, 40.0, 0.05, false), 100.0).0, Some(40.0));
        let (held, missed, _) = search(Bisection::new(7.0, 1.0, 40.0, 0.05, false), 0.5);
        assert_eq!((held, missed), (None, Some(1.0)));
    }
}
