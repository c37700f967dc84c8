//! Published mixes of clients, embedded from `scenarios/traffic/clients/`: how unequal and how bursty they are.

use serde::{Deserialize, Serialize};

const FILE: &str = include_str!("../traffic/clients/servegen.toml");

/// Shares and coefficients of variation of the clients of one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientMix {
    pub name: String,
    pub clients: u32,
    /// Client k (from 1) sends in proportion to (k + offset)^-exponent.
    pub exponent: f64,
    pub offset: f64,
    /// Of the clients' coefficients of variation, which are lognormal.
    pub cv_median: f64,
    pub cv_mean: f64,
    /// Of the clients; the others have gamma gaps.
    pub weibull_share: f64,
    pub note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    source: String,
    licence: String,
    mix: Vec<ClientMix>,
}

fn file() -> File {
    toml::from_str(FILE).expect("the embedded file parses; a test reads it")
}

pub fn all() -> Vec<ClientMix> {
    file().mix
}

pub fn source() -> String {
    let File { source, licence, .. } = file();
    format!("{source}; {licence}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shares that the file's head says were measured: those of the largest client and of the ten largest.
    #[test]
    fn shares_are_as_published() {
        assert!(!source().is_empty());
        let share = |mix: &ClientMix, most: u32| {
            let weight = |k: u32| (f64::from(k) + mix.offset).powf(-mix.exponent);
            (1..=most).map(weight).sum::<f64>() / (1..=mix.clients).map(weight).sum::<f64>()
        };
        for (name, most, published) in [
            ("servegen-m-large", 1, 0.16),
            ("servegen-m-large", 10, 0.63),
            ("servegen-m-mid", 1, 0.52),
            ("servegen-m-small", 10, 0.93),
        ] {
            let mix = all().into_iter().find(|mix| mix.name == name).unwrap();
            assert!((share(&mix, most) - published).abs() < 0.005, "{name}: {}", share(&mix, most));
            assert!(mix.cv_median <= mix.cv_mean);
        }
    }
}
