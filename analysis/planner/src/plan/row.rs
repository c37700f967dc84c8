//! One line of the answer: how many replicas a candidate needs, what users see, what binds, what it costs.

use serde::Serialize;

use super::candidate::Candidate;
use super::capacity::{Capacity, Tried};
use super::cluster::ClusterCheck;
use super::limits::Limit;
use super::money::{Bill, HourlyPrice, Served, bill};
use super::words;

/// Why a candidate is no answer, and what would have to change.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Refusal {
    pub kind: RefusalKind,
    pub reason: String,
    pub change: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The model cannot be divided so, or the device lacks what the format needs.
    Impossible,
    DoesNotFit,
    /// A limit is below what a single request takes on an idle replica.
    BelowFloor,
    /// No rate meets the SLO.
    NoRate,
    TooManyDevices,
}

/// Where a predicted number comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// This device was measured, under the same software.
    Measured,
    /// This device, or one of its class, was measured.
    Calibrated,
    /// Peaks of the data sheet and the efficiencies of other classes.
    Roofline,
}

impl Provenance {
    pub fn name(self) -> &'static str {
        match self {
            Provenance::Measured => "measured",
            Provenance::Calibrated => "calibrated",
            Provenance::Roofline => "roofline",
        }
    }
}

/// How far predictions of a kind were from measurements: nine in ten lie within the factor 1 + `error` either way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ErrorBars {
    pub ttft: f64,
    pub tpot: f64,
    pub throughput: f64,
    pub provenance: Provenance,
}

/// A replica whose capacity is known; prices come later.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sized {
    pub candidate: Candidate,
    /// Requests a second that the cost model alone expects of a replica.
    pub guess_rps: f64,
    pub capacity: Capacity,
    pub errors: ErrorBars,
    /// Tokens that its KV cache holds.
    pub kv_tokens: u64,
    /// That no request on a replica can be below.
    pub floor_ttft_s: f64,
    pub floor_tpot_s: f64,
    /// What steps wait for where it is full: "memory bandwidth", ...
    pub bound: &'static str,
    /// Share of the device time that decoding takes.
    pub output_share: f64,
    pub tdp_w: Option<f64>,
}

impl Sized {
    /// Highest rate of one replica; only candidates with one come here.
    pub fn replica_rps(&self) -> f64 {
        self.capacity.best.as_ref().map_or(0.0, |best| best.rate_rps)
    }

    /// Replicas for a rate, and for that rate if the prediction of throughput is off by its error, either way.
    pub fn replicas(&self, peak_rps: f64) -> (u32, (u32, u32)) {
        let needed = |rate: f64| replicas(peak_rps, rate);
        let rate = self.replica_rps();
        let factor = 1.0 + self.errors.throughput;
        (needed(rate), (needed(rate * factor), needed(rate / factor)))
    }
}

/// Replicas of `replica_rps` each that take `rate_rps` together.
pub fn replicas(rate_rps: f64, replica_rps: f64) -> u32 {
    let exact = rate_rps / replica_rps;
    // A division that ends a hair above a whole number is that number.
    let count = if (exact - exact.round()).abs() < 1e-9 { exact.round() } else { exact.ceil() };
    count.clamp(1.0, f64::from(u32::MAX)) as u32
}

/// A replica with its share of the busiest hour.
#[derive(Debug, Clone, PartialEq)]
pub struct AtPeak {
    pub tried: Tried,
    /// Replicas beyond what the capacity of one says.
    pub added: u32,
    pub simulations: u32,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub sized: Sized,
    pub price: HourlyPrice,
    pub replicas: u32,
    /// Of these, those that the busiest hour takes; the others are spare, or make up for spot machines taken away.
    pub needed: u32,
    /// Of these, those that may fail at the busiest hour.
    pub spare: u32,
    /// If predicted throughput is off by its error.
    pub replicas_range: (u32, u32),
    /// At the busiest hour.
    pub at_peak: Tried,
    /// How much more the replicas could take than the busiest hour brings; spare and added ones do not count.
    pub headroom: f64,
    /// What the SLO breaks on first when there is more traffic.
    pub binding: String,
    pub bill: Bill,
    /// A month with one replica more, so that one may fail.
    pub n_plus_one_usd_per_month: f64,
    pub usd_per_month_range: (f64, f64),
    pub within_budget: bool,
    /// The replicas simulated together, for the rows that were looked at more closely.
    pub cluster: Option<ClusterCheck>,
    /// Power over the day.
    pub watts: Option<f64>,
}

impl Row {
    pub fn devices(&self) -> u32 {
        self.replicas.saturating_mul(self.sized.candidate.devices())
    }

    /// Not known to break the SLO as a cluster.
    pub fn holds(&self) -> bool {
        self.cluster.as_ref().is_none_or(|check| check.routed.met)
    }
}

/// `added`: replicas beyond an even share of the traffic. `surplus`: how many times as many replicas have to be held as are
/// needed, for pricings that take them away; in whole replicas, of which spare ones are some.
pub fn row(
    sized: &Sized,
    price: &HourlyPrice,
    added: u32,
    surplus: f64,
    spare: u32,
    peak_rps: f64,
    served: &Served,
    at_peak: Tried,
    budget: Option<f64>,
) -> Row {
    let (alone, range) = sized.replicas(peak_rps);
    let needed = alone.saturating_add(added);
    let held = |needed: u32| held(needed, surplus, spare);
    let hour = |needed: u32| f64::from(held(needed)) * f64::from(sized.candidate.devices()) * price.usd;
    let month = |needed: u32| hour(needed) * super::money::HOURS_PER_MONTH;
    let replicas = held(needed);
    let bill = bill(hour(needed), served);
    let watts = sized.tdp_w.map(|tdp| {
        let load = at_peak.busy * served.mean_rps / peak_rps;
        super::money::watts(tdp, load) * f64::from(replicas) * f64::from(sized.candidate.devices())
    });
    Row {
        replicas,
        needed,
        spare,
        replicas_range: (held(range.0.saturating_add(added)), held(range.1.saturating_add(added))),
        // The added ones are there because that rate does not hold in a cluster.
        headroom: sized.replica_rps() * f64::from(alone) / peak_rps - 1.0,
        binding: binding(sized),
        n_plus_one_usd_per_month: month(needed.saturating_add(1)),
        usd_per_month_range: (month(range.0.saturating_add(added)), month(range.1.saturating_add(added))),
        within_budget: budget.is_none_or(|most| bill.usd_per_month <= most),
        watts,
        bill,
        cluster: None,
        at_peak,
        price: price.clone(),
        sized: sized.clone(),
    }
}

/// Those that serve, and the spare ones, which make up for what is taken away too.
pub fn held(needed: u32, surplus: f64, spare: u32) -> u32 {
    let taken = (f64::from(needed) * (surplus - 1.0)).ceil() as u32;
    needed.saturating_add(spare.max(taken))
}

fn binding(sized: &Sized) -> String {
    let broken = sized.capacity.broken.as_ref().or(sized.capacity.best.as_ref());
    let Some(tried) = broken else { return "nothing tried".into() };
    let by = match tried.verdict.nearest {
        Some((limit, share)) if share > 1.0 || !tried.verdict.growing => limit.words(),
        _ => "the queue grows".to_owned(),
    };
    format!("{by}; steps wait for {}", sized.bound)
}

/// A limit that even an idle replica misses.
pub fn below_floor(limits: &[Limit], floor_ttft_s: f64, floor_tpot_s: f64) -> Option<Refusal> {
    use super::limits::Latency;
    limits.iter().find_map(|limit| {
        let floor = match limit.on {
            Latency::Ttft => floor_ttft_s,
            Latency::Tpot | Latency::Itl => floor_tpot_s,
            Latency::E2e => floor_ttft_s,
        };
        (limit.seconds < floor).then(|| Refusal {
            kind: RefusalKind::BelowFloor,
            reason: format!(
                "{} is below the floor: an idle replica takes {}",
                limit.words(),
                words::seconds(floor)
            ),
            change: "a longer limit, fewer bits in the weights, more tensor parallelism, or a faster device"
                .into(),
        })
    })
}
