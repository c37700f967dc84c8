//! Other ways in which files hold the same tensors: query, key and value rows in one tensor, gate and up rows of all experts
//! in one, or a tensor for each expert. All of them read as the same model.

use std::path::Path;

use llmlab_models::gguf::{GgufFile, Kind, NewModel, NewTensor, NewValue, NewVocabulary, Value};
use llmlab_models::gguf::{load_gguf, write_container, write_gguf};
use llmlab_models::{Family, load};
use llmlab_quant::{WeightFormat, WeightRecipe};

/// Tensors with their bytes.
type Tensors = Vec<(NewTensor, Vec<u8>)>;

fn owned(value: Value<'_>) -> NewValue {
    let text = |value: Value<'_>| String::from_utf8(value.str_bytes().unwrap().to_vec()).unwrap();
    match value {
        Value::U32(value) => NewValue::U32(value),
        Value::F32(value) => NewValue::F32(value),
        Value::Bool(value) => NewValue::Bool(value),
        Value::Str(_) => NewValue::Str(text(value)),
        Value::Array(array) if array.kind() == Kind::Str => NewValue::Strs(array.iter().map(text).collect()),
        Value::Array(array) => {
            NewValue::I32s(array.iter().map(|value| value.integer().unwrap() as i32).collect())
        }
        other => panic!("{other:?}"),
    }
}

/// Writes the family's model, lets `change` rearrange its tensors, and compares what is read from both files.
fn check(family: Family, format: WeightFormat, change: impl Fn(Tensors) -> Tensors) {
    let folder = tempfile::tempdir().unwrap();
    let model = load(&format!("synthetic:{family}-tiny"), 5).unwrap();
    let path = folder.path().join("usual.gguf");
    let new = NewModel {
        spec: &model.spec,
        weights: &*model.weights,
        recipe: WeightRecipe::Uniform(format),
        vocabulary: NewVocabulary::Tokenizer(&model.tokenizer),
        chat_template: None,
    };
    write_gguf(&path, &new).unwrap();
    let usual = load_gguf(&path, "usual").unwrap();
    let other = load_gguf(&rearranged(&path, change), "other").unwrap();
    assert_eq!(usual.spec, other.spec);
    for tensor in usual.spec.tensors() {
        let [a, b] = [&usual, &other].map(|model| model.weights.tensor(&tensor.name).unwrap());
        assert_eq!(a, b, "{family} {}", tensor.name);
    }
}

fn rearranged(path: &Path, change: impl Fn(Tensors) -> Tensors) -> std::path::PathBuf {
    let file = GgufFile::open(path).unwrap();
    let keys: Vec<(String, NewValue)> =
        file.metadata().map(|(key, value)| (key.to_string(), owned(value))).collect();
    let tensors = file.tensors().map(|tensor| {
        let (name, shape, format) = (tensor.name.to_string(), tensor.shape().to_vec(), tensor.format);
        (NewTensor { name, shape, format }, file.read_rows(&tensor, 0, tensor.rows()).unwrap())
    });
    let changed = change(tensors.collect());
    let other = path.with_file_name("other.gguf");
    let descriptions: Vec<NewTensor> = changed.iter().map(|(tensor, _)| tensor.clone()).collect();
    write_container(&other, &keys, &descriptions, |index, out| {
        out.write_all(&changed[index].1).unwrap();
        Ok(())
    })
    .unwrap();
    other
}

fn take(tensors: &mut Tensors, name: &str) -> (NewTensor, Vec<u8>) {
    let at = tensors.iter().position(|(tensor, _)| tensor.name == name);
    tensors.remove(at.unwrap_or_else(|| panic!("{name}")))
}

fn layers(tensors: &Tensors) -> usize {
    tensors.iter().filter(|(tensor, _)| tensor.name.ends_with("attn_norm.weight")).count()
}

#[test]
fn query_key_and_value_rows_may_be_one_tensor() {
    check(Family::Llama, WeightFormat::Q8_0, |mut tensors| {
        for layer in 0..layers(&tensors) {
            for suffix in ["weight", "bias"] {
                let name = |part: &str| format!("blk.{layer}.attn_{part}.{suffix}");
                let (mut fused, mut bytes) = take(&mut tensors, &name("q"));
                for part in ["k", "v"] {
                    let (tensor, more) = take(&mut tensors, &name(part));
                    fused.shape[0] += tensor.shape[0];
                    bytes.extend(more);
                }
                fused.name = name("qkv");
                tensors.push((fused, bytes));
            }
        }
        tensors
    });
}

#[test]
fn gate_and_up_rows_of_all_experts_may_be_one_tensor() {
    check(Family::Qwen3Moe, WeightFormat::Q4_0, |mut tensors| {
        for layer in 0..layers(&tensors) {
            let (mut fused, gate) = take(&mut tensors, &format!("blk.{layer}.ffn_gate_exps.weight"));
            let (_, up) = take(&mut tensors, &format!("blk.{layer}.ffn_up_exps.weight"));
            let each = gate.len() / fused.shape[0] as usize;
            let experts = gate.chunks(each).zip(up.chunks(each));
            let bytes = experts.flat_map(|(gate, up)| [gate, up].concat()).collect();
            fused.shape[1] *= 2;
            fused.name = format!("blk.{layer}.ffn_gate_up_exps.weight");
            tensors.push((fused, bytes));
        }
        tensors
    });
}

#[test]
fn each_expert_may_be_a_tensor_of_its_own() {
    check(Family::Mixtral, WeightFormat::Q5_1, |mut tensors| {
        for layer in 0..layers(&tensors) {
            for part in ["gate", "up", "down"] {
                let (stacked, bytes) = take(&mut tensors, &format!("blk.{layer}.ffn_{part}_exps.weight"));
                let each = bytes.len() / stacked.shape[0] as usize;
                for (expert, bytes) in bytes.chunks(each).enumerate() {
                    let name = format!("blk.{layer}.ffn_{part}.{expert}.weight");
                    let shape = stacked.shape[1..].to_vec();
                    tensors.push((NewTensor { name, shape, format: stacked.format }, bytes.to_vec()));
                }
            }
        }
        tensors
    });
}

#[test]
fn a_missing_tensor_or_one_of_another_shape_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = load("synthetic:qwen2moe-tiny", 5).unwrap();
    let path = folder.path().join("usual.gguf");
    let new = NewModel {
        spec: &model.spec,
        weights: &*model.weights,
        recipe: WeightRecipe::Uniform(WeightFormat::F16),
        vocabulary: NewVocabulary::Tokenizer(&model.tokenizer),
        chat_template: None,
    };
    write_gguf(&path, &new).unwrap();
    for name in [
        "output_norm.weight",
        "token_embd.weight",
        "blk.3.attn_q.weight",
        "blk.0.attn_k.bias",
        "blk.1.ffn_down_exps.weight",
        "blk.1.ffn_gate_inp.weight",
        "blk.2.ffn_up_shexp.weight",
        "blk.2.ffn_gate_inp_shexp.weight",
    ] {
        let missing = rearranged(&path, |mut tensors| {
            take(&mut tensors, name);
            tensors
        });
        let error = load_gguf(&missing, "other").err().unwrap_or_else(|| panic!("{name}")).to_string();
        let experts = name.contains("_exps") && error.contains("does not hold 4 experts");
        assert!(error.contains(&format!("tensor {name}: is not in this file")) || experts, "{error}");
        // One more row, or one more value.
        let longer = rearranged(&path, |mut tensors| {
            let (mut tensor, mut bytes) = take(&mut tensors, name);
            let rows = tensor.shape[0] as usize;
            bytes.extend_from_within(..bytes.len() / rows);
            tensor.shape[0] += 1;
            tensors.push((tensor, bytes));
            tensors
        });
        let error = load_gguf(&longer, "other").err().unwrap_or_else(|| panic!("{name}")).to_string();
        // The embedding says how many tokens there are, and then the output matrix differs from it.
        let named = if name == "token_embd.weight" { "output.weight" } else { name };
        let experts = name.contains("_exps") && error.contains("does not hold 4 experts");
        assert!(error.contains(&format!("tensor {named}: shape")) || experts, "{error}");
    }
}
