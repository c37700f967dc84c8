//! Mixes against the types llama-quantize chose (`fixtures/make_recipes.py`), and their names.

use llmlab_quant::{MatrixRole, TensorPlace, WeightFormat, WeightRecipe};

/// A shape of `make_recipes.py`.
struct Shape {
    name: &'static str,
    layers: usize,
    hidden: usize,
    ffn: usize,
    gqa: usize,
    experts: usize,
    tied: bool,
    fused: bool,
}

const fn shape(
    name: &'static str,
    layers: usize,
    hidden: usize,
    ffn: usize,
    gqa: usize,
    experts: usize,
) -> Shape {
    Shape { name, layers, hidden, ffn, gqa, experts, tied: false, fused: false }
}

const SHAPES: [Shape; 9] = [
    shape("dense", 32, 256, 512, 1, 0),
    Shape { tied: true, ..shape("grouped_tied", 22, 256, 512, 8, 0) },
    shape("seventy", 80, 256, 256, 8, 0),
    shape("eight_experts", 16, 256, 256, 4, 8),
    shape("four_experts", 12, 256, 256, 2, 4),
    Shape { fused: true, ..shape("fused", 16, 256, 512, 1, 0) },
    shape("narrow", 12, 320, 352, 1, 0),
    Shape { tied: true, ..shape("narrow_tied", 12, 320, 512, 5, 0) },
    shape("odd", 9, 200, 600, 5, 0),
];

fn role(name: &str, shape: &Shape) -> MatrixRole {
    match name {
        "embedding" if shape.tied => MatrixRole::TiedEmbedding,
        "embedding" => MatrixRole::Embedding,
        "output" => MatrixRole::Output,
        "qkv" => MatrixRole::Qkv,
        "query" => MatrixRole::Query,
        "key" => MatrixRole::Key,
        "value" => MatrixRole::Value,
        "attention_output" => MatrixRole::AttentionOutput,
        "router" => MatrixRole::Router,
        "gate" => MatrixRole::Gate,
        "up" if shape.fused => MatrixRole::GateUp,
        "up" => MatrixRole::Up,
        "down" => MatrixRole::Down,
        other => panic!("role {other}"),
    }
}

#[test]
fn mixes_are_those_of_llama_quantize() {
    let mut matrices = 0;
    for line in include_str!("fixtures/recipes.txt").lines() {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap();
        let (shape, recipe, role_name) = (word(), word(), word());
        let shape = SHAPES.iter().find(|known| known.name == shape).unwrap();
        let recipe: WeightRecipe = recipe.parse().unwrap();
        let role = role(role_name, shape);
        let types = words.flat_map(|run| {
            let (kind, count) = run.split_once('*').unwrap();
            std::iter::repeat_n(kind.parse::<WeightFormat>().unwrap(), count.parse().unwrap())
        });
        for (layer, expected) in types.enumerate() {
            let cols = if role == MatrixRole::Down { shape.ffn } else { shape.hidden };
            let Shape { layers, gqa, experts, .. } = *shape;
            let place = TensorPlace { role, layer, layers, cols, gqa, experts };
            // Routers are stored as f16 in those models and stay so.
            let expected = if role == MatrixRole::Router { None } else { Some(expected) };
            assert_eq!(recipe.format(&place), expected, "{line}: layer {layer}");
            matrices += 1;
        }
    }
    assert_eq!(matrices, MATRICES);
}

/// Matrices in `recipes.txt`, so that a damaged file is noticed.
const MATRICES: usize = 23_568;

#[test]
fn what_is_stored_stays_and_formats_outside_gguf_fit_any_row() {
    let place = |role, cols| TensorPlace { role, layer: 0, layers: 2, cols, gqa: 1, experts: 0 };
    assert_eq!(WeightRecipe::AsStored.format(&place(MatrixRole::Down, 256)), None);
    for format in [WeightFormat::Int4, WeightFormat::Int8Group, WeightFormat::Int8, WeightFormat::Fp8] {
        let recipe = WeightRecipe::Uniform(format);
        assert_eq!(recipe.format(&place(MatrixRole::Output, 100)), Some(format));
        assert_eq!(recipe.format(&place(MatrixRole::Router, 256)), None);
    }
}

#[test]
fn names_round_trip_and_an_unknown_one_lists_the_accepted() {
    let names = WeightRecipe::ALL.map(|recipe| recipe.to_string());
    for (recipe, name) in WeightRecipe::ALL.into_iter().zip(&names) {
        assert_eq!(name.parse::<WeightRecipe>().unwrap(), recipe);
        assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
    }
    assert_eq!("q2_k".parse(), Ok(WeightRecipe::Q2K));
    assert_eq!("q6_k".parse(), Ok(WeightRecipe::Uniform(WeightFormat::Q6K)));
    let error = "q4_k_l".parse::<WeightRecipe>().unwrap_err().to_string();
    assert!(error.contains("q4_k_l") && error.contains("as_stored") && error.contains("q5_k_m"), "{error}");
}
