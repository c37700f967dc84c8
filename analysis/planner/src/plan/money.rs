//! Money: what devices cost an hour, and what that comes to for a month, a request and a million tokens.

use llmlab_scenarios::plan::Own;
use serde::Serialize;

/// 8760 hours a year over 12 months.
pub const HOURS_PER_MONTH: f64 = 730.0;
const HOURS_PER_YEAR: f64 = 8760.0;

/// How devices are paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pricing {
    OnDemand,
    /// May be taken away at short notice.
    Spot,
    Reserved,
    /// Bought.
    Own,
}

impl Pricing {
    pub const ALL: [Pricing; 4] = [Pricing::OnDemand, Pricing::Spot, Pricing::Reserved, Pricing::Own];

    pub fn name(self) -> &'static str {
        match self {
            Pricing::OnDemand => "on-demand",
            Pricing::Spot => "spot",
            Pricing::Reserved => "reserved",
            Pricing::Own => "own",
        }
    }

    pub fn named(name: &str) -> Option<Pricing> {
        Pricing::ALL.into_iter().find(|pricing| pricing.name() == name)
    }
}

/// One device for one hour.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HourlyPrice {
    pub usd: f64,
    pub pricing: Pricing,
    /// Provider, source and date, or how it was computed.
    pub from: String,
}

/// What an owned device costs an hour, used or not: its share of the purchase and of the upkeep, and its power.
///
/// `watts` is the draw of the device; the rest of the server draws in proportion to its price.
pub fn owned_usd_per_hour(purchase_usd: f64, watts: f64, own: &Own) -> f64 {
    let server = purchase_usd * (1.0 + own.server_overhead);
    let a_year = server / own.years + server * own.upkeep_per_year;
    let kilowatts = watts * 1e-3 * (1.0 + own.server_overhead);
    a_year / HOURS_PER_YEAR + kilowatts * own.pue * own.usd_per_kwh
}

/// Mean power of a device that computes in `busy` of the time. Boards idle at about a sixth of their limit and draw near it
/// when busy (H100: 70 to 120 of 700 W idle; our choice of 1/6).
pub fn watts(tdp_w: f64, busy: f64) -> f64 {
    const IDLE: f64 = 1.0 / 6.0;
    tdp_w * (IDLE + (1.0 - IDLE) * busy.clamp(0.0, 1.0))
}

/// Spot capacity that has to be held beside what is needed: a replica that is taken away is missing until its successor has
/// started.
pub fn spot_surplus(interruptions_per_hour: f64, cold_start_s: f64) -> f64 {
    let missing = (interruptions_per_hour * cold_start_s / 3600.0).min(0.9);
    1.0 / (1.0 - missing)
}

/// The devices of a plan, and what they serve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Served {
    /// Over the day, not at the peak: idle hours are paid for too.
    pub mean_rps: f64,
    pub input_tokens: f64,
    pub output_tokens: f64,
    /// Share of the device time that output tokens take.
    pub output_share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bill {
    pub usd_per_hour: f64,
    pub usd_per_month: f64,
    pub usd_per_request: f64,
    pub usd_per_million_input_tokens: f64,
    pub usd_per_million_output_tokens: f64,
    /// Input and output together.
    pub usd_per_million_tokens: f64,
}

/// The whole bill is charged to what is served. Of it, input and output tokens bear what they take of the devices' time.
pub fn bill(usd_per_hour: f64, served: &Served) -> Bill {
    let requests_per_hour = served.mean_rps * 3600.0;
    let per_request = usd_per_hour / requests_per_hour;
    let per_million = |usd: f64, tokens: f64| if tokens > 0.0 { usd / tokens * 1e6 } else { 0.0 };
    let output = per_request * served.output_share;
    Bill {
        usd_per_hour,
        usd_per_month: usd_per_hour * HOURS_PER_MONTH,
        usd_per_request: per_request,
        usd_per_million_input_tokens: per_million(per_request - output, served.input_tokens),
        usd_per_million_output_tokens: per_million(output, served.output_tokens),
        usd_per_million_tokens: per_million(per_request, served.input_tokens + served.output_tokens),
    }
}

/// What one of the same requests costs at an API's prices.
pub fn api_usd_per_request(usd_per_million_in: f64, usd_per_million_out: f64, served: &Served) -> f64 {
    (usd_per_million_in * served.input_tokens + usd_per_million_out * served.output_tokens) / 1e6
}

/// Requests a second at which owning costs what the API charges, where machines come in steps: `usd_per_hour` for each
/// `replica_rps`. `None` where the API is cheaper however much is served.
pub fn break_even_rps(usd_per_replica_hour: f64, replica_rps: f64, api_usd_per_request: f64) -> Option<f64> {
    let rate = usd_per_replica_hour / 3600.0 / api_usd_per_request;
    // A replica that is full is as cheap as it gets.
    (rate.is_finite() && rate <= replica_rps).then_some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served() -> Served {
        Served { mean_rps: 2.0, input_tokens: 1000.0, output_tokens: 250.0, output_share: 0.8 }
    }

    #[test]
    fn the_parts_of_a_bill_add_up() {
        let bill = bill(7.2, &served());
        assert_eq!(bill.usd_per_request, 0.001);
        assert_eq!(bill.usd_per_month, 7.2 * 730.0);
        let parts = bill.usd_per_million_input_tokens * 1000.0 + bill.usd_per_million_output_tokens * 250.0;
        assert!((parts / 1e6 - bill.usd_per_request).abs() < 1e-15);
        assert!((bill.usd_per_million_tokens - 0.8).abs() < 1e-12);
        assert!((bill.usd_per_million_output_tokens - 3.2).abs() < 1e-12);
    }

    #[test]
    fn an_api_is_beaten_from_a_rate_on_that_one_replica_can_serve() {
        let per_request = api_usd_per_request(0.5, 1.5, &served());
        assert!((per_request - 0.000875).abs() < 1e-15);
        let rate = break_even_rps(3.0, 5.0, per_request).unwrap();
        assert!((rate * 3600.0 * per_request - 3.0).abs() < 1e-12);
        assert_eq!(break_even_rps(3.0, 0.5, per_request), None);
    }

    /// 30,000 dollars, a third more for the server, four years, a tenth a year for upkeep: 1.60 dollars an hour and the power.
    #[test]
    fn owning_is_paid_by_the_hour() {
        let own = Own {
            device_usd: Default::default(),
            years: 4.0,
            usd_per_kwh: 0.1,
            pue: 1.2,
            server_overhead: 1.0 / 3.0,
            upkeep_per_year: 0.1,
        };
        let hour = owned_usd_per_hour(30_000.0, 700.0, &own);
        let expected = 40_000.0 / 4.0 / 8760.0 + 4000.0 / 8760.0 + 0.7 * 4.0 / 3.0 * 1.2 * 0.1;
        assert!((hour - expected).abs() < 1e-12, "{hour}");
    }

    #[test]
    fn spot_needs_more_the_longer_a_start_takes() {
        assert_eq!(spot_surplus(0.0, 300.0), 1.0);
        assert!((spot_surplus(0.5, 720.0) - 1.0 / 0.9).abs() < 1e-12);
    }
}
