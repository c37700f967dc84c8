//! The fit finds a law again that it was not told, and tells sizes it never saw.

use llmlab_sim::SeqShape;
use llmlab_sim::fit::{AttentionShape, Fitted, Measured};

/// A machine that streams 1 ms of weights, then pays 20 us a row until 64 rows and 10 us beyond, 1 ns a key, 2 ns a pair, and
/// 100 us for logits.
fn law(seqs: &[SeqShape]) -> f64 {
    let rows: u64 = seqs.iter().map(SeqShape::rows).sum();
    let by_rows = 20e-6 * (rows.min(64) - 1) as f64 + 10e-6 * rows.saturating_sub(64) as f64;
    let attention: f64 = seqs
        .iter()
        .map(|seq| if seq.new == 1 { 1e-9 * seq.seen(None) as f64 } else { 2e-9 * seq.pairs(None) as f64 })
        .sum();
    let logits = if seqs.iter().any(|seq| seq.sample) { 100e-6 } else { 0.0 };
    1e-3 + by_rows + attention + logits
}

fn decode(context: u32) -> SeqShape {
    SeqShape { context, new: 1, padding: 0, sample: true, drafts: 0 }
}

fn prefill(context: u32, new: u32, sample: bool) -> SeqShape {
    SeqShape { context, new, padding: 0, sample, drafts: 0 }
}

fn cells(noise: f64) -> Vec<Measured> {
    let mut shapes: Vec<Vec<SeqShape>> = Vec::new();
    for batch in [1, 2, 4, 8, 16, 32, 64, 128] {
        for context in [16, 500, 1000] {
            shapes.push(vec![decode(context); batch]);
        }
    }
    // Every class of rows must be met without logits too, else its price and theirs cannot be told apart.
    for new in [2, 4, 8, 16, 32, 64, 128, 256, 512] {
        for context in [0, 500, 1000] {
            shapes.push(vec![prefill(context, new, true)]);
            shapes.push(vec![prefill(context, new, false)]);
        }
    }
    shapes.push(vec![prefill(0, 32, true); 4]);
    shapes.push(vec![prefill(0, 64, true); 8]);
    let swing = |at: usize| 1.0 + noise * [1.0, -0.6, 0.2, -1.0, 0.7, 0.1, -0.4][at % 7];
    let measured = |(at, seqs): (usize, Vec<SeqShape>)| Measured {
        name: format!("cell {at}"),
        seconds: law(&seqs) * swing(at),
        seqs,
    };
    shapes.into_iter().enumerate().map(measured).collect()
}

fn shape() -> AttentionShape {
    AttentionShape::of(&llmlab_models::load_spec("synthetic:llama-15m").unwrap())
}

#[test]
fn a_law_without_noise_is_told_exactly_and_beyond_what_was_measured() {
    let cells = cells(0.0);
    let fitted = Fitted::fit(shape(), &cells).unwrap();
    let residuals = fitted.residuals(&cells);
    assert!(residuals.worst < 0.01, "{residuals:?}");
    let larger = [
        vec![decode(8000); 300],
        vec![prefill(3000, 2048, true)],
        [vec![decode(2000); 100], vec![prefill(0, 1000, true)]].concat(),
    ];
    for seqs in larger {
        let (told, truth) = (fitted.seconds(&seqs), law(&seqs));
        assert!((told / truth - 1.0).abs() < 0.05, "{told} {truth}");
    }
}

#[test]
fn noise_does_not_make_a_price_negative_and_shows_in_the_residuals() {
    let cells = cells(0.1);
    let fitted = Fitted::fit(shape(), &cells).unwrap();
    assert!(fitted.prices.iter().all(|price| *price >= 0.0));
    let residuals = fitted.residuals(&cells);
    assert!((0.01..0.15).contains(&residuals.median), "{residuals:?}");
    assert!(residuals.worst >= residuals.p95 && residuals.p95 >= residuals.median);
    for seqs in [vec![decode(300); 10], vec![prefill(200, 100, true)]] {
        assert!((fitted.seconds(&seqs) / law(&seqs) - 1.0).abs() < 0.1);
    }
}

#[test]
fn too_little_or_no_time_is_an_error() {
    let few = &cells(0.0)[..5];
    assert!(Fitted::fit(shape(), few).unwrap_err().to_string().contains("5 measured steps"));
    let mut zero = cells(0.0);
    zero[3].seconds = 0.0;
    assert!(Fitted::fit(shape(), &zero).unwrap_err().to_string().contains("cell 3"));
}
