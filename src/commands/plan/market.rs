//! What devices and APIs cost, from the catalogue.

use std::collections::BTreeMap;

use llmlab_models::architecture::Architecture;
use llmlab_models::catalogue::{self, Pricing as Rent};
use llmlab_planner::plan::answer::{Api, Market};
use llmlab_planner::plan::money::{HourlyPrice, Pricing, owned_usd_per_hour};
use llmlab_scenarios::plan::{Own, PlanSpec};

use crate::exit::Failure;

/// The prices that a plan asks for.
pub fn market(spec: &PlanSpec, model: &Architecture) -> Result<Market, Failure> {
    let pricings: Vec<Pricing> = spec.space.pricing.iter().filter_map(|name| Pricing::named(name)).collect();
    let own = spec.own.clone();
    let mut bought = BTreeMap::new();
    for (name, usd) in &own.device_usd {
        let device = catalogue::hardware(name)
            .map_err(|error| Failure::bad_input(format!("own.device_usd: {error}")))?;
        bought.insert(device.name.clone(), *usd);
    }
    Ok(Market {
        price: Box::new(move |hardware, pricing| price(hardware, pricing, &own, &bought)),
        pricings,
        apis: apis(spec, model)?,
    })
}

fn price(hardware: &str, pricing: Pricing, own: &Own, bought: &BTreeMap<String, f64>) -> Option<HourlyPrice> {
    let rent = match pricing {
        Pricing::OnDemand => Rent::OnDemand,
        Pricing::Spot => Rent::Spot,
        Pricing::Reserved => Rent::Reserved,
        Pricing::Own => return owned(hardware, own, bought),
    };
    let price = catalogue::find_pricing(hardware, rent).ok()??;
    Some(HourlyPrice {
        usd: price.usd_per_hour,
        pricing,
        from: format!("{}, {}, {}", price.provider, price.source, price.date),
    })
}

/// Devices whose purchase price the plan or the catalogue has.
fn owned(hardware: &str, own: &Own, bought: &BTreeMap<String, f64>) -> Option<HourlyPrice> {
    let device = catalogue::hardware(hardware).ok()?;
    let (usd, from) = match (bought.get(&device.name), &device.cost_usd) {
        (Some(usd), _) => (*usd, "the plan's [own] device_usd".to_owned()),
        (None, Some(cost)) => (cost.value, format!("{}, {}", cost.source, cost.date)),
        (None, None) => return None,
    };
    // Bought devices are paid for at full power; idle hours save little beside the purchase.
    let watts = device.tdp_w.as_ref().map_or(0.0, |figure| figure.value);
    Some(HourlyPrice {
        usd: owned_usd_per_hour(usd, watts, own),
        pricing: Pricing::Own,
        from: format!("bought for {usd} dollars ({from})"),
    })
}

/// Those that were asked for by name, or all that serve the model.
fn apis(spec: &PlanSpec, model: &Architecture) -> Result<Vec<Api>, Failure> {
    let rows: Vec<&catalogue::ApiPrice> = match &spec.apis {
        None => catalogue::api_prices().iter().filter(|row| row.model == model.name).collect(),
        Some(names) => {
            for name in names {
                if !catalogue::api_prices().iter().any(|row| named(row, name)) {
                    let name: String = name.chars().take(80).collect();
                    return Err(Failure::bad_input(format!(
                        "api: no price of a model or provider called {name:?} is in the catalogue; llmlab models list has the models"
                    )));
                }
            }
            catalogue::api_prices().iter().filter(|row| names.iter().any(|name| named(row, name))).collect()
        }
    };
    Ok(rows
        .into_iter()
        .map(|row| Api {
            name: row.sku.clone(),
            provider: row.provider.clone(),
            usd_per_million_input: row.input_usd_per_million,
            usd_per_million_output: row.output_usd_per_million,
            from: format!("{}, {}", row.source, row.date),
        })
        .collect())
}

fn named(row: &catalogue::ApiPrice, name: &str) -> bool {
    [&row.sku, &row.provider, &row.model].into_iter().any(|known| known.eq_ignore_ascii_case(name))
}
