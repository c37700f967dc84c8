//! Users who take one step after another: `[journey]` as typed, and what it resolves to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use toml::Spanned;

use crate::scenario::{DistributionTable, TimeoutsTable};
use crate::schema;
use crate::spec::LengthDist;

/// Users in place of a workload: each takes the steps of one flow, one after the other, in every iteration.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JourneyTable {
    /// Users at the same time.
    #[schemars(with = "u32", range(min = 1, max = 10_000))]
    pub users: Spanned<u32>,
    /// How often each user goes through its flow. Default 1.
    #[schemars(with = "Option<u32>", range(min = 1, max = 1_000_000))]
    pub iterations: Option<Spanned<u32>>,
    /// Users started per second. Default: all within 10 ms.
    #[schemars(with = "Option<f64>")]
    pub hatch_rate: Option<Spanned<f64>>,
    /// After each step, one duration or [least, most]. Default none.
    #[serde(default)]
    #[schemars(schema_with = "schema::pause")]
    pub pause: Option<Spanned<toml::Value>>,
    /// Leading asks that do not count. Default: 10 % of the asks, at least 2, at most 50.
    #[schemars(with = "Option<u32>")]
    pub warmup: Option<Spanned<u32>>,
    #[serde(default)]
    pub timeouts: TimeoutsTable,
    /// What users do; each user does one of them.
    #[serde(default)]
    #[schemars(with = "Vec<FlowTable>", required, length(min = 1))]
    pub flow: Vec<Spanned<FlowTable>>,
}

/// Steps in order.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowTable {
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    /// Share of the users, relative to the other flows. Default 1.
    #[schemars(with = "Option<u32>", range(min = 1, max = 1000))]
    pub weight: Option<Spanned<u32>>,
    #[schemars(with = "Vec<StepTable>", length(min = 1, max = 100))]
    pub steps: Vec<Spanned<StepTable>>,
}

/// Exactly one of get, post and ask. `{name}` in a path, header or body stands for what an earlier step saved, `{user}` and
/// `{iteration}` for their numbers. A step that fails ends the iteration.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepTable {
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    /// Path on the server.
    #[schemars(with = "Option<String>")]
    pub get: Option<Spanned<String>>,
    /// Path on the server.
    #[schemars(with = "Option<String>")]
    pub post: Option<Spanned<String>>,
    /// A turn of a conversation, streamed: a prompt of our words after all that was said before.
    #[schemars(with = "Option<AskTable>")]
    pub ask: Option<Spanned<AskTable>>,
    /// "new" forgets what was said before (ask).
    #[serde(default)]
    #[schemars(schema_with = "schema::conversation")]
    pub conversation: Option<Spanned<String>>,
    /// Sent as JSON, or as it is where it is one text (post).
    #[serde(default)]
    #[schemars(schema_with = "schema::anything")]
    pub body: Option<Spanned<toml::Value>>,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub headers: BTreeMap<Spanned<String>, Spanned<String>>,
    /// The status that is right. Default: any of 200 to 299 (get, post).
    #[schemars(with = "Option<u16>", range(min = 100, max = 599))]
    pub expect: Option<Spanned<u16>>,
    /// Values to keep for later steps, by JSON pointer into the answer (get, post).
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub save: BTreeMap<Spanned<String>, Spanned<String>>,
}

/// Tokens in and out: a number, or a distribution (fixed, uniform, lognormal).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AskTable {
    #[schemars(schema_with = "schema::ask_length")]
    pub input: Spanned<AskLength>,
    #[schemars(schema_with = "schema::ask_length")]
    pub output: Spanned<AskLength>,
}

#[derive(Debug)]
pub enum AskLength {
    Tokens(u32),
    Distribution(Box<DistributionTable>),
}

/// By hand, because serde's untagged enums lose the places of values.
impl<'de> Deserialize<'de> for AskLength {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = AskLength;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of tokens or a distribution")
            }

            fn visit_i64<E: serde::de::Error>(self, tokens: i64) -> Result<AskLength, E> {
                let tokens = u32::try_from(tokens).map_err(|_| E::custom("not a number of tokens"))?;
                Ok(AskLength::Tokens(tokens))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<AskLength, M::Error> {
                let table = DistributionTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(AskLength::Distribution(Box::new(table)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JourneySpec {
    pub iterations: u32,
    pub hatch_rate: f64,
    /// After each step: at least, at most.
    pub pause: (Duration, Duration),
    pub flows: Vec<FlowSpec>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowSpec {
    pub name: String,
    /// At least 1.
    pub users: u32,
    pub steps: Vec<StepSpec>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepSpec {
    pub name: String,
    pub headers: BTreeMap<String, String>,
    #[serde(flatten)]
    pub action: ActionSpec,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum ActionSpec {
    Get { path: String, expect: Option<u16>, save: BTreeMap<String, String> },
    Post { path: String, body: Option<BodySpec>, expect: Option<u16>, save: BTreeMap<String, String> },
    Ask { input: LengthDist, output: LengthDist, new_conversation: bool },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodySpec {
    Json(serde_json::Value),
    Text(String),
}

impl JourneySpec {
    pub fn users(&self) -> u32 {
        self.flows.iter().map(|flow| flow.users).sum()
    }

    /// Asks of a whole journey, when no step fails.
    pub fn asks(&self) -> u64 {
        let of = |flow: &FlowSpec| u64::from(flow.users) * u64::from(self.iterations) * flow.asks() as u64;
        self.flows.iter().map(of).sum()
    }
}

impl FlowSpec {
    pub fn asks(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step.action, ActionSpec::Ask { .. })).count()
    }
}
