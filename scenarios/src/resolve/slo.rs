//! `ttft_p95 = "200ms"`: metric and percentile in the key, limit in the value.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use toml::{Spanned, Value};

use crate::error::Finding;
use crate::spec::SloSpec;
use crate::units::parse_duration;

const HELP: &str = "accepted keys: <metric>_p<percentile> with metric ttft, tpot, itl or e2e and a percentile between 0 \
                    and 100, e.g. ttft_p95 or \"ttft_p99.9\"";

pub(super) fn resolve(table: &BTreeMap<Spanned<String>, Spanned<Value>>) -> Result<SloSpec, Finding> {
    let mut slo = SloSpec::default();
    for (key, value) in table {
        match value.get_ref() {
            // TOML reads a bare `ttft_p99.9` as key `9` of table `ttft_p99`.
            Value::Table(fractions) => {
                for (fraction, limit) in fractions {
                    add(&mut slo, &format!("{}.{fraction}", key.get_ref()), key.span(), limit, value.span())?;
                }
            }
            limit => add(&mut slo, key.get_ref(), key.span(), limit, value.span())?,
        }
    }
    for limits in [&mut slo.ttft, &mut slo.tpot, &mut slo.itl, &mut slo.e2e] {
        limits.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    Ok(slo)
}

fn add(
    slo: &mut SloSpec,
    key: &str,
    key_span: Range<usize>,
    limit: &Value,
    limit_span: Range<usize>,
) -> Result<(), Finding> {
    let unknown =
        || Finding::new(key_span.clone(), format!("unknown limit `{key}`")).label("not a limit").help(HELP);
    let (metric, percentile) = key.split_once("_p").ok_or_else(unknown)?;
    let limits = match metric {
        "ttft" => &mut slo.ttft,
        "tpot" => &mut slo.tpot,
        "itl" => &mut slo.itl,
        "e2e" => &mut slo.e2e,
        _ => return Err(unknown()),
    };
    // Only digits and a point: f64's parser would also take "nan" and "1e1".
    let plain = percentile.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let percentile: f64 = percentile.parse().ok().filter(|_| plain).ok_or_else(unknown)?;
    if !(percentile > 0.0 && percentile < 100.0) {
        return Err(Finding::new(key_span, format!("percentile {percentile} in `{key}`"))
            .label("must be between 0 and 100")
            .help(HELP));
    }
    if limits.iter().any(|(p, _)| *p == percentile) {
        return Err(Finding::new(
            key_span,
            format!("a second limit for percentile {percentile} of {metric}"),
        ));
    }
    limits.push((percentile, duration(key, limit, limit_span)?));
    Ok(())
}

fn duration(key: &str, limit: &Value, span: Range<usize>) -> Result<Duration, Finding> {
    let Value::String(text) = limit else {
        let message = format!("{key} has the wrong type: {}", limit.type_str());
        return Err(
            Finding::new(span, message).label("accepted: a duration with its unit, such as \"200ms\"")
        );
    };
    let limit = parse_duration(text).map_err(|why| Finding::sentence(span.clone(), &why))?;
    if limit.is_zero() {
        return Err(Finding::new(span, format!("{key} is zero")).label("no request can meet it"));
    }
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_may_be_quoted_or_bare() {
        for text in ["\"ttft_p99.9\" = \"1s\"", "ttft_p99.9 = \"1s\""] {
            let slo = resolve(&toml::from_str(text).unwrap()).unwrap();
            assert_eq!(slo.ttft, [(99.9, Duration::from_secs(1))], "{text}");
        }
    }

    #[test]
    fn limits_are_sorted_by_percentile() {
        let slo = resolve(&toml::from_str("e2e_p99 = \"2s\"\ne2e_p5 = \"1s\"").unwrap()).unwrap();
        assert_eq!(slo.e2e, [(5.0, Duration::from_secs(1)), (99.0, Duration::from_secs(2))]);
    }
}
