//! Quantities with their unit in the text: `"200ms"`, `"256MiB"`. A bare number is never guessed at.

use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer};

/// (suffix, nanoseconds). Longer suffixes first, because "ms" also ends in "s".
const TIME_UNITS: [(&str, f64); 6] =
    [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];
pub const TIME_HELP: &str =
    "a duration is a number directly followed by its unit: ns, us, ms, s, m (minutes) or h, e.g. \"200ms\"";
/// Ten years: beyond it a value is a typing error, and arithmetic on it could overflow.
const MAX_SECONDS: f64 = 10.0 * 365.0 * 86400.0;

const MEMORY_UNITS: [(&str, f64); 8] = [
    ("KiB", 1024.0),
    ("MiB", 1048576.0),
    ("GiB", 1073741824.0),
    ("TiB", 1099511627776.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
];
pub const MEMORY_HELP: &str = "a memory size is a number directly followed by its unit: KiB, MiB, GiB, TiB, kB, MB, GB or TB, e.g. \"256MiB\"";

/// A duration as typed in a scenario.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DurationText(pub Duration);

pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let nanoseconds = quantity(text, &TIME_UNITS, "duration", TIME_HELP)?;
    if nanoseconds > MAX_SECONDS * 1e9 {
        return Err(format!("\"{text}\" is longer than ten years"));
    }
    Ok(Duration::from_nanos(nanoseconds.round() as u64))
}

/// Bytes.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    let bytes = quantity(text, &MEMORY_UNITS, "memory size", MEMORY_HELP)?;
    if bytes > 1e15 {
        return Err(format!("\"{text}\" is more than a thousand terabytes"));
    }
    Ok(bytes.round() as u64)
}

fn quantity(text: &str, units: &[(&str, f64)], what: &str, help: &str) -> Result<f64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = |why: &str| Err(format!("\"{}\" {why}; {help}", text.escape_debug()));
    let Ok(number) = number.parse::<f64>() else { return wrong(&format!("is not a {what}")) };
    if unit.is_empty() {
        return wrong("has no unit");
    }
    match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => Ok(number * factor),
        None if unit.starts_with(' ') => wrong("has a space before its unit"),
        None => wrong(&format!("has the unknown unit \"{}\"", unit.escape_debug())),
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DurationText, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = DurationText;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a duration with its unit, such as \"200ms\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<DurationText, E> {
                parse_duration(text).map(DurationText).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ns) in [
            ("200ms", 200_000_000),
            ("1.5s", 1_500_000_000),
            ("30s", 30_000_000_000),
            ("2m", 120_000_000_000),
            ("500us", 500_000),
            ("0s", 0),
            ("1h", 3_600_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
        for bad in
            ["", "200", "200 m", "200 ms", "ms", "-1s", "1e3s", "1.2.3s", "nans", "1S", "1µs", "99999999999h"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_sizes() {
        for (text, bytes) in
            [("256MiB", 268_435_456), ("2GiB", 2_147_483_648), ("1GB", 1_000_000_000), ("1.5kB", 1500)]
        {
            assert_eq!(parse_memory(text), Ok(bytes), "{text}");
        }
        for bad in ["256", "256mib", "1 GiB", "GiB", "1e9TB", "9999999TB"] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
    }
}
