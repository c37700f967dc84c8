//! The workload is a pure function of its configuration, and each knob moves only what it should.

use std::time::Duration;

use llmlab_loadgen::lengths::{PROBABILITIES, QuantileTable, quantile};
use llmlab_loadgen::{
    Adapters, Arrivals, LengthDist, Lengths, Mode, Popularity, Prefixes, Prompt, PromptStyle, TraceRow,
    Workload, WorkloadConfig, WorkloadError, generate,
};
use proptest::prelude::*;

const CONV_IN: QuantileTable =
    [2.0, 29.0, 181.0, 207.0, 396.0, 1020.0, 1189.0, 2734.0, 4083.0, 4142.0, 14050.0];
const CONV_OUT: QuantileTable = [7.0, 16.0, 41.0, 54.0, 85.0, 129.0, 395.0, 424.0, 451.0, 601.0, 1000.0];

fn base() -> WorkloadConfig {
    WorkloadConfig {
        seed: 42,
        requests: 200,
        lengths: Lengths::Quantiles { input: CONV_IN, output: CONV_OUT, rank_correlation: -0.1 },
        scale_input: 0.25,
        scale_output: 0.5,
        input_range: (1, 2000),
        output_range: (1, 300),
        arrivals: Arrivals::Poisson { rate_rps: 10.0 },
        prompts: PromptStyle::TokenIds { first: 5, end: 505 },
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: None,
        abandonment: None,
    }
}

fn ids(prompt: &Prompt) -> &[u32] {
    match prompt {
        Prompt::Tokens(ids) => ids,
        other => panic!("{other:?}"),
    }
}

fn lengths(workload: &Workload) -> Vec<(u32, u32)> {
    workload.requests.iter().map(|r| (r.prompt_tokens, r.max_tokens)).collect()
}

/// FNV-1a over everything a workload says, as numbers.
fn digest(workload: &Workload) -> u64 {
    let numbers = workload.requests.iter().flat_map(|r| {
        [r.index, r.at.as_nanos() as u64, u64::from(r.prompt_tokens), u64::from(r.max_tokens)]
            .into_iter()
            .chain(ids(&r.prompt).iter().map(|id| u64::from(*id)))
    });
    numbers
        .flat_map(u64::to_le_bytes)
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn same_configuration_same_bytes() {
    assert_eq!(generate(&base()).unwrap(), generate(&base()).unwrap());
    let other = WorkloadConfig { seed: 43, ..base() };
    assert_ne!(lengths(&generate(&base()).unwrap()), lengths(&generate(&other).unwrap()));
}

/// Pins the format: stored runs name their workload by seed, so a change here (also one that a new version of a
/// library brings) must be deliberate. The invariants are in the tests around this one.
#[test]
fn the_format_has_not_changed() {
    let small = |arrivals| WorkloadConfig { requests: 20, arrivals, ..base() };
    let digests = [
        Arrivals::Poisson { rate_rps: 10.0 },
        Arrivals::Gamma { rate_rps: 10.0, cv: 3.0 },
        Arrivals::Constant { rate_rps: 10.0 },
        Arrivals::Closed { users: 4, think_time: Duration::from_millis(5) },
    ]
    .map(|arrivals| digest(&generate(&small(arrivals)).unwrap()));
    assert_eq!(digests, GOLDEN, "{digests:#x?}");
}

const GOLDEN: [u64; 4] =
    [0x89dd_34c2_5e3c_2d4a, 0x19d3_5ff6_5974_07c1, 0x1618_a11b_25fa_0f73, 0xc0ec_fb3f_3702_4d9f];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_request_does_not_depend_on_how_many_there_are(seed: u64, few in 1u64..30, more in 30u64..60, kind in 0..4) {
        let arrivals = match kind {
            0 => Arrivals::Poisson { rate_rps: 3.0 },
            1 => Arrivals::Gamma { rate_rps: 3.0, cv: 2.0 },
            2 => Arrivals::Constant { rate_rps: 3.0 },
            _ => Arrivals::Closed { users: 2, think_time: Duration::ZERO },
        };
        let config = |requests| WorkloadConfig { seed, requests, arrivals: arrivals.clone(), ..base() };
        let (few, more) = (generate(&config(few)).unwrap(), generate(&config(more)).unwrap());
        prop_assert_eq!(&few.requests[..], &more.requests[..few.requests.len()]);
    }

    #[test]
    fn arrivals_never_go_back_and_lengths_stay_in_range(seed: u64, cv in 0.0..20.0f64, max in 1u32..100) {
        let config = WorkloadConfig {
            seed,
            requests: 50,
            arrivals: Arrivals::Gamma { rate_rps: 5.0, cv },
            input_range: (1, max),
            prefixes: Prefixes::one(7),
            ..base()
        };
        let workload = generate(&config).unwrap();
        prop_assert!(workload.requests.windows(2).all(|w| w[0].at <= w[1].at && w[0].index + 1 == w[1].index));
        for r in &workload.requests {
            prop_assert_eq!(ids(&r.prompt).len() as u32, r.prompt_tokens);
            prop_assert!((1..=max).contains(&r.prompt_tokens) && (1..=300).contains(&r.max_tokens));
            prop_assert!(ids(&r.prompt).iter().all(|id| (5..505).contains(id)));
        }
    }

    #[test]
    fn quantile_rises_and_meets_its_points(p in 0.0..1.0f64, q in 0.0..1.0f64) {
        let (low, high) = (p.min(q), p.max(q));
        prop_assert!(quantile(&CONV_IN, low) <= quantile(&CONV_IN, high) * (1.0 + 1e-12));
        for (p, v) in PROBABILITIES.iter().zip(CONV_IN) {
            prop_assert!((quantile(&CONV_IN, *p) / v - 1.0).abs() < 1e-9);
        }
    }
}

#[test]
fn one_knob_leaves_the_rest_alone() {
    let first = generate(&base()).unwrap();
    let burst =
        generate(&WorkloadConfig { arrivals: Arrivals::Gamma { rate_rps: 1.0, cv: 4.0 }, ..base() }).unwrap();
    assert!(first.requests.iter().zip(&burst.requests).all(|(a, b)| a.prompt == b.prompt));
    assert_eq!(lengths(&first), lengths(&burst));

    // Twice the rate is the same process on a clock that runs twice as fast.
    let twice =
        generate(&WorkloadConfig { arrivals: Arrivals::Poisson { rate_rps: 20.0 }, ..base() }).unwrap();
    for (a, b) in first.requests.iter().zip(&twice.requests) {
        assert!((a.at.as_secs_f64() - 2.0 * b.at.as_secs_f64()).abs() < 1e-6);
    }

    // A longer prompt goes on where the shorter one stopped; outputs and times stay.
    let long = generate(&WorkloadConfig { scale_input: 0.5, ..base() }).unwrap();
    for (a, b) in first.requests.iter().zip(&long.requests) {
        assert!(ids(&b.prompt).starts_with(ids(&a.prompt)));
        assert_eq!((a.max_tokens, a.at), (b.max_tokens, b.at));
    }
}

#[test]
fn the_shared_prefix_is_all_that_is_shared() {
    let config = WorkloadConfig { prefixes: Prefixes::one(30), input_range: (40, 2000), ..base() };
    let workload = generate(&config).unwrap();
    let common = |a: &[u32], b: &[u32]| a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let first = ids(&workload.requests[0].prompt);
    for r in &workload.requests[1..] {
        // Beyond the prefix two prompts agree by chance only, 1 in 500 per token.
        assert!((30..33).contains(&common(first, ids(&r.prompt))));
    }
    // Where the whole prompt would be prefix, the last token still is the request's own.
    let tiny = generate(&WorkloadConfig { input_range: (1, 10), ..config }).unwrap();
    let lasts: std::collections::HashSet<_> =
        tiny.requests.iter().map(|r| ids(&r.prompt).last().copied()).collect();
    assert!(lasts.len() > 50, "{} different last tokens in 200 requests", lasts.len());
}

#[test]
fn each_prompt_begins_with_one_of_the_prefixes() {
    let prefixes = Prefixes::Each { count: 4, tokens: 30, popularity: Popularity::Zipf { exponent: 1.0 } };
    let config = WorkloadConfig { prefixes, requests: 2000, input_range: (40, 60), ..base() };
    let workload = generate(&config).unwrap();
    let mut counts = std::collections::HashMap::<&[u32], u32>::new();
    for request in &workload.requests {
        *counts.entry(&ids(&request.prompt)[..30]).or_default() += 1;
    }
    let mut counts: Vec<u32> = counts.into_values().collect();
    counts.sort_by_key(|count| std::cmp::Reverse(*count));
    assert_eq!(counts.len(), 4);
    // Shares of 1, 1/2, 1/3 and 1/4; four standard deviations of a count.
    for (count, wanted) in counts.into_iter().zip([960.0, 480.0, 320.0, 240.0]) {
        assert!((f64::from(count) - wanted).abs() < 4.0 * f64::sqrt(wanted), "{count} of {wanted}");
    }
    // Behind the prefix nothing is shared.
    let tails: std::collections::HashSet<_> =
        workload.requests.iter().map(|r| ids(&r.prompt)[30..40].to_vec()).collect();
    assert_eq!(tails.len(), 2000);
    // One prefix is what the prompts began with before there were several.
    let one = WorkloadConfig { prefixes: Prefixes::one(30), ..config.clone() };
    let first = &generate(&one).unwrap().requests[0].prompt;
    assert!(workload.requests.iter().any(|r| ids(&r.prompt)[..30] == ids(first)[..30]));
    // How many requests there are moves none of them, and adapters move no prompt.
    let adapters = Some(Adapters { names: vec!["a".into(), "b".into()], popularity: Popularity::Uniform });
    let few =
        generate(&WorkloadConfig { requests: 50, adapters: adapters.clone(), ..config.clone() }).unwrap();
    let many = generate(&WorkloadConfig { requests: 300, adapters, ..config }).unwrap();
    assert_eq!(few.requests[..], many.requests[..50]);
    assert!(many.requests.iter().zip(&workload.requests).all(|(a, b)| a.prompt == b.prompt));
    let named =
        |name: &str| many.requests.iter().filter(|r| &*r.adapter.as_ref().unwrap().name == name).count();
    assert_eq!(named("a") + named("b"), 300);
    assert!((110..190).contains(&named("a")), "{}", named("a"));
    assert!(many.without_adapters().requests.iter().all(|r| r.adapter.is_none()));
}

#[test]
fn drawn_lengths_follow_the_table_and_its_correlation() {
    let n = 4000;
    let config = WorkloadConfig {
        requests: n,
        lengths: Lengths::Quantiles { input: CONV_IN, output: CONV_OUT, rank_correlation: -0.46 },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 20_000),
        output_range: (1, 2000),
        ..base()
    };
    let lengths = lengths(&generate(&config).unwrap());
    for (side, table) in [(0, CONV_IN), (1, CONV_OUT)] {
        let mut drawn: Vec<f64> =
            lengths.iter().map(|l| f64::from(if side == 0 { l.0 } else { l.1 })).collect();
        drawn.sort_by(f64::total_cmp);
        for (p, value) in PROBABILITIES.iter().zip(table).skip(1).take(9) {
            // The share of draws up to a table value is its probability, within 4 standard errors and rounding.
            let share = drawn.partition_point(|v| *v <= value + 0.5) as f64 / n as f64;
            let error = 4.0 * (p * (1.0 - p) / n as f64).sqrt() + 0.01;
            assert!((share - p).abs() < error, "side {side}: {share} of draws up to {value}, wanted {p}");
        }
    }
    let spearman = spearman(&lengths);
    assert!((spearman + 0.46).abs() < 0.05, "rank correlation {spearman}");
}

fn spearman(pairs: &[(u32, u32)]) -> f64 {
    let ranks = |values: Vec<u32>| {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by_key(|&i| values[i]);
        let mut ranks = vec![0.0; values.len()];
        order.iter().enumerate().for_each(|(rank, &i)| ranks[i] = rank as f64);
        ranks
    };
    let (a, b) = (ranks(pairs.iter().map(|p| p.0).collect()), ranks(pairs.iter().map(|p| p.1).collect()));
    let mean = (pairs.len() as f64 - 1.0) / 2.0;
    let cov = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    cov(&a, &b) / (cov(&a, &a) * cov(&b, &b)).sqrt()
}

#[test]
fn gaps_have_the_rate_and_the_variation_asked_for() {
    for (arrivals, cv) in [
        (Arrivals::Poisson { rate_rps: 10.0 }, 1.0),
        (Arrivals::Gamma { rate_rps: 10.0, cv: 2.0 }, 2.0),
        (Arrivals::Gamma { rate_rps: 10.0, cv: 0.5 }, 0.5),
        (Arrivals::Constant { rate_rps: 10.0 }, 0.0),
    ] {
        let config = WorkloadConfig {
            requests: 8001,
            lengths: Lengths::Independent {
                input: LengthDist::Fixed { tokens: 4 },
                output: LengthDist::Fixed { tokens: 4 },
            },
            arrivals,
            ..base()
        };
        let workload = generate(&config).unwrap();
        let gaps: Vec<f64> =
            workload.requests.windows(2).map(|w| (w[1].at - w[0].at).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let sd = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((mean / 0.1 - 1.0).abs() < 0.1, "cv {cv}: mean gap {mean}");
        assert!((sd / mean - cv).abs() < 0.15 * cv.max(1e-6), "wanted cv {cv}, got {}", sd / mean);
    }
}

#[test]
fn distributions_keep_their_parameters() {
    let draw = |input: LengthDist| {
        let lengths = Lengths::Independent { input, output: LengthDist::Fixed { tokens: 9 } };
        let config =
            WorkloadConfig { requests: 4000, lengths, scale_input: 1.0, input_range: (1, 9000), ..base() };
        let mut drawn: Vec<u32> =
            generate(&config).unwrap().requests.iter().map(|r| r.prompt_tokens).collect();
        drawn.sort_unstable();
        drawn
    };
    let lognormal = draw(LengthDist::Lognormal { median: 100.0, p95: 400.0 });
    assert!((90..110).contains(&lognormal[2000]), "median {}", lognormal[2000]);
    assert!((350..450).contains(&lognormal[3800]), "p95 {}", lognormal[3800]);
    let uniform = draw(LengthDist::Uniform { min: 3, max: 7 });
    assert_eq!((uniform[0], uniform[3999]), (3, 7));
    assert!((700..900).contains(&uniform.iter().filter(|v| **v == 5).count()));
    assert!(draw(LengthDist::Fixed { tokens: 5 }).iter().all(|v| *v == 5));
}

fn row(input_tokens: u32, at_ms: Option<u64>) -> TraceRow {
    TraceRow { input_tokens, output_tokens: 2 * input_tokens, arrival: at_ms.map(Duration::from_millis) }
}

#[test]
fn a_trace_is_replayed_faster_and_starts_over() {
    let rows = vec![row(10, Some(1000)), row(20, Some(1200)), row(30, Some(1400))];
    let config = WorkloadConfig {
        requests: 5,
        lengths: Lengths::Trace { rows },
        scale_input: 1.0,
        scale_output: 1.0,
        arrivals: Arrivals::Trace { speed: 2.0, jitter: Duration::ZERO },
        ..base()
    };
    let workload = generate(&config).unwrap();
    assert_eq!(lengths(&workload), [(10, 20), (20, 40), (30, 60), (10, 20), (20, 40)]);
    let at: Vec<u128> = workload.requests.iter().map(|r| r.at.as_millis()).collect();
    assert_eq!(at, [0, 100, 200, 300, 400]);
    assert_eq!(workload.mode, Mode::Open);
}

#[test]
fn text_prompts_have_the_words_for_the_length() {
    let prompts = PromptStyle::Words { tokens_per_word: 2.0 };
    let config = WorkloadConfig { prompts, prefixes: Prefixes::one(10), input_range: (20, 200), ..base() };
    for r in generate(&config).unwrap().requests {
        let Prompt::Text(text) = r.prompt else { panic!("not text") };
        let words = text.split(' ').count() as f64;
        assert!((words - f64::from(r.prompt_tokens) / 2.0).abs() <= 0.5);
    }
}

#[test]
fn what_describes_no_workload_is_refused() {
    use WorkloadError as E;
    type Wanted = fn(&E) -> bool;
    let poisson = |rate_rps| Arrivals::Poisson { rate_rps };
    let cases: Vec<(WorkloadConfig, Wanted)> = vec![
        (WorkloadConfig { arrivals: poisson(0.0), ..base() }, |e| matches!(e, E::Rate { .. })),
        (WorkloadConfig { arrivals: poisson(-1.0), ..base() }, |e| matches!(e, E::Rate { .. })),
        (WorkloadConfig { arrivals: poisson(f64::NAN), ..base() }, |e| matches!(e, E::Rate { .. })),
        (WorkloadConfig { arrivals: poisson(1e300), ..base() }, |e| matches!(e, E::Rate { .. })),
        (WorkloadConfig { arrivals: Arrivals::Gamma { rate_rps: 1.0, cv: f64::NAN }, ..base() }, |e| {
            matches!(e, E::Cv { .. })
        }),
        (
            WorkloadConfig { arrivals: Arrivals::Closed { users: 0, think_time: Duration::ZERO }, ..base() },
            |e| matches!(e, E::NoUsers),
        ),
        (
            WorkloadConfig { arrivals: Arrivals::Trace { speed: 1.0, jitter: Duration::ZERO }, ..base() },
            |e| matches!(e, E::ArrivalsWithoutTrace),
        ),
        (WorkloadConfig { lengths: Lengths::Trace { rows: vec![] }, ..base() }, |e| {
            matches!(e, E::EmptyTrace)
        }),
        (
            WorkloadConfig {
                lengths: Lengths::Trace { rows: vec![row(1, Some(5)), row(1, Some(4))] },
                arrivals: Arrivals::Trace { speed: 1.0, jitter: Duration::ZERO },
                ..base()
            },
            |e| matches!(e, E::TraceNotSorted { row: 1 }),
        ),
        (
            WorkloadConfig {
                lengths: Lengths::Trace { rows: vec![row(1, None)] },
                arrivals: Arrivals::Trace { speed: 1.0, jitter: Duration::ZERO },
                ..base()
            },
            |e| matches!(e, E::TraceWithoutTime { row: 0 }),
        ),
        (WorkloadConfig { input_range: (5, 4), ..base() }, |e| matches!(e, E::Range { side: "input", .. })),
        (WorkloadConfig { output_range: (0, 4), ..base() }, |e| matches!(e, E::Range { side: "output", .. })),
        (WorkloadConfig { scale_output: f64::INFINITY, ..base() }, |e| matches!(e, E::Scale { .. })),
        (WorkloadConfig { prompts: PromptStyle::TokenIds { first: 3, end: 3 }, ..base() }, |e| {
            matches!(e, E::TokenRange { .. })
        }),
        (
            WorkloadConfig {
                lengths: Lengths::Quantiles { input: [3.0; 11], output: CONV_OUT, rank_correlation: 1.5 },
                ..base()
            },
            |e| matches!(e, E::Correlation { .. }),
        ),
        (
            WorkloadConfig {
                lengths: Lengths::Independent {
                    input: LengthDist::Uniform { min: 5, max: 4 },
                    output: LengthDist::Fixed { tokens: 1 },
                },
                ..base()
            },
            |e| matches!(e, E::Distribution { side: "input", .. }),
        ),
    ];
    for (config, wanted) in cases {
        let error = generate(&config).unwrap_err();
        assert!(wanted(&error), "{error}");
    }
}
