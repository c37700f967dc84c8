//! `--what-if traffic=2x,weights=fp8`: the same plan with something changed.

use llmlab_models::catalogue;
use llmlab_models::memory::{KvDtype, Weights};
use llmlab_scenarios::plan::PlanSpec;

use super::PlanError;
use super::money::Pricing;

/// Keys, and what each does with its value.
pub const KEYS: &str = "traffic=<factor>x, input=<factor>x, output=<factor>x, slo=<factor>x (2x: limits twice as long), \
                        budget=<dollars a month>, hardware=<name>, weights=<format>, kv=<format>, tp=<n>, pp=<n>, \
                        pricing=<way>, spare=<replicas>";

/// As in a plan file.
const LONGEST_LIMIT: std::time::Duration = std::time::Duration::from_secs(10 * 365 * 86_400);

/// Applies `changes`, separated by commas; several of one key are a list.
pub fn what_if(spec: &PlanSpec, changes: &str) -> Result<PlanSpec, PlanError> {
    let mut changed = spec.clone();
    let (mut hardware, mut weights, mut kv, mut tp, mut pp, mut pricing) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    if changes.trim_matches([',', ' ']).is_empty() {
        return Err(wrong(changes, "nothing is changed"));
    }
    for change in changes.split(',').map(str::trim).filter(|change| !change.is_empty()) {
        let (key, value) = change.split_once('=').ok_or_else(|| wrong(change, "no '='"))?;
        let factor = || {
            let number = value.strip_suffix(['x', 'X']).unwrap_or(value);
            number
                .parse::<f64>()
                .ok()
                .filter(|factor| *factor > 0.0 && *factor <= 1e6)
                .ok_or_else(|| wrong(change, "the factor must be a number above 0, such as 2x"))
        };
        let count = |most: u32| {
            value
                .parse::<u32>()
                .ok()
                .filter(|count| (1..=most).contains(count))
                .ok_or_else(|| wrong(change, &format!("must be a whole number from 1 to {most}")))
        };
        match key.trim() {
            "traffic" => {
                let factor = factor()?;
                changed.demand.mean_rps *= factor;
                changed.demand.peak_rps *= factor;
                changed.demand.hourly_rps.iter_mut().flatten().for_each(|hour| *hour *= factor);
            }
            "input" => changed.workload.scale_input *= factor()?,
            "output" => changed.workload.scale_output *= factor()?,
            "slo" => {
                let factor = factor()?;
                let slo = &mut changed.slo;
                for (_, limit) in
                    [&mut slo.ttft, &mut slo.tpot, &mut slo.itl, &mut slo.e2e].into_iter().flatten()
                {
                    let longer = limit.as_secs_f64() * factor;
                    let known = std::time::Duration::try_from_secs_f64(longer).ok();
                    *limit = known
                        .filter(|limit| *limit <= LONGEST_LIMIT)
                        .ok_or_else(|| wrong(change, "a limit would be above ten years"))?;
                }
            }
            "budget" => {
                let usd = value.parse::<f64>().ok().filter(|usd| *usd > 0.0 && *usd <= 1e12);
                changed.usd_per_month = Some(usd.ok_or_else(|| wrong(change, "dollars, above 0"))?);
            }
            "hardware" => match catalogue::hardware(value) {
                Ok(device) => hardware.push(device.name.clone()),
                Err(error) => return Err(wrong(change, &error.to_string())),
            },
            "weights" => match value.parse::<Weights>() {
                Ok(_) => weights.push(value.to_owned()),
                Err(error) => return Err(wrong(change, &error)),
            },
            "kv" => match value.parse::<KvDtype>() {
                Ok(_) => kv.push(value.to_owned()),
                Err(_) => return Err(wrong(change, "the KV cache is in bf16, f16 or fp8")),
            },
            "tp" => tp.push(count(1024)?),
            "pp" => pp.push(count(1024)?),
            "pricing" => match Pricing::named(value) {
                Some(way) => pricing.push(way.name().to_owned()),
                None => return Err(wrong(change, "the ways of paying are on-demand, spot, reserved, own")),
            },
            "spare" if value == "0" => changed.space.spare_replicas = 0,
            "spare" => changed.space.spare_replicas = count(1000)?,
            _ => return Err(wrong(change, "unknown key")),
        }
    }
    let space = &mut changed.space;
    for (list, into) in [(hardware, &mut space.hardware), (weights, &mut space.weights), (kv, &mut space.kv)]
    {
        if !list.is_empty() {
            *into = Some(list);
        }
    }
    for (list, into) in [(tp, &mut space.tensor_parallel), (pp, &mut space.pipeline_parallel)] {
        if !list.is_empty() {
            *into = list;
        }
    }
    if !pricing.is_empty() {
        space.pricing = pricing;
    }
    Ok(changed)
}

fn wrong(change: &str, why: &str) -> PlanError {
    let change: String = change.chars().take(80).collect();
    PlanError::WhatIf { change, why: why.to_owned() }
}
