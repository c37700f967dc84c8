//! What devices and APIs cost, from the catalogue.

use llmlab_models::architecture::Architecture;
use llmlab_models::catalogue::{self, Pricing as Rent};
use llmlab_planner::plan::answer::{Api, Market};
use llmlab_planner::plan::money::{HourlyPrice, Pricing, owned_usd_per_hour};
use llmlab_scenarios::plan::{Own, PlanSpec};

use crate::exit::Failure;

/// The prices that a plan asks for.
pub fn market(spec: &PlanSpec, model: &Architecture) -> Result<Market, Failure> {
    let pricings: Vec<Pricing> = spec.space.pricing.iter().filter_map(|name| Pricing::named(name)).collect();
    let own = spec.own;
    Ok(Market {
        price: Box::new(move |hardware, pricing| price(hardware, pricing, &own)),
        pricings,
        apis: apis(spec, model)?,
    })
}

fn price(hardware: &str, pricing: Pricing, own: &Own) -> Option<HourlyPrice> {
    let rent = match pricing {
        Pricing::OnDemand => Rent::OnDemand,
        Pricing::Spot => Rent::Spot,
        Pricing::Reserved => Rent::Reserved,
        Pricing::Own => return owned(hardware, own),
    };
    let price = catalogue::find_pricing(hardware, rent).ok()??;
    Some(HourlyPrice {
        usd: price.usd_per_hour,
        pricing,
        from: format!("{}, {}, {}", price.provider, price.source, price.date),
    })
}

/// Devices whose purchase price the catalogue has.
fn owned(hardware: &str, own: &Own) -> Option<HourlyPrice> {
    let device = catalogue::hardware(hardware).ok()?;
    let cost = device.cost_usd.as_ref()?;
    // Bought devices are paid for at full power; idle hours save little beside the purchase.
    let watts = device.tdp_w.as_ref().map_or(0.0, |figure| figure.value);
    Some(HourlyPrice {
        usd: owned_usd_per_hour(cost.value, watts, own),
        pricing: Pricing::Own,
        from: format!("bought for {} dollars ({}, {})", cost.value, cost.source, cost.date),
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
