//! Prompts that begin with blocks of a tree: a prefix cache of any size, written down naively, sees the wanted hit rate.

use std::collections::HashSet;

use llmlab_loadgen::{
    Arrivals, LengthDist, Lengths, Popularity, PrefixTree, Prefixes, Prompt, PromptStyle, WorkloadConfig,
    WorkloadError, generate,
};

const TREE: PrefixTree = PrefixTree {
    block_tokens: 32,
    depth: 4,
    branching: 3,
    popularity: Popularity::Uniform,
    hit_rate: Some(0.37),
    or_nearest: false,
};

fn config(seed: u64, requests: u64, tree: PrefixTree) -> WorkloadConfig {
    WorkloadConfig {
        seed,
        requests,
        lengths: Lengths::Independent {
            input: LengthDist::Lognormal { median: 150.0, p95: 500.0 },
            output: LengthDist::Fixed { tokens: 5 },
        },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 2000),
        output_range: (1, 100),
        arrivals: Arrivals::Poisson { rate_rps: 10.0 },
        prompts: PromptStyle::TokenIds { first: 4, end: 30_000 },
        prefixes: Prefixes::Tree(tree),
        adapters: None,
        sessions: None,
        abandonment: None,
    }
}

/// Remembers every beginning of whole blocks. Tokens found, of all.
fn found_by_a_cache(config: &WorkloadConfig, block_tokens: usize) -> (f64, f64) {
    let workload = generate(config).unwrap();
    let mut known: HashSet<Vec<u32>> = HashSet::new();
    let (mut found, mut all) = (0, 0);
    for request in &workload.requests {
        let Prompt::Tokens(ids) = &request.prompt else { panic!("asked for ids") };
        assert_eq!(ids.len(), request.prompt_tokens as usize);
        all += ids.len();
        for end in (block_tokens..ids.len()).step_by(block_tokens) {
            found += if known.insert(ids[..end].to_vec()) { 0 } else { block_tokens };
        }
    }
    (found as f64 / all as f64, workload.prefix_hit_rate.unwrap())
}

#[test]
fn a_cache_sees_the_wanted_rate() {
    for seed in [1, 2] {
        for wanted in [0.0, 0.1, 0.25, 0.37] {
            let config = config(seed, 400, PrefixTree { hit_rate: Some(wanted), ..TREE });
            let (seen, said) = found_by_a_cache(&config, 32);
            assert!((seen - said).abs() < 1e-12, "the cache saw {seen}, the workload says {said}");
            // A block of 32 tokens among 400 prompts of some 200 is worth 0.0004; one place may bring several.
            assert!((seen - wanted).abs() < 0.002, "wanted {wanted}, got {seen}");
        }
    }
}

#[test]
fn without_a_rate_every_request_walks_as_far_as_it_fits() {
    let config = config(1, 300, PrefixTree { hit_rate: None, ..TREE });
    let (seen, said) = found_by_a_cache(&config, 32);
    assert!((seen - said).abs() < 1e-12 && seen > 0.35, "{seen} and {said}");
    // 3 + 9 + 27 + 81 blocks are all there are.
    let mut blocks = HashSet::new();
    for request in generate(&config).unwrap().requests {
        let Prompt::Tokens(ids) = request.prompt else { panic!("asked for ids") };
        let fitting = ((ids.len() - 1) / 32).min(4);
        blocks.extend((1..=fitting).map(|block| ids[..32 * block].to_vec()));
    }
    assert!((100..=120).contains(&blocks.len()), "{}", blocks.len());
}

#[test]
fn what_cannot_be_reached_is_refused_or_approached() {
    let wanted = |or_nearest| config(1, 50, PrefixTree { hit_rate: Some(0.95), or_nearest, ..TREE });
    let error = generate(&wanted(false)).unwrap_err();
    assert!(matches!(error, WorkloadError::HitRate { wanted: 0.95, most } if most < 0.95), "{error}");
    assert!(error.to_string().contains("prefixes.hit_rate"), "{error}");
    let nearest = generate(&wanted(true)).unwrap().prefix_hit_rate.unwrap();
    assert!((0.2..0.95).contains(&nearest), "{nearest}");
    for tree in [
        PrefixTree { block_tokens: 0, ..TREE },
        PrefixTree { depth: 0, ..TREE },
        PrefixTree { branching: 0, ..TREE },
        PrefixTree { branching: 1000, depth: 1000, ..TREE },
        PrefixTree { hit_rate: Some(f64::NAN), ..TREE },
    ] {
        assert!(matches!(generate(&config(1, 5, tree)), Err(WorkloadError::Tree { .. })), "{tree:?}");
    }
}
