//! A plain Llama forward pass, one token at a time, to see what synthetic weights write. Not an oracle for kernels: it is
//! here so that this crate can judge its own models without depending on the engine.

use std::collections::HashMap;

use llmlab_models::{LoadedModel, ModelSpec};
use rayon::prelude::*;

pub struct Plain {
    spec: ModelSpec,
    pub weights: HashMap<String, Vec<f32>>,
    /// Per layer, keys and values of all tokens so far: `[tokens, kv_heads, head_dim]`.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Plain {
    pub fn new(model: &LoadedModel) -> Self {
        let weights = model.spec.tensors().into_iter().map(|tensor| {
            let values = model.weights.tensor(&tensor.name).unwrap();
            (tensor.name, values)
        });
        let layers = model.spec.num_layers as usize;
        Plain {
            weights: weights.collect(),
            keys: vec![Vec::new(); layers],
            values: vec![Vec::new(); layers],
            spec: model.spec.clone(),
        }
    }

    /// Logits `[vocab]` after one more token.
    pub fn step(&mut self, token: u32) -> Vec<f32> {
        let hidden = self.spec.hidden_size as usize;
        let head_dim = self.spec.head_dim as usize;
        let position = self.keys[0].len() / self.spec.kv_width() as usize;
        let table = &self.weights["model.embed_tokens.weight"];
        let mut x = table[token as usize * hidden..][..hidden].to_vec();
        for layer in 0..self.spec.num_layers as usize {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let normed = self.norm(&x, &name("input_layernorm"));
            let mut q = self.project(&normed, &name("self_attn.q_proj"));
            let mut k = self.project(&normed, &name("self_attn.k_proj"));
            let v = self.project(&normed, &name("self_attn.v_proj"));
            q.chunks_mut(head_dim).for_each(|head| rotate(head, position, self.spec.ropes[0].theta as f32));
            k.chunks_mut(head_dim).for_each(|head| rotate(head, position, self.spec.ropes[0].theta as f32));
            self.keys[layer].extend(k);
            self.values[layer].extend(v);
            let attended = self.attend(layer, &q);
            add(&mut x, &self.project(&attended, &name("self_attn.o_proj")));

            let normed = self.norm(&x, &name("post_attention_layernorm"));
            let gate = self.project(&normed, &name("mlp.gate_proj"));
            let up = self.project(&normed, &name("mlp.up_proj"));
            let inner: Vec<f32> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            add(&mut x, &self.project(&inner, &name("mlp.down_proj")));
        }
        let last = self.norm(&x, "model.norm.weight");
        let head = if self.spec.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        self.project(&last, head)
    }

    fn attend(&self, layer: usize, q: &[f32]) -> Vec<f32> {
        let head_dim = self.spec.head_dim as usize;
        let kv_width = self.spec.kv_width() as usize;
        let group = (self.spec.num_heads / self.spec.num_kv_heads) as usize;
        let mut out = vec![0.0; q.len()];
        for (head, (q, out)) in q.chunks(head_dim).zip(out.chunks_mut(head_dim)).enumerate() {
            let at = head / group * head_dim;
            let keys = self.keys[layer].chunks(kv_width).map(|token| &token[at..at + head_dim]);
            let values = self.values[layer].chunks(kv_width).map(|token| &token[at..at + head_dim]);
            let scores: Vec<f32> = keys.map(|key| dot(q, key) / (head_dim as f32).sqrt()).collect();
            let largest = scores.iter().copied().fold(f32::MIN, f32::max);
            let weights: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f32 = weights.iter().sum();
            for (weight, value) in weights.iter().zip(values) {
                out.iter_mut().zip(value).for_each(|(out, value)| *out += weight / total * value);
            }
        }
        out
    }

    fn norm(&self, x: &[f32], weight: &str) -> Vec<f32> {
        let mean_square = dot(x, x) / x.len() as f32;
        let scale = 1.0 / (mean_square + self.spec.rms_norm_eps).sqrt();
        x.iter().zip(&self.weights[weight]).map(|(x, weight)| x * scale * weight).collect()
    }

    fn project(&self, x: &[f32], weight: &str) -> Vec<f32> {
        self.weights[weight].par_chunks(x.len()).with_min_len(64).map(|row| dot(row, x)).collect()
    }
}

/// Rotary embedding of one head, in the "rotate half" layout.
fn rotate(head: &mut [f32], position: usize, theta: f32) {
    let half = head.len() / 2;
    for pair in 0..half {
        let angle = position as f32 * theta.powf(-(pair as f32) / half as f32);
        let (sin, cos) = angle.sin_cos();
        let (a, b) = (head[pair], head[pair + half]);
        head[pair] = a * cos - b * sin;
        head[pair + half] = b * cos + a * sin;
    }
}

fn add(x: &mut [f32], more: &[f32]) {
    x.iter_mut().zip(more).for_each(|(x, more)| *x += more);
}

/// Sixteen partial sums, so that the compiler can use vector registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum()
}
