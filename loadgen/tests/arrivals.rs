//! The arrival processes by their distributions: rates, variation of gaps and counts against closed forms, and gaps against
//! distribution functions (Kolmogorov and Smirnov). That a process is the same for any number of requests is tested for all.

use std::f64::consts::TAU;
use std::time::Duration;

use llmlab_loadgen::arrivals::clients::ClientMix;
use llmlab_loadgen::arrivals::mmpp::Mmpp;
use llmlab_loadgen::arrivals::profile::{Profile, Segment};
use llmlab_loadgen::{
    Arrivals, LengthDist, Lengths, Prefixes, PromptStyle, TraceRow, WorkloadConfig, shapes,
};

fn times(arrivals: Arrivals, lengths: Option<Lengths>, requests: u64, seed: u64) -> Vec<f64> {
    let one = LengthDist::Fixed { tokens: 1 };
    let config = WorkloadConfig {
        seed,
        requests,
        lengths: lengths.unwrap_or(Lengths::Independent { input: one.clone(), output: one }),
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 10),
        output_range: (1, 10),
        arrivals,
        prompts: PromptStyle::TokenIds { first: 0, end: 2 },
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: None,
        abandonment: None,
    };
    shapes(&config).unwrap().into_iter().map(|shape| shape.at.as_secs_f64()).collect()
}

fn gaps(times: &[f64]) -> Vec<f64> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn variance(values: &[f64]) -> f64 {
    let middle = mean(values);
    values.iter().map(|v| (v - middle).powi(2)).sum::<f64>() / values.len() as f64
}

fn cv(values: &[f64]) -> f64 {
    variance(values).sqrt() / mean(values)
}

/// Variance over mean of the counts in windows of `width` seconds.
fn dispersion(times: &[f64], width: f64) -> f64 {
    let windows = (times[times.len() - 1] / width).floor() as usize;
    let mut counts = vec![0.0; windows];
    for at in times {
        if let Some(count) = counts.get_mut((at / width) as usize) {
            *count += 1.0;
        }
    }
    variance(&counts) / mean(&counts)
}

/// Largest distance between the values' distribution and `cdf`, in units in which 1.95 is exceeded once in a thousand times.
fn ks(mut values: Vec<f64>, cdf: impl Fn(f64) -> f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    let distance = |(i, value): (usize, &f64)| {
        let p = cdf(*value);
        (p - i as f64 / n).abs().max(((i + 1) as f64 / n - p).abs())
    };
    values.iter().enumerate().map(distance).fold(0.0, f64::max) * n.sqrt()
}

fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

/// The trace that Azure published of its code completion in 2023, as two states (see scenarios/traffic).
const CODE: ([f64; 2], [f64; 2]) = ([0.0012, 15.36], [42.29, 8.482]);

fn code() -> (f64, Mmpp) {
    Mmpp::from_rates(CODE.0, CODE.1.map(seconds))
}

/// Index of dispersion of counts over `t` and of the gaps' variation (Fischer and Meier-Hellstern 1993).
#[test]
fn mmpp_has_the_rate_and_the_dispersion_of_the_closed_form() {
    let (rate_rps, states) = code();
    let (l, s) = (CODE.0, CODE.1.map(|dwell| 1.0 / dwell));
    let sum = s[0] + s[1];
    let closed = |t: f64| {
        let weight = 2.0 * (l[0] - l[1]).powi(2) * s[0] * s[1] / (sum * sum * (l[0] * s[1] + l[1] * s[0]));
        1.0 + weight * (1.0 - (1.0 - (-sum * t).exp()) / (sum * t))
    };
    // What was measured of the trace itself: 2.567 requests/s, dispersion 13.2 over 1 s and 160.5 over 60 s.
    assert!((rate_rps / 2.567 - 1.0).abs() < 0.01);
    assert!((closed(1.0) / 13.2 - 1.0).abs() < 0.01 && (closed(60.0) / 160.5 - 1.0).abs() < 0.01);
    let times = times(Arrivals::Mmpp { rate_rps, states }, None, 150_000, 3);
    let found = times.len() as f64 / times[times.len() - 1];
    // About 1100 bursts, each with a length that varies by its mean.
    assert!((found / rate_rps - 1.0).abs() < 0.1, "{found}");
    for t in [1.0, 60.0] {
        let found = dispersion(&times, t);
        assert!((found / closed(t) - 1.0).abs() < 0.2, "over {t} s: {found}, closed form {}", closed(t));
    }
    let found = cv(&gaps(&times));
    assert!((found / 13.15 - 1.0).abs() < 0.15, "cv {found}");
}

#[test]
fn mmpp_with_equal_rates_is_poisson() {
    let states = Mmpp { factors: [1.0, 1.0], dwell: [seconds(3.0), seconds(1.0)] };
    let times = times(Arrivals::Mmpp { rate_rps: 5.0, states }, None, 20_000, 1);
    let distance = ks(gaps(&times), |x| 1.0 - (-5.0 * x).exp());
    assert!(distance < 1.95, "{distance}");
}

fn phases() -> Profile {
    let segment = |from, to, s| Segment { from, to, duration: seconds(s) };
    Profile::Segments(vec![
        segment(0.0, 10.0, 20.0),
        segment(10.0, 10.0, 30.0),
        segment(50.0, 50.0, 2.0),
        segment(8.0, 2.0, 48.0),
    ])
}

/// Requests expected until `t`: the gaps of this are those of a Poisson process of rate 1 (time rescaling).
fn phases_area(t: f64) -> f64 {
    let lap = 100.0 + 300.0 + 100.0 + 240.0;
    let (laps, t) = ((t / 100.0).floor(), t % 100.0);
    let within = match t {
        t if t < 20.0 => t * t / 4.0,
        t if t < 50.0 => 100.0 + 10.0 * (t - 20.0),
        t if t < 52.0 => 400.0 + 50.0 * (t - 50.0),
        t => {
            let x = t - 52.0;
            500.0 + 8.0 * x - 6.0 / 48.0 * x * x / 2.0
        }
    };
    laps * lap + within
}

#[test]
fn phases_are_poisson_at_the_rate_of_their_curve() {
    let times = times(Arrivals::Profile { rate_rps: 1.0, profile: phases() }, None, 20_000, 5);
    let rescaled: Vec<f64> = times.iter().map(|t| phases_area(*t)).collect();
    let distance = ks(gaps(&rescaled), |x| 1.0 - (-x).exp());
    assert!(distance < 1.95, "{distance}");
    // The burst of the first lap: 100 expected in two seconds.
    let burst = times.iter().filter(|t| (50.0..52.0).contains(*t)).count();
    assert!((60..140).contains(&burst), "{burst}");
}

#[test]
fn a_day_is_poisson_at_the_rate_of_its_hours() {
    let (amplitude, period, peak, rate_rps) = (0.8, 600.0, 350.0, 20.0);
    let profile = Profile::Sine { amplitude, period: seconds(period), peak: seconds(peak) };
    let times = times(Arrivals::Profile { rate_rps, profile }, None, 20_000, 6);
    let wave = |t: f64| (TAU * (t - peak) / period).sin() + (TAU * peak / period).sin();
    let rescaled: Vec<f64> =
        times.iter().map(|t| rate_rps * (t + amplitude * period / TAU * wave(*t))).collect();
    let distance = ks(gaps(&rescaled), |x| 1.0 - (-x).exp());
    assert!(distance < 1.95, "{distance}");
    // A wave that nobody would see does not pass for one: the same times against an even rate.
    let even = ks(gaps(&times), |x| 1.0 - (-rate_rps * x).exp());
    assert!(even > 5.0, "{even}");
}

fn mix(count: u32, cv_median: f64, cv_mean: f64) -> ClientMix {
    ClientMix { count, exponent: 1.0, offset: 0.0, cv_median, cv_mean, weibull_share: 0.3 }
}

/// Over long windows the dispersion of several renewal processes together is the mean of their squared variations, weighted by rate.
#[test]
fn clients_together_have_the_rate_and_the_dispersion_of_their_parts() {
    let times = times(Arrivals::Clients { rate_rps: 50.0, mix: mix(20, 2.0, 2.0) }, None, 100_000, 8);
    let found = times.len() as f64 / times[times.len() - 1];
    assert!((found / 50.0 - 1.0).abs() < 0.03, "{found}");
    let long = dispersion(&times, 40.0);
    assert!((long / 4.0 - 1.0).abs() < 0.35, "{long}");
    // Many equal clients that are not bursty come as a Poisson process does (Palm and Khintchine).
    let even = ClientMix { exponent: 0.0, ..mix(500, 1.2, 1.2) };
    let times = self::times(Arrivals::Clients { rate_rps: 50.0, mix: even }, None, 20_000, 9);
    let distance = ks(gaps(&times), |x| 1.0 - (-50.0 * x).exp());
    assert!(distance < 1.95, "{distance}");
}

fn coarse() -> Lengths {
    let row =
        |i: u64| TraceRow { input_tokens: 1, output_tokens: 1, arrival: Some(seconds((i / 10 * 3) as f64)) };
    Lengths::Trace { rows: (0..3000).map(row).collect() }
}

#[test]
fn jitter_spreads_what_a_coarse_clock_has_put_together() {
    let jitter = Duration::from_secs(3);
    let times = times(Arrivals::Trace { speed: 2.0, jitter }, Some(coarse()), 3000, 1);
    assert_eq!(times[0], 0.0);
    assert!(times.is_sorted());
    assert!(gaps(&times).iter().filter(|gap| **gap == 0.0).count() < 3);
    // Ten in every 3 s, at twice the speed, evenly within.
    let distance = ks(times.iter().map(|t| t % 1.5).collect(), |x| (x / 1.5).clamp(0.0, 1.0));
    assert!(distance < 1.95, "{distance}");
    assert!((times.len() as f64 / times[times.len() - 1] / (20.0 / 3.0) - 1.0).abs() < 0.01);
}

#[test]
fn the_first_requests_are_the_same_for_any_number_of_them() {
    let (rate_rps, states) = code();
    let all = [
        (Arrivals::Mmpp { rate_rps, states }, None),
        (Arrivals::Profile { rate_rps: 3.0, profile: phases() }, None),
        (Arrivals::Clients { rate_rps: 9.0, mix: mix(30, 1.0, 3.0) }, None),
        (Arrivals::Trace { speed: 1.0, jitter: Duration::from_secs(3) }, Some(coarse())),
    ];
    for (arrivals, lengths) in all {
        let few = times(arrivals.clone(), lengths.clone(), 57, 4);
        let many = times(arrivals.clone(), lengths.clone(), 900, 4);
        assert_eq!(few, many[..57], "{arrivals:?}");
        assert_eq!(few[0], 0.0);
        assert!(many.is_sorted());
        if lengths.is_none() {
            assert_ne!(few, times(arrivals, lengths, 57, 5));
        }
    }
}
