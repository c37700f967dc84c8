//! [`AutoscaleTable`] to [`AutoscaleSpec`].

use std::time::Duration;

use toml::Spanned;

use super::plan::PRICINGS;
use super::{in_range, out_of_range, positive};
use crate::autoscale::{
    AutoscaleSpec, AutoscaleTable, ColdStartSpec, ForecastRule, ScalerMetric, ScalerRule, ScalerSpec,
    ScalerTable, SurgeSpec, SurgeTable,
};
use crate::error::{Finding, unknown_value};
use crate::units::DurationText;

const KINDS: [&str; 4] = ["static", "hpa", "keda", "predictive"];
const FORECASTS: [ForecastRule; 3] = [ForecastRule::DayBefore, ForecastRule::Holt, ForecastRule::HoltWinters];
/// As many replicas as a simulated pool may have, times the factor by which a day may be scaled down.
const MOST_REPLICAS: u32 = 100_000;
const MOST_POLICIES: usize = 50;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn resolve(table: &AutoscaleTable) -> Result<AutoscaleSpec, Finding> {
    let text = |written: &Option<Spanned<String>>| written.as_ref().map(|text| text.get_ref().clone());
    let degree = |written: &Option<Spanned<u32>>, name| {
        written.as_ref().map(|n| in_range(n, name, 1, 1024)).transpose()
    };
    if let Some(way) = &table.pricing
        && !PRICINGS.contains(&way.get_ref().as_str())
    {
        return Err(unknown_value(way.span(), "pricing", way.get_ref(), &PRICINGS));
    }
    let min_replicas = count(&table.min_replicas, "min_replicas", 1, 1)?;
    let max_replicas = match &table.max_replicas {
        Some(written) => {
            let most = in_range(written, "max_replicas", 1, MOST_REPLICAS)?;
            if most < min_replicas {
                return Err(out_of_range(
                    written.span(),
                    "max_replicas",
                    most,
                    format!("must be at least min_replicas, {min_replicas}"),
                ));
            }
            Some(most)
        }
        None => None,
    };
    let mut policies = Vec::with_capacity(table.policy.len());
    for written in &table.policy {
        policies.push(scaler(written.get_ref(), min_replicas)?);
    }
    if let Some(written) = table.policy.get(MOST_POLICIES) {
        return Err(Finding::new(written.span(), format!("more than {MOST_POLICIES} policies")));
    }
    for (place, policy) in policies.iter().enumerate() {
        if policies[..place].iter().any(|other| other.name == policy.name) {
            let written = &table.policy[place];
            return Err(Finding::new(written.span(), format!("two policies are called \"{}\"", policy.name))
                .help("give one of them a name = \"...\""));
        }
    }
    if policies.is_empty() {
        policies = standard(min_replicas);
    }
    let max_violations = table.max_violations.as_ref().map(|share| share_of(share, "max_violations"));
    Ok(AutoscaleSpec {
        hardware: text(&table.hardware),
        weights: text(&table.weights),
        kv: text(&table.kv),
        tensor_parallel: degree(&table.tensor_parallel, "tensor_parallel")?,
        pipeline_parallel: degree(&table.pipeline_parallel, "pipeline_parallel")?,
        pricing: text(&table.pricing),
        min_replicas,
        max_replicas,
        scrape_interval: time(&table.scrape_interval, "scrape_interval", 15 * SECOND, SECOND)?,
        scrape_lag: time(&table.scrape_lag, "scrape_lag", 5 * SECOND, Duration::ZERO)?,
        cold_start: cold_start(table)?,
        drain: time(&table.drain, "drain", 2 * MINUTE, Duration::ZERO)?,
        patience: time(&table.patience, "patience", 2 * MINUTE, SECOND)?,
        surge: table.surge.as_ref().map(surge).transpose()?,
        max_violations: max_violations.transpose()?,
        max_requests: match &table.max_requests {
            Some(written) => in_range(written, "max_requests", 1000, 5_000_000)?,
            None => 300_000,
        },
        policies,
    })
}

/// Of a plan file without the table.
pub(crate) fn defaults() -> AutoscaleSpec {
    resolve(&AutoscaleTable::default()).expect("a table without keys has no mistakes")
}

/// One of each kind and signal, the rest by default.
fn standard(min_replicas: u32) -> Vec<ScalerSpec> {
    let named = |name: &str, rule| ScalerSpec { name: name.into(), rule };
    let hpa = |metric, scale_down_window| ScalerRule::Hpa {
        metric,
        target: None,
        scale_up_window: Duration::ZERO,
        scale_down_window,
    };
    let keda = |metric| ScalerRule::Keda {
        metric,
        target: None,
        min_replicas,
        activation: 0.0,
        polling_interval: 30 * SECOND,
        cooldown_period: 5 * MINUTE,
    };
    let predictive = |forecast| ScalerRule::Predictive { forecast, headroom: 0.2, hold: 5 * MINUTE };
    vec![
        named("static", ScalerRule::Static { replicas: None }),
        named("hpa waiting", hpa(ScalerMetric::Waiting, 5 * MINUTE)),
        named("hpa waiting, no window", hpa(ScalerMetric::Waiting, Duration::ZERO)),
        named("hpa kv", hpa(ScalerMetric::Kv, 5 * MINUTE)),
        named("keda in-flight", keda(ScalerMetric::InFlight)),
        named("keda tokens", keda(ScalerMetric::Tokens)),
        named("keda ttft", keda(ScalerMetric::Ttft)),
        named("predictive day-before", predictive(ForecastRule::DayBefore)),
        named("predictive holt", predictive(ForecastRule::Holt)),
        named("predictive holt-winters", predictive(ForecastRule::HoltWinters)),
    ]
}

fn cold_start(table: &AutoscaleTable) -> Result<ColdStartSpec, Finding> {
    let table = &table.cold_start;
    let gb_per_s = table.weights_gb_per_s.as_ref();
    Ok(ColdStartSpec {
        provision: time(&table.provision, "provision", 2 * MINUTE, Duration::ZERO)?,
        image: time(&table.image, "image", MINUTE, Duration::ZERO)?,
        weights_bytes_per_s: 1e9 * gb_per_s.map_or(Ok(1.0), |n| positive(n, "weights_gb_per_s", 1e6))?,
        warm_up: time(&table.warm_up, "warm_up", 40 * SECOND, Duration::ZERO)?,
        spread: table.spread.as_ref().map_or(Ok(0.1), |share| share_of(share, "spread"))?,
    })
}

fn surge(table: &SurgeTable) -> Result<SurgeSpec, Finding> {
    let factor = positive(&table.factor, "factor", 1000.0)?;
    let lasts = table.lasts.get_ref().0;
    if lasts.is_zero() || lasts > DAY {
        return Err(Finding::new(table.lasts.span(), "a surge lasts more than nothing and at most 24h"));
    }
    let written = &table.at;
    let at = time_of_day(written.get_ref()).ok_or_else(|| {
        Finding::new(written.span(), "at is no time of day").label("must be from \"00:00\" to \"23:59\"")
    })?;
    Ok(SurgeSpec { at, factor, lasts })
}

/// "14:05"
fn time_of_day(text: &str) -> Option<Duration> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hours) || !digits(minutes) {
        return None;
    }
    let (hours, minutes): (u64, u64) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60).then(|| Duration::from_secs(3600 * hours + 60 * minutes))
}

fn scaler(table: &ScalerTable, min_replicas: u32) -> Result<ScalerSpec, Finding> {
    let kind = table.kind.get_ref().as_str();
    if !KINDS.contains(&kind) {
        return Err(unknown_value(table.kind.span(), "kind", kind, &KINDS));
    }
    only_its_own(table, kind)?;
    let metric = match &table.metric {
        None => ScalerMetric::Waiting,
        Some(written) => {
            let named = ScalerMetric::ALL.into_iter().find(|metric| metric.name() == written.get_ref());
            named.ok_or_else(|| {
                let names = ScalerMetric::ALL.map(ScalerMetric::name);
                unknown_value(written.span(), "metric", written.get_ref(), &names)
            })?
        }
    };
    let target = table.target.as_ref().map(|target| positive(target, "target", 1e12)).transpose()?;
    let rule = match kind {
        "static" => ScalerRule::Static {
            replicas: table
                .replicas
                .as_ref()
                .map(|n| in_range(n, "replicas", 1, MOST_REPLICAS))
                .transpose()?,
        },
        "hpa" => ScalerRule::Hpa {
            metric,
            target,
            scale_up_window: window(&table.scale_up_window, "scale_up_window", Duration::ZERO)?,
            scale_down_window: window(&table.scale_down_window, "scale_down_window", 5 * MINUTE)?,
        },
        "keda" => ScalerRule::Keda {
            metric,
            target,
            min_replicas: count(&table.min_replicas, "min_replicas", 0, min_replicas)?,
            activation: match &table.activation {
                Some(written) if !(0.0..=1e12).contains(written.get_ref()) => {
                    let label = "must be 0 or more".to_owned();
                    return Err(out_of_range(written.span(), "activation", written.get_ref(), label));
                }
                Some(written) => *written.get_ref(),
                None => 0.0,
            },
            polling_interval: time(&table.polling_interval, "polling_interval", 30 * SECOND, SECOND)?,
            cooldown_period: time(&table.cooldown_period, "cooldown_period", 5 * MINUTE, Duration::ZERO)?,
        },
        _ => ScalerRule::Predictive {
            forecast: match &table.forecast {
                None => ForecastRule::DayBefore,
                Some(written) => {
                    let named = FORECASTS.into_iter().find(|rule| rule.name() == written.get_ref());
                    let names = FORECASTS.map(ForecastRule::name);
                    named
                        .ok_or_else(|| unknown_value(written.span(), "forecast", written.get_ref(), &names))?
                }
            },
            headroom: match &table.headroom {
                Some(written) if !(0.0..=10.0).contains(written.get_ref()) => {
                    let label = "must be from 0 to 10".to_owned();
                    return Err(out_of_range(written.span(), "headroom", written.get_ref(), label));
                }
                Some(written) => *written.get_ref(),
                None => 0.2,
            },
            hold: time(&table.hold, "hold", 5 * MINUTE, Duration::ZERO)?,
        },
    };
    let own = match &rule {
        ScalerRule::Static { replicas: Some(replicas) } => format!("static {replicas}"),
        ScalerRule::Static { replicas: None } => "static".to_owned(),
        ScalerRule::Hpa { .. } | ScalerRule::Keda { .. } => format!("{kind} {}", metric.name()),
        ScalerRule::Predictive { forecast, .. } => format!("predictive {}", forecast.name()),
    };
    let name = table.name.as_ref().map_or(Ok(own), super::run_name)?;
    Ok(ScalerSpec { name, rule })
}

/// A key of another kind would be read by nobody.
fn only_its_own(table: &ScalerTable, kind: &str) -> Result<(), Finding> {
    let span = |present: &Option<Spanned<DurationText>>| present.as_ref().map(Spanned::span);
    let number = |present: &Option<Spanned<f64>>| present.as_ref().map(Spanned::span);
    let text = |present: &Option<Spanned<String>>| present.as_ref().map(Spanned::span);
    let whole = |present: &Option<Spanned<u32>>| present.as_ref().map(Spanned::span);
    let keys = [
        ("metric", text(&table.metric), &["hpa", "keda"][..]),
        ("target", number(&table.target), &["hpa", "keda"]),
        ("scale_up_window", span(&table.scale_up_window), &["hpa"]),
        ("scale_down_window", span(&table.scale_down_window), &["hpa"]),
        ("min_replicas", whole(&table.min_replicas), &["keda"]),
        ("activation", number(&table.activation), &["keda"]),
        ("polling_interval", span(&table.polling_interval), &["keda"]),
        ("cooldown_period", span(&table.cooldown_period), &["keda"]),
        ("replicas", whole(&table.replicas), &["static"]),
        ("forecast", text(&table.forecast), &["predictive"]),
        ("headroom", number(&table.headroom), &["predictive"]),
        ("hold", span(&table.hold), &["predictive"]),
    ];
    for (key, written, kinds) in keys {
        if let Some(place) = written
            && !kinds.contains(&kind)
        {
            return Err(Finding::new(place, format!("{key} is no key of kind \"{kind}\""))
                .label(format!("a key of {}", kinds.join(", "))));
        }
    }
    Ok(())
}

fn count(written: &Option<Spanned<u32>>, name: &str, least: u32, default: u32) -> Result<u32, Finding> {
    written.as_ref().map_or(Ok(default), |n| in_range(n, name, least, MOST_REPLICAS))
}

fn share_of(written: &Spanned<f64>, name: &str) -> Result<f64, Finding> {
    let share = *written.get_ref();
    if !(0.0..=1.0).contains(&share) {
        return Err(out_of_range(written.span(), name, share, "must be from 0 to 1".into()));
    }
    Ok(share)
}

/// At most a day.
fn time(
    written: &Option<Spanned<DurationText>>,
    name: &str,
    default: Duration,
    least: Duration,
) -> Result<Duration, Finding> {
    let Some(written) = written else { return Ok(default) };
    let time = written.get_ref().0;
    if time < least || time > DAY {
        let least = least.as_secs();
        return Err(Finding::new(written.span(), format!("{name} is out of range"))
            .label(format!("must be from {least}s to 24h")));
    }
    Ok(time)
}

/// Kubernetes takes no longer one.
fn window(
    written: &Option<Spanned<DurationText>>,
    name: &str,
    default: Duration,
) -> Result<Duration, Finding> {
    let time = time(written, name, default, Duration::ZERO)?;
    match written {
        Some(written) if time > 60 * MINUTE => {
            Err(Finding::new(written.span(), format!("{name} is out of range"))
                .label("Kubernetes accepts 0s to 1h"))
        }
        _ => Ok(time),
    }
}
