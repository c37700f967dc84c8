//! Published traffic shapes, embedded from `scenarios/traffic/*.toml`: quantiles, never the traces themselves.

use serde::Deserialize;

use crate::spec::QuantileTable;

const FILES: [&str; 5] = [
    include_str!("../traffic/azure-2023-conversation.toml"),
    include_str!("../traffic/azure-2023-code.toml"),
    include_str!("../traffic/mooncake-conversation.toml"),
    include_str!("../traffic/mooncake-synthetic.toml"),
    include_str!("../traffic/arxiv-summarization.toml"),
];
pub const NAMES: [&str; 5] = [
    "azure-2023-conversation",
    "azure-2023-code",
    "mooncake-conversation",
    "mooncake-synthetic",
    "arxiv-summarization",
];

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    pub name: String,
    pub source: String,
    pub licence: String,
    /// Requests in the trace the quantiles were computed from.
    pub rows: u32,
    pub input: Lengths,
    pub output: Lengths,
    pub correlation: Correlation,
    pub arrivals: NativeArrivals,
}

/// Tokens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lengths {
    /// At [`QuantileTable::PROBABILITIES`].
    pub quantiles: [f64; 11],
    /// Mean of the trace itself, to check the table against.
    pub mean: f64,
}

/// Between prompt and output length.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correlation {
    pub rank: f64,
    pub note: String,
}

/// At most one process; none where the trace has no times. `note` says what of the trace it does not keep.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NativeArrivals {
    /// A gamma renewal process: coefficient of variation of the gaps between requests; 1 is Poisson.
    pub cv: Option<f64>,
    pub mmpp: Option<NativeMmpp>,
    pub note: String,
}

/// A Poisson process that switches between a calm rate and a burst.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NativeMmpp {
    pub rates_rps: [f64; 2],
    /// Mean times that the two last.
    pub dwell_s: [f64; 2],
}

impl Lengths {
    pub fn table(&self) -> QuantileTable {
        QuantileTable { values: self.quantiles }
    }
}

pub fn find(name: &str) -> Option<Traffic> {
    let position = NAMES.iter().position(|n| *n == name)?;
    Some(toml::from_str(FILES[position]).expect("embedded traffic files parse; a test reads each"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean of log-linear interpolation between quantiles, the rule the load generator draws by.
    fn interpolated_mean(quantiles: &[f64; 11]) -> f64 {
        let pieces = quantiles.windows(2).zip(QuantileTable::PROBABILITIES.windows(2));
        pieces
            .map(|(q, p)| {
                let mean = if q[0] == q[1] { q[0] } else { (q[1] - q[0]) / (q[1] / q[0]).ln() };
                mean * (p[1] - p[0])
            })
            .sum()
    }

    /// The published mean was computed from the trace, not from the quantiles, so a mistyped quantile shows here.
    #[test]
    fn every_table_reproduces_the_mean_of_its_trace() {
        for name in NAMES {
            let traffic = find(name).unwrap();
            assert_eq!(traffic.name, name);
            assert!(!traffic.source.is_empty() && !traffic.licence.is_empty());
            assert!((-1.0..=1.0).contains(&traffic.correlation.rank));
            assert!(traffic.arrivals.cv.is_none() || traffic.arrivals.mmpp.is_none());
            for lengths in [&traffic.input, &traffic.output] {
                assert!(lengths.quantiles.is_sorted() && lengths.quantiles[0] >= 1.0, "{name}");
                let ratio = interpolated_mean(&lengths.quantiles) / lengths.mean;
                assert!((0.95..1.2).contains(&ratio), "{name}: {ratio}");
            }
        }
    }
}
