//! What transformers computed for small models of every family: see `tests/fixtures/make_fixtures.py`.
#![allow(dead_code, reason = "tests and the table example use their parts")]

use std::path::{Path, PathBuf};

use llmlab_core::executor::Executor;
use llmlab_core::request::RequestId;
use llmlab_core::step::{BlockId, SeqStep, StepPlan};
use llmlab_kernels::KernelError;
use llmlab_kernels::attention::KvFormat;
use llmlab_models::{ModelError, ModelSpec, TensorRole, WeightSource};
use llmlab_quant::{MatrixRole, StoredMatrix, TensorPlace, WeightFormat, WeightRecipe, quantize_matrix};
use llmlab_runtime::{CpuExecutor, RuntimeConfig, RuntimeError};

pub const CASES: [&str; 14] = [
    "llama",
    "llama_llama3",
    "mistral",
    "qwen2",
    "qwen2_linear",
    "qwen3",
    "qwen3_yarn",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3_longrope",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
];

const BLOCK_SIZE: u32 = 16;
const BLOCKS_PER_SEQ: u32 = 16;
const SEQS: u32 = 4;

pub struct Fixture {
    pub spec: ModelSpec,
    pub prompt: Vec<u32>,
    /// Positions of the prompt whose logits are known, and these.
    pub rows: Vec<usize>,
    pub logits: Vec<Vec<f32>>,
    pub greedy: Vec<u32>,
    /// Tokens after the prompt and their mean negative log likelihood.
    pub text: Vec<u32>,
    pub nll: f64,
    /// Name and shape of every tensor of the checkpoint, sorted.
    pub tensors: Vec<(String, Vec<u64>)>,
}

#[derive(serde::Deserialize)]
struct Expected {
    prompt: Vec<u32>,
    rows: Vec<usize>,
    greedy: Vec<u32>,
    text: Vec<u32>,
    nll: f64,
    tensors: Vec<(String, Vec<u64>)>,
}

impl Fixture {
    pub fn read(case: &str) -> Fixture {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(case);
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let config = String::from_utf8(read("config.json")).unwrap();
        let spec = ModelSpec::from_hf_config(&config, Path::new("config.json")).unwrap();
        let expected: Expected = serde_json::from_slice(&read("expected.json")).unwrap();
        let values: Vec<f32> =
            read("logits.f32").as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let logits: Vec<Vec<f32>> = values.chunks(spec.vocab_size as usize).map(<[f32]>::to_vec).collect();
        assert_eq!(logits.len(), expected.rows.len(), "{case}");
        Fixture {
            spec,
            logits,
            prompt: expected.prompt,
            rows: expected.rows,
            greedy: expected.greedy,
            text: expected.text,
            nll: expected.nll,
            tensors: expected.tensors,
        }
    }

    pub fn weights(&self) -> FormulaWeights {
        FormulaWeights { spec: self.spec.clone() }
    }

    pub fn config(&self, weights: WeightRecipe, kv: KvFormat, threads: usize) -> RuntimeConfig {
        RuntimeConfig {
            weights,
            kv,
            threads,
            num_blocks: SEQS * BLOCKS_PER_SEQ + 1,
            block_size: BLOCK_SIZE,
            max_model_len: self.spec.max_position_embeddings,
        }
    }

    pub fn executor(&self, weights: WeightRecipe, kv: KvFormat) -> CpuExecutor {
        CpuExecutor::from_weights(&self.spec, &self.weights(), &self.config(weights, kv, 2)).unwrap()
    }

    /// Whether the kernels have a layout for every format of the recipe.
    pub fn packs(&self, weights: WeightRecipe) -> bool {
        let config = self.config(weights, KvFormat::F32, 2);
        !matches!(
            CpuExecutor::from_weights(&self.spec, &self.weights(), &config),
            Err(RuntimeError::Pack { source: KernelError::Unsupported { .. }, .. })
        )
    }

    /// The logits after each of `rows`: as many sequences, each a part of the prompt.
    pub fn prompt_logits(&self, executor: &mut CpuExecutor) -> Vec<Vec<f32>> {
        let seqs =
            self.rows.iter().enumerate().map(|(index, row)| seq(index as u32, 0, &self.prompt[..=*row]));
        executor.logits(&plan(seqs.collect())).unwrap()
    }

    /// The greedy continuation of the prompt, computed first in two chunks and then token by token.
    pub fn continue_greedily(&self, executor: &mut CpuExecutor) -> Vec<u32> {
        let (first, rest) = self.prompt.split_at(23);
        let mut chunk = seq(0, 0, first);
        chunk.sample = false;
        executor.execute(&plan(vec![chunk])).unwrap();
        let mut next = rest.to_vec();
        let (mut context, mut tokens) = (first.len() as u32, Vec::new());
        while tokens.len() < self.greedy.len() {
            let outcome = executor.execute(&plan(vec![seq(0, context, &next)])).unwrap();
            context += next.len() as u32;
            next = vec![outcome.sampled[0].token];
            tokens.extend_from_slice(&next);
        }
        tokens
    }

    /// The logits after one token at a position of the first sequence, whose earlier tokens were computed before.
    pub fn step_logits(
        &self,
        executor: &mut CpuExecutor,
        position: usize,
        token: u32,
    ) -> Result<Vec<f32>, llmlab_core::executor::ExecutorError> {
        Ok(executor.logits(&plan(vec![seq(0, position as u32, &[token])]))?.remove(0))
    }

    /// Mean negative log likelihood of the text after the prompt.
    pub fn text_nll(&self, executor: &mut CpuExecutor) -> f64 {
        let mut sum = 0.0;
        let mut tokens = self.prompt.clone();
        let mut context = 0;
        for token in &self.text {
            let logits = executor.logits(&plan(vec![seq(0, context, &tokens)])).unwrap().remove(0);
            let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            sum += total.ln() - f64::from(logits[*token as usize]);
            context += tokens.len() as u32;
            tokens = vec![*token];
        }
        sum / self.text.len() as f64
    }
}

/// Largest difference of two sets of logits, relative to the largest logit of the second.
pub fn logit_error(logits: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    assert_eq!(logits.len(), expected.len());
    let pairs = || logits.iter().flatten().zip(expected.iter().flatten());
    let largest = pairs().fold(0.0f32, |max, (_, b)| max.max(b.abs()));
    // A NaN must not pass for agreement.
    let error = pairs()
        .fold(0.0f32, |max, (a, b)| if (a - b).is_nan() { f32::INFINITY } else { max.max((a - b).abs()) });
    assert!(largest > 0.0, "logits that say nothing");
    error / largest
}

fn seq(index: u32, context: u32, tokens: &[u32]) -> SeqStep {
    let blocks = 1 + index * BLOCKS_PER_SEQ..1 + (index + 1) * BLOCKS_PER_SEQ;
    SeqStep::new(RequestId(u64::from(index)), context, tokens.to_vec(), blocks.map(BlockId).collect())
}

fn plan(seqs: Vec<SeqStep>) -> StepPlan {
    StepPlan { step: 1, seqs, preempted: Vec::new(), admitted: Vec::new() }
}

/// The values of `make_fixtures.py`.
pub struct FormulaWeights {
    pub spec: ModelSpec,
}

impl WeightSource for FormulaWeights {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let tensors = self.spec.tensors();
        let tensor = tensors.iter().find(|tensor| tensor.name == name);
        let tensor = tensor.ok_or_else(|| ModelError::NoSuchTensor { tensor: name.into() })?;
        let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
        let plus_one = self.spec.norm_plus_one;
        if let [_] = tensor.shape[..] {
            let centre = match name {
                "model.norm.weight" if plus_one => 6.0,
                _ if plus_one && ends(&["q_norm.weight"]) => 1.5,
                _ if name.contains("norm") && !plus_one => 1.0,
                _ => 0.0,
            };
            return Ok(units(name, tensor.elements()).map(|unit| centre + unit * 0.25).collect());
        }
        let gain = if ends(&["q_proj.weight", "k_proj.weight", "qkv_proj.weight"]) {
            2.0
        } else if ends(&["o_proj.weight", "down_proj.weight", "w2.weight"]) {
            1.5
        } else if plus_one && name == "model.embed_tokens.weight" {
            0.4
        } else {
            3.0
        };
        let inputs = (tensor.shape[1] as f32).sqrt();
        Ok(units(name, tensor.elements()).map(|unit| unit * gain / inputs).collect())
    }
}

/// Evenly spread over -1..1, a function of (name, index): FNV-1a and SplitMix64.
fn units(name: &str, count: u64) -> impl Iterator<Item = f32> {
    let key = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |key, byte| {
        (key ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (0..count).map(move |index| {
        let mut bits = key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 40) as f32 * 2.0f32.powi(-23) - 1.0
    })
}

/// Another source's matrices as a checkpoint in `recipe` would hold them: stored exactly so, or dequantized from it.
pub struct Quantized<S> {
    pub source: S,
    pub spec: ModelSpec,
    pub recipe: WeightRecipe,
    /// Whether `stored` gives the quantized form; otherwise there are only the values it stands for.
    pub stored: bool,
}

impl<S: WeightSource> Quantized<S> {
    fn quantize(&self, name: &str) -> Result<Option<(StoredMatrix<'static>, usize, usize)>, ModelError> {
        let Some(format) = self.format_of(name) else { return Ok(None) };
        let tensor = self.spec.tensors().into_iter().find(|tensor| tensor.name == name).unwrap();
        let (rows, cols) = (tensor.shape[0] as usize, tensor.shape[1] as usize);
        let values = self.source.tensor(name)?;
        Ok(Some((quantize_matrix(format, rows, cols, &values).unwrap(), rows, cols)))
    }

    /// `None` for what no recipe touches.
    fn format_of(&self, name: &str) -> Option<WeightFormat> {
        let tensor = self.spec.tensors().into_iter().find(|tensor| tensor.name == name)?;
        let role = match tensor.role {
            TensorRole::Embedding if self.spec.tie_word_embeddings => MatrixRole::TiedEmbedding,
            TensorRole::Embedding => MatrixRole::Embedding,
            TensorRole::LmHead => MatrixRole::Output,
            TensorRole::Query => MatrixRole::Query,
            TensorRole::Key => MatrixRole::Key,
            TensorRole::Value => MatrixRole::Value,
            TensorRole::Qkv => MatrixRole::Qkv,
            TensorRole::AttentionOutput => MatrixRole::AttentionOutput,
            TensorRole::Gate => MatrixRole::Gate,
            TensorRole::Up => MatrixRole::Up,
            TensorRole::GateUp => MatrixRole::GateUp,
            TensorRole::Down => MatrixRole::Down,
            _ => return None,
        };
        self.recipe.format(&TensorPlace {
            role,
            layer: tensor.layer.unwrap_or(0) as usize,
            layers: self.spec.num_layers as usize,
            cols: tensor.shape[1] as usize,
            gqa: (self.spec.num_heads / self.spec.num_kv_heads) as usize,
            experts: self.spec.moe.as_ref().map_or(0, |moe| moe.experts as usize),
        })
    }
}

impl<S: WeightSource> WeightSource for Quantized<S> {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        match self.quantize(name)? {
            Some((stored, rows, cols)) => Ok(stored.dequantize(rows, cols)),
            None => self.source.tensor(name),
        }
    }

    fn stored(&self, name: &str) -> Result<StoredMatrix<'_>, ModelError> {
        match self.quantize(name)? {
            Some((stored, _, _)) if self.stored => Ok(stored),
            Some((stored, rows, cols)) => Ok(StoredMatrix::Floats(stored.dequantize(rows, cols).into())),
            None => self.source.stored(name),
        }
    }

    fn format(&self, name: &str) -> Result<WeightFormat, ModelError> {
        Ok(self.format_of(name).filter(|_| self.stored).unwrap_or(WeightFormat::F32))
    }
}
