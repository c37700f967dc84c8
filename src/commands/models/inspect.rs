//! `llmlab models inspect`: what a model is, from its headers alone; no weights are read.

use llmlab_kernels::attention::KvFormat;
use llmlab_models::{Activation, LoadedModel, ModelSpec, RopeScaling};
use serde::Serialize;

use crate::cli::InspectArgs;
use crate::exit::{Code, Failure};
use crate::text::{bytes, count, print};
use crate::weights::{self, Footprint};

/// The seed of a synthetic model changes no header.
const ANY_SEED: u64 = 0;

pub fn inspect(args: InspectArgs) -> Result<Code, Failure> {
    let model = llmlab_models::load(&args.model, ANY_SEED).map_err(Failure::bad_input)?;
    let outline = Outline::of(&model, args.tensors)?;
    if args.json {
        print(&(serde_json::to_string_pretty(&outline).map_err(Failure::internal)? + "\n"))
    } else {
        print(&in_words(&outline))
    }
}

/// What `--json` prints. Sizes are counts of values unless named otherwise.
#[derive(Debug, Serialize)]
struct Outline {
    model: String,
    family: String,
    parameters: u64,
    hidden_size: u32,
    intermediate_size: u32,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    vocab_size: u32,
    max_position_embeddings: u32,
    tied_embeddings: bool,
    activation: &'static str,
    /// How this model differs from Llama, in words.
    features: Vec<String>,
    /// Bytes of all tensors in the formats of the checkpoint.
    stored_bytes: u64,
    bits_per_weight: f64,
    formats: Vec<FormatShare>,
    kv_bytes_per_token: Vec<KvCost>,
    tokenizer_tokens: u32,
    bos_token_id: Option<u32>,
    eos_token_ids: Vec<u32>,
    chat_template: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorLine>>,
}

#[derive(Debug, Serialize)]
struct FormatShare {
    format: String,
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct KvCost {
    format: String,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct TensorLine {
    name: String,
    shape: Vec<u64>,
    format: String,
    bytes: u64,
}

impl Outline {
    fn of(model: &LoadedModel, with_tensors: bool) -> Result<Outline, Failure> {
        let spec = &model.spec;
        let stored: Footprint = weights::as_stored(model).map_err(Failure::bad_input)?;
        let tensors = with_tensors.then(|| tensors(model)).transpose()?;
        Ok(Outline {
            model: model.source.clone(),
            family: spec.family.to_string(),
            parameters: spec.parameters(),
            hidden_size: spec.hidden_size,
            intermediate_size: spec.intermediate_size,
            layers: spec.num_layers,
            heads: spec.num_heads,
            kv_heads: spec.num_kv_heads,
            head_dim: spec.head_dim,
            vocab_size: spec.vocab_size,
            max_position_embeddings: spec.max_position_embeddings,
            tied_embeddings: spec.tie_word_embeddings,
            activation: match spec.activation {
                Activation::Silu => "silu",
                Activation::GeluTanh => "gelu_tanh",
            },
            features: features(spec),
            stored_bytes: stored.stored_bytes,
            bits_per_weight: stored.bits_per_weight(),
            formats: formats(&stored),
            kv_bytes_per_token: KvFormat::ALL
                .into_iter()
                .map(|kv| KvCost { format: kv.to_string(), bytes: weights::kv_bytes_per_token(spec, kv) })
                .collect(),
            tokenizer_tokens: model.tokenizer.vocab_size(),
            bos_token_id: spec.bos_token_id,
            eos_token_ids: spec.eos_token_ids.clone(),
            chat_template: model.chat_template.clone(),
            tensors,
        })
    }
}

fn formats(stored: &Footprint) -> Vec<FormatShare> {
    let mut shares: Vec<FormatShare> = stored
        .formats
        .iter()
        .map(|(format, share)| FormatShare {
            format: format.to_string(),
            tensors: share.tensors,
            parameters: share.values,
            bytes: share.bytes,
        })
        .collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    shares
}

fn tensors(model: &LoadedModel) -> Result<Vec<TensorLine>, Failure> {
    let line = |tensor: llmlab_models::TensorSpec| {
        let format = model.weights.format(&tensor.name).map_err(Failure::bad_input)?;
        let bytes = tensor.bytes(format);
        Ok(TensorLine { name: tensor.name, shape: tensor.shape, format: format.to_string(), bytes })
    };
    model.spec.tensors().into_iter().map(line).collect()
}

/// One entry for each choice in which the model is not a plain Llama.
fn features(spec: &ModelSpec) -> Vec<String> {
    let mut found = Vec::new();
    let windowed: Vec<u32> = spec.layers.iter().filter_map(|layer| layer.window).collect();
    if let Some(window) = windowed.first() {
        found.push(format!("sliding window of {window} in {} of {} layers", windowed.len(), spec.num_layers));
    }
    for rope in &spec.ropes {
        let scaling = match &rope.scaling {
            RopeScaling::None => String::new(),
            RopeScaling::Linear { factor } => format!(", linear scaling by {factor}"),
            RopeScaling::Llama3 { factor, .. } => format!(", Llama 3 scaling by {factor}"),
            RopeScaling::Yarn { factor, .. } => format!(", YaRN scaling by {factor}"),
            RopeScaling::LongRope { .. } => ", LongRoPE scaling".into(),
            RopeScaling::Factors { .. } => ", scaled by the file's factors".into(),
        };
        let partial = if rope.rotary_dim == spec.head_dim {
            String::new()
        } else {
            format!(", {} of {} values of a head", rope.rotary_dim, spec.head_dim)
        };
        found.push(format!("rotary embedding with base {}{partial}{scaling}", rope.theta));
    }
    let flags = [
        (spec.qkv_bias, "bias on queries, keys and values"),
        (spec.o_bias, "bias on the attention output"),
        (spec.mlp_bias, "bias in the MLP"),
        (spec.qk_norm, "norm on each query and key head"),
        (spec.sandwich_norms, "norms after attention and MLP too"),
        (spec.norm_plus_one, "norm weights count from 1"),
        (spec.family.fused_projections(), "fused projections in the checkpoint"),
    ];
    found.extend(flags.into_iter().filter(|(on, _)| *on).map(|(_, text)| text.to_string()));
    if let Some(cap) = spec.attention_softcap {
        found.push(format!("attention scores capped at {cap}"));
    }
    if let Some(cap) = spec.logit_softcap {
        found.push(format!("logits capped at {cap}"));
    }
    if let Some(moe) = &spec.moe {
        let shared = if moe.shared_intermediate.is_some() { " and a shared one" } else { "" };
        found.push(format!("{} experts, {} per token{shared}", moe.experts, moe.experts_per_token));
    }
    found
}

fn in_words(o: &Outline) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(o.model.clone());
    line(format!("  family         {}", o.family));
    line(format!("  parameters     {}", count(o.parameters as f64)));
    line(format!(
        "  shape          {} layers, hidden {}, MLP {} ({}), {} query heads on {} KV heads of {}",
        o.layers, o.hidden_size, o.intermediate_size, o.activation, o.heads, o.kv_heads, o.head_dim
    ));
    line(format!(
        "  vocabulary     {} rows, {}; up to {} positions",
        o.vocab_size,
        if o.tied_embeddings { "embedding and output share a table" } else { "separate output matrix" },
        o.max_position_embeddings
    ));
    for (index, feature) in o.features.iter().enumerate() {
        line(format!("  {:<14} {feature}", if index == 0 { "features" } else { "" }));
    }
    line(format!("  weights        {}, {:.2} bits a weight", bytes(o.stored_bytes), o.bits_per_weight));
    for share in &o.formats {
        line(format!(
            "                 {:<10} {:>5} tensors {:>10} values {:>10}",
            share.format,
            share.tensors,
            count(share.parameters as f64),
            bytes(share.bytes)
        ));
    }
    let costs: Vec<String> =
        o.kv_bytes_per_token.iter().map(|cost| format!("{} {}", cost.format, bytes(cost.bytes))).collect();
    line(format!("  KV per token   {}", costs.join(", ")));
    line(format!(
        "  tokenizer      {} tokens, begin {}, end {}",
        o.tokenizer_tokens,
        o.bos_token_id.map_or_else(|| "none".into(), |id| id.to_string()),
        match o.eos_token_ids.as_slice() {
            [] => "none".into(),
            ids => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
        }
    ));
    match &o.chat_template {
        Some(template) => line(format!("  chat template  {} characters", template.chars().count())),
        None => line("  chat template  none: /v1/chat/completions is refused".into()),
    }
    for tensor in o.tensors.iter().flatten() {
        let shape = tensor.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
        line(format!("  {:<64} {shape:>16}  {:<10} {:>10}", tensor.name, tensor.format, bytes(tensor.bytes)));
    }
    out
}
