//! The JSON schema of scenario files, for completion and checks in editors.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::client_mix;
use crate::knobs::{Default, KNOBS, Kind, Knob, POLICIES};
use crate::plan::PlanFile;
use crate::resolve::{
    CONVERSATIONS, DISTRIBUTIONS, FINDS, POPULARITIES, PRICINGS, PROCESSES, PROTOCOLS, TIME_DISTRIBUTIONS,
    TURN_DISTRIBUTIONS,
};
use crate::scenario::{DistributionTable, Scenario};
use crate::spec::CLAIM_METRICS;
use crate::templates::TEMPLATES;
use crate::traffic;

const DURATION_PATTERN: &str = r"^[0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h)$";
const MEMORY_PATTERN: &str = r"^[0-9]+(\.[0-9]+)?(KiB|MiB|GiB|TiB|kB|MB|GB|TB)$";

/// Pretty-printed, ending in a newline; `scenarios/schema.json` is this text.
pub fn json_schema() -> String {
    printed(schemars::schema_for!(Scenario), "llmlab scenario")
}

/// The same of plan files; `scenarios/plan/schema.json` is this text.
pub fn plan_schema() -> String {
    printed(schemars::schema_for!(PlanFile), "llmlab plan")
}

fn printed(mut schema: Schema, title: &str) -> String {
    schema.insert("title".into(), json!(title));
    schema.as_object_mut().into_iter().flat_map(Map::values_mut).for_each(remove_null);
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is plain JSON");
    text.push('\n');
    text
}

/// An optional key is one that may be absent. schemars also allows null, which TOML does not have.
fn remove_null(schema: &mut Value) {
    if let Value::Object(object) = schema {
        if object.get("default") == Some(&Value::Null) {
            object.remove("default");
        }
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|t| t != "null");
            if let [only] = types.as_slice() {
                object["type"] = only.clone();
            }
        }
        if let Some(Value::Array(alternatives)) = object.get_mut("anyOf") {
            alternatives.retain(|a| *a != json!({ "type": "null" }));
            if let [Value::Object(only)] = alternatives.as_slice() {
                let only = only.clone();
                object.remove("anyOf");
                object.extend(only);
            }
        }
    }
    match schema {
        Value::Object(object) => object.values_mut().for_each(remove_null),
        Value::Array(items) => items.iter_mut().for_each(remove_null),
        _ => {}
    }
}

pub(crate) fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": DURATION_PATTERN, "examples": ["200ms", "1.5s"] })
}

/// One duration, or the least and the most.
pub(crate) fn pause(generator: &mut SchemaGenerator) -> Schema {
    let pair = two_durations(generator);
    let one = duration(generator);
    json_schema!({ "anyOf": [one, pair] })
}

pub(crate) fn two_durations(generator: &mut SchemaGenerator) -> Schema {
    let one = duration(generator);
    json_schema!({ "type": "array", "items": one, "minItems": 2, "maxItems": 2 })
}

pub(crate) fn rate_or_ramp(_: &mut SchemaGenerator) -> Schema {
    let number = json!({ "type": "number", "minimum": 0 });
    json_schema!({ "anyOf": [number, { "type": "array", "items": number, "minItems": 2, "maxItems": 2 }] })
}

pub(crate) fn client_mix(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<String> = client_mix::all().into_iter().map(|mix| mix.name).collect();
    json_schema!({ "type": "string", "enum": names })
}

pub(crate) fn conversation(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": CONVERSATIONS })
}

pub(crate) fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({})
}

/// A number of tokens, or a distribution.
pub(crate) fn ask_length(generator: &mut SchemaGenerator) -> Schema {
    let table = generator.subschema_for::<DistributionTable>();
    json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, table] })
}

pub(crate) fn traffic(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": traffic::NAMES })
}

pub(crate) fn distribution(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": DISTRIBUTIONS })
}

pub(crate) fn turn_distribution(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": TURN_DISTRIBUTIONS })
}

pub(crate) fn time_distribution(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": TIME_DISTRIBUTIONS })
}

pub(crate) fn popularity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": POPULARITIES })
}

pub(crate) fn find(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": FINDS })
}

pub(crate) fn pricings(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "enum": PRICINGS } })
}

pub(crate) fn claim_metric(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": CLAIM_METRICS })
}

pub(crate) fn process(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": PROCESSES })
}

pub(crate) fn protocol(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": PROTOCOLS })
}

pub(crate) fn command_template(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<&str> = TEMPLATES.iter().map(|template| template.name).collect();
    json_schema!({ "type": "string", "enum": names })
}

/// The second pattern is how TOML reads a bare `ttft_p99.9`.
pub(crate) fn slo(generator: &mut SchemaGenerator) -> Schema {
    let limit = duration(generator);
    json_schema!({
        "type": "object",
        "patternProperties": {
            r"^(ttft|tpot|itl|e2e)_p[0-9]{1,2}(\.[0-9]+)?$": {
                "anyOf": [limit, {
                    "type": "object",
                    "patternProperties": { "^[0-9]+$": limit },
                    "additionalProperties": false
                }]
            }
        },
        "additionalProperties": false
    })
}

/// One alternative per policy, so that an editor offers only the knobs of the policy that was chosen.
pub(crate) fn engine(_: &mut SchemaGenerator) -> Schema {
    let alternatives: Vec<Value> = POLICIES.into_iter().map(engine_of).collect();
    json_schema!({ "type": "object", "oneOf": alternatives })
}

/// The same with the keys of a device.
pub(crate) fn simulate(_: &mut SchemaGenerator) -> Schema {
    let alternatives = POLICIES.into_iter().map(engine_of).map(|mut engine| {
        engine["properties"]["hardware"] = json!({
            "type": "string",
            "description": "A device of the catalogue, e.g. \"h100-sxm\", or \"this-host\" after llmlab calibrate --engine."
        });
        engine["properties"]["gpu_memory_utilization"] = json!({
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1,
            "description": "Share of the device's memory for weights, activations and the KV pool. Default 0.92, vLLM's."
        });
        if engine["properties"].get("speculative_method").is_some() {
            let rate = json!({ "type": "number", "minimum": 0, "maximum": 1 });
            engine["properties"]["speculative_acceptance_rate"] = json!({
                "anyOf": [rate, { "type": "array", "items": rate, "minItems": 1 }],
                "description": "With speculative_method: probability that a draft is accepted when all before it are, or one for each draft of a step. llmlab replay prints what a recorded run had."
            });
        }
        engine["required"] = json!(["hardware", "policy"]);
        engine
    });
    json_schema!({ "type": "object", "oneOf": alternatives.collect::<Vec<Value>>() })
}

fn engine_of(policy: &str) -> Value {
    let mut properties = Map::new();
    properties.insert("policy".into(), json!({ "const": policy }));
    for knob in KNOBS.iter().filter(|k| k.policies.contains(&policy)) {
        properties.insert(knob.name.into(), knob_schema(knob));
    }
    json!({ "properties": properties, "required": ["policy"], "additionalProperties": false })
}

fn knob_schema(knob: &Knob) -> Value {
    let mut schema = match knob.kind {
        Kind::Count { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Number { min, max } => json!({ "type": "number", "minimum": min, "maximum": max }),
        Kind::Switch => json!({ "type": "boolean" }),
        Kind::Choice(accepted) => json!({ "type": "string", "enum": accepted }),
        Kind::Time => json!({ "type": "string", "pattern": DURATION_PATTERN }),
        Kind::Memory => json!({ "type": "string", "pattern": MEMORY_PATTERN }),
        Kind::Model => json!({ "type": "string", "minLength": 1 }),
        Kind::Counts => json!({ "type": "array", "items": { "type": "integer", "minimum": 1 } }),
    };
    schema["description"] = json!(knob.description);
    match knob.default {
        Default::Unset => {}
        Default::Count(count) => schema["default"] = json!(count),
        Default::Number(number) => schema["default"] = json!(number),
        Default::Switch(on) => schema["default"] = json!(on),
        Default::Text(text) => schema["default"] = json!(text),
        Default::EmptyList => schema["default"] = json!([]),
    }
    schema
}
