//! What is written down of a scheduler's run, so that a fresh scheduler can be led through it again: every call in order, and
//! what each plan came to. A scheduler that gets the same calls must plan the same steps.
//!
//! A file of it has one JSON object a line, first a [`Header`], then [`Call`]s. Times are nanoseconds on the driver's clock.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::config::{ConfigError, EngineConfig, PolicyConfig};
use crate::request::{At, Event, Request, RequestId};
use crate::scheduler::Planned;
use crate::step::{Sampled, SeqStep, StepPlan};

/// The version of the format.
pub const FORMAT: u32 = 1;

/// Blocks of a pool that can be recorded: whoever replays a file must not have to take memory by a number in it.
pub const MOST_BLOCKS: u32 = 1 << 22;
/// Tokens of a block, likewise.
pub const MOST_BLOCK_SIZE: u32 = 1 << 16;
/// Tokens of a request, likewise.
pub const MOST_MODEL_LEN: u32 = 1 << 24;
/// Drafts of a step, likewise.
pub const MOST_DRAFTS: u32 = 1 << 10;
/// Tokens of the text's end that a prompt lookup compares, likewise.
pub const MOST_LOOKUP: u32 = 1 << 10;

/// The scheduler that was recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub llmlab_recording: u32,
    /// Version of llmlab that wrote it.
    pub llmlab: String,
    /// The model's name.
    pub model: String,
    /// Names of the adapters; requests name them by their place here.
    pub adapters: Vec<String>,
    pub engine: EngineConfig,
}

/// Why a scheduler cannot be recorded, or not replayed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum HeaderError {
    #[error("format {0} of recordings is not known here; known is {FORMAT}")]
    Format(u32),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{key} is {value}; recordings have at most {most}")]
    TooLarge { key: &'static str, value: u32, most: u32 },
    #[error("a policy from outside llmlab has no name in a recording")]
    OwnPolicy,
}

impl Header {
    /// Checks what must hold before a scheduler is built from it.
    pub fn check(&self) -> Result<(), HeaderError> {
        if self.llmlab_recording != FORMAT {
            return Err(HeaderError::Format(self.llmlab_recording));
        }
        let engine = &self.engine;
        let (drafts, lookup) = match &engine.policy {
            PolicyConfig::Own(_) => return Err(HeaderError::OwnPolicy),
            PolicyConfig::Vllm(vllm) => vllm.speculative_config.map_or((0, 0), |speculation| {
                (speculation.num_speculative_tokens, speculation.prompt_lookup_max)
            }),
            PolicyConfig::Tgi(tgi) => (tgi.speculate, 0),
            _ => (0, 0),
        };
        for (key, value, most) in [
            ("num_blocks", engine.num_blocks, MOST_BLOCKS),
            ("block_size", engine.block_size, MOST_BLOCK_SIZE),
            ("max_model_len", engine.max_model_len, MOST_MODEL_LEN),
            ("num_speculative_tokens", drafts, MOST_DRAFTS),
            ("prompt_lookup_max", lookup, MOST_LOOKUP),
        ] {
            if value > most {
                return Err(HeaderError::TooLarge { key, value, most });
            }
        }
        Ok(engine.validate()?)
    }
}

/// One call to a scheduler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    Enqueue {
        #[serde(rename = "now_ns", with = "nanoseconds")]
        now: At,
        #[serde(rename = "arrived_ns", with = "nanoseconds")]
        arrived: At,
        /// The answer was an error.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        refused: bool,
        request: Request,
    },
    Abort {
        #[serde(rename = "now_ns", with = "nanoseconds")]
        now: At,
        id: RequestId,
    },
    /// `take_expired` belongs to it.
    Plan(PlanCall),
    /// Of the step that was planned last.
    Commit {
        #[serde(rename = "now_ns", with = "nanoseconds")]
        now: At,
        /// Pairs of a sequence's place in the plan and a token.
        sampled: Vec<Sampled>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        drafts: Vec<Sampled>,
    },
}

/// A plan was asked for. Without a step and without a time to wait for there was nothing to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanCall {
    #[serde(rename = "now_ns", with = "nanoseconds")]
    pub now: At,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<PlanRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_until_ns: Option<u64>,
    /// Requests that the policy did not let wait any longer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expired: Vec<RequestId>,
}

impl PlanCall {
    pub fn of(now: At, planned: &Planned, expired: &[Event]) -> PlanCall {
        let (step, wait_until_ns) = match planned {
            Planned::Step(plan) => (Some(PlanRecord::of(plan)), None),
            Planned::WaitUntil(at) => (None, Some(nanoseconds::of(*at))),
            Planned::Idle => (None, None),
        };
        let ended = expired.iter().filter_map(|event| match event {
            Event::Finished { id, .. } => Some(*id),
            Event::Token { .. } => None,
        });
        PlanCall { now, step, wait_until_ns, expired: ended.collect() }
    }
}

/// A plan without what its size depends on: of tokens, blocks and sampling how many there are, and a hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRecord {
    pub step: u64,
    pub seqs: Vec<SeqRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preempted: Vec<RequestId>,
    /// With the nanoseconds they waited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub admitted: Vec<(RequestId, u64)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeqRecord {
    pub id: RequestId,
    pub context: u32,
    pub tokens: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drafts: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub padding: u32,
    pub sample: bool,
    pub blocks: u32,
    /// XXH3 of the tokens as little-endian words.
    pub tokens_xxh3: u64,
    /// The same of the block numbers.
    pub blocks_xxh3: u64,
    /// The same of all that decides how a token is picked.
    pub sampling_xxh3: u64,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl PlanRecord {
    pub fn of(plan: &StepPlan) -> PlanRecord {
        PlanRecord {
            step: plan.step,
            seqs: plan.seqs.iter().map(SeqRecord::of).collect(),
            preempted: plan.preempted.clone(),
            admitted: plan.admitted.iter().map(|(id, waited)| (*id, nanoseconds::of(*waited))).collect(),
        }
    }
}

impl SeqRecord {
    fn of(seq: &SeqStep) -> SeqRecord {
        SeqRecord {
            id: seq.id,
            context: seq.context,
            tokens: seq.tokens.len() as u32,
            drafts: seq.drafts,
            padding: seq.padding,
            sample: seq.sample,
            blocks: seq.blocks.len() as u32,
            tokens_xxh3: hash(seq.tokens.iter().copied()),
            blocks_xxh3: hash(seq.blocks.iter().map(|block| block.0)),
            sampling_xxh3: hash(sampling_words(seq)),
        }
    }
}

fn sampling_words(seq: &SeqStep) -> impl Iterator<Item = u32> {
    let sampling = &seq.sampling;
    [
        sampling.temperature.to_bits(),
        sampling.top_k,
        sampling.top_p.to_bits(),
        sampling.seed as u32,
        (sampling.seed >> 32) as u32,
        u32::from(seq.lora.is_some()),
        seq.lora.map_or(0, |lora| lora.0),
        seq.generated,
        seq.banned_until,
    ]
    .into_iter()
    .chain(seq.banned.iter().copied())
}

fn hash(words: impl Iterator<Item = u32>) -> u64 {
    let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    xxh3_64(&bytes)
}

mod nanoseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// All there is beyond 584 years is the same.
    pub fn of(duration: Duration) -> u64 {
        u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
    }

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        of(*duration).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_nanos)
    }
}
