//! Where each Hugging Face tensor of a model is in a GGUF file. Names as in llama.cpp's `src/llama-arch.cpp`.
//!
//! Three things differ beyond names. The architecture `llama` stores the rows of each query and key head in another order
//! (`convert_hf_to_gguf.py`, `permute`): its rotary embedding turns neighbours where Hugging Face's turns value `i` with
//! `i + head_dim / 2`. The experts of a layer are one tensor, one expert behind the other. And Gemma's norms hold `1 + w`.

use crate::gguf::arch::Arch;
use crate::spec::names::{EMBEDDING, FINAL_NORM, LM_HEAD};
use crate::spec::{FeedForward, Linear, MlpNames, ModelSpec, TensorRole};

/// Where one Hugging Face tensor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Hugging Face name.
    pub name: String,
    /// Name in the file.
    pub gguf: String,
    /// `[rows, cols]`, or `[values]` of a vector.
    pub shape: Vec<u64>,
    pub role: TensorRole,
    pub layer: Option<u32>,
    /// Which of the experts in `gguf`, and how many there are.
    pub expert: Option<(u32, u32)>,
    /// Rows of `gguf` in front of this tensor's.
    pub first_row: u64,
    /// Rows, or values of a vector, are stored permuted inside heads of this many.
    pub permuted_heads_of: Option<u64>,
}

impl Place {
    /// Rows of a matrix, or values of a vector.
    pub fn rows(&self) -> u64 {
        self.shape[0]
    }
}

/// For heads of `head_dim` rows: the stored row that holds row `row` of the Hugging Face tensor.
///
/// Stored row `2 i + j` of a head is Hugging Face's row `j * head_dim / 2 + i`, with `j` 0 or 1.
pub(crate) fn stored_row(row: u64, head_dim: u64) -> u64 {
    let (head, inside) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + inside % half * 2 + inside / half
}

/// The inverse of [`stored_row`]: the Hugging Face row that stored row `row` holds.
pub(crate) fn hf_row(row: u64, head_dim: u64) -> u64 {
    let (head, inside) = (row / head_dim, row % head_dim);
    head * head_dim + inside % 2 * (head_dim / 2) + inside / 2
}

/// Every tensor of the model, each tensor of the file with its parts in the order they are stored.
pub(crate) fn places(spec: &ModelSpec) -> Vec<Place> {
    let mut list = List { spec, arch: Arch::of(spec.family), layer: None, places: Vec::new() };
    let hidden = u64::from(spec.hidden_size);
    let table = vec![u64::from(spec.vocab_size), hidden];
    list.push(EMBEDDING.into(), "token_embd.weight", table.clone(), TensorRole::Embedding);
    for layer in 0..spec.num_layers {
        list.layer = Some(layer);
        list.add_layer(layer);
    }
    list.layer = None;
    list.push(FINAL_NORM.into(), "output_norm.weight", vec![hidden], TensorRole::Norm);
    if !spec.tie_word_embeddings {
        list.push(LM_HEAD.into(), "output.weight", table, TensorRole::LmHead);
    }
    list.places
}

struct List<'a> {
    spec: &'a ModelSpec,
    arch: Arch,
    layer: Option<u32>,
    places: Vec<Place>,
}

impl List<'_> {
    fn add_layer(&mut self, layer: u32) {
        let names = self.spec.names(layer);
        self.norm(Some(names.input_norm), "attn_norm");
        let heads = self.arch.permutes_query_and_key().then_some(u64::from(self.spec.head_dim));
        for linear in names.qkv {
            let (part, heads) = match linear.role {
                TensorRole::Query => ("attn_q", heads),
                TensorRole::Key => ("attn_k", heads),
                TensorRole::Value => ("attn_v", None),
                _ => ("attn_qkv", None),
            };
            self.linear(linear, part, heads, None);
        }
        let head_dim = u64::from(self.spec.head_dim);
        for (name, part) in [(names.q_norm, "attn_q_norm"), (names.k_norm, "attn_k_norm")] {
            if let Some(name) = name {
                self.push(name, &format!("{part}.weight"), vec![head_dim], TensorRole::HeadNorm);
            }
        }
        self.linear(names.o, "attn_output", None, None);
        let (after_attention, before_mlp) = match names.pre_feedforward_norm {
            Some(before_mlp) => (Some(names.post_attention_norm), before_mlp),
            None => (None, names.post_attention_norm),
        };
        self.norm(after_attention, "post_attention_norm");
        self.norm(Some(before_mlp), "ffn_norm");
        match names.feed_forward {
            FeedForward::Dense(mlp) => self.mlp(mlp, "", None),
            FeedForward::Experts(moe) => {
                self.linear(moe.router, "ffn_gate_inp", None, None);
                let count = moe.experts.len() as u32;
                for (index, expert) in (0..).zip(moe.experts) {
                    self.mlp(expert, "_exps", Some((index, count)));
                }
                if let Some((expert, gate)) = moe.shared {
                    self.mlp(expert, "_shexp", None);
                    self.linear(gate, "ffn_gate_inp_shexp", None, None);
                }
            }
        }
        self.norm(names.post_feedforward_norm, "post_ffw_norm");
    }

    /// `kind` is what stands behind the part's name: nothing, `_exps` or `_shexp`.
    fn mlp(&mut self, mlp: MlpNames, kind: &str, expert: Option<(u32, u32)>) {
        for linear in mlp.gate_up {
            // Gate and up rows in one matrix have the name of up.
            let part = if linear.role == TensorRole::Gate { "ffn_gate" } else { "ffn_up" };
            self.linear(linear, &format!("{part}{kind}"), None, expert);
        }
        self.linear(mlp.down, &format!("ffn_down{kind}"), None, expert);
    }

    fn linear(
        &mut self,
        linear: Linear,
        part: &str,
        permuted_heads_of: Option<u64>,
        expert: Option<(u32, u32)>,
    ) {
        let first_row = expert.map_or(0, |(index, _)| u64::from(index) * linear.rows);
        let mut add = |name: String, suffix: &str, shape: Vec<u64>, role| {
            self.push(name, &format!("{part}.{suffix}"), shape, role);
            let place = self.places.last_mut().expect("one was just pushed");
            *place = Place { expert, first_row, permuted_heads_of, ..place.clone() };
        };
        add(linear.weight, "weight", vec![linear.rows, linear.cols], linear.role);
        if let Some(bias) = linear.bias {
            add(bias, "bias", vec![linear.rows], TensorRole::Bias);
        }
    }

    fn norm(&mut self, name: Option<String>, part: &str) {
        if let Some(name) = name {
            let hidden = u64::from(self.spec.hidden_size);
            self.push(name, &format!("{part}.weight"), vec![hidden], TensorRole::Norm);
        }
    }

    fn push(&mut self, name: String, gguf: &str, shape: Vec<u64>, role: TensorRole) {
        let gguf = match self.layer {
            Some(layer) => format!("blk.{layer}.{gguf}"),
            None => gguf.to_string(),
        };
        let (layer, expert) = (self.layer, None);
        self.places.push(Place {
            name,
            gguf,
            shape,
            role,
            layer,
            expert,
            first_row: 0,
            permuted_heads_of: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::Preset;

    #[test]
    fn the_permutation_and_its_inverse_are_those_of_the_converter() {
        // reshape(heads, 2, head_dim / 2).swapaxes(1, 2) of rows 0..16 with two heads.
        let stored: Vec<u64> = (0..16).map(|row| hf_row(row, 8)).collect();
        assert_eq!(stored, [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
        assert!((0..256).all(|row| hf_row(stored_row(row, 64), 64) == row));
    }

    #[test]
    fn every_tensor_of_a_model_has_one_place() {
        let spec = Preset::Llama15m.spec();
        let places = places(&spec);
        let expected = spec.tensors();
        assert_eq!(places.len(), expected.len());
        for (place, tensor) in places.iter().zip(&expected) {
            assert_eq!((&place.name, &place.shape, place.role), (&tensor.name, &tensor.shape, tensor.role));
        }
        let place = |name: &str| places.iter().find(|place| place.name == name).unwrap();
        let query = place("model.layers.3.self_attn.q_proj.weight");
        assert_eq!((query.gguf.as_str(), query.permuted_heads_of), ("blk.3.attn_q.weight", Some(64)));
        assert_eq!(place("model.layers.3.post_attention_layernorm.weight").gguf, "blk.3.ffn_norm.weight");
    }
}
