//! `engine = { policy = "...", ... }` to an [`EngineSpec`].

use std::ops::Range;
use std::time::Duration;

use toml::{Spanned, Value};

use crate::error::{Finding, unknown_key, unknown_value};
use crate::knobs::{self, Default, KNOBS, Kind, POLICIES};
use crate::scenario::EngineTable;
use crate::spec::{EngineSpec, KnobValue, KnobValues, PolicySpec, SpeculationMethod, SpeculationSpec};
use crate::units::{parse_duration, parse_memory};

/// `span` is where a complaint about something missing points to.
pub fn resolve(table: &EngineTable, span: Range<usize>) -> Result<EngineSpec, Finding> {
    let knobs = Knobs::new(table, span)?;
    let candle = knobs.choice("executor")? == "candle";
    // Candle computes in f32 and nothing else; where it is not chosen, what was written or its default.
    let f32_only = |name: &str| match knobs.written(name) {
        Some(value) if candle && value.get_ref().as_str() != Some("f32") => {
            let message = format!("executor \"candle\" has no other {name} than \"f32\"");
            Err(Finding::new(value.span(), message))
        }
        _ => Ok(candle),
    };
    let weights = if f32_only("weights")? { Some("f32".into()) } else { knobs.optional_choice("weights")? };
    let kv = if f32_only("kv")? { "f32".into() } else { knobs.choice("kv")? };
    // A policy that hands out memory by its own rule has no such knob.
    let kv_strategy = match knobs::find(knobs.policy, "kv_strategy") {
        Some(_) => knobs.choice("kv_strategy")?,
        None => "paged".into(),
    };
    if let (Some(_), Some(blocks)) = (knobs.written("kv_memory"), knobs.written("num_blocks")) {
        return Err(Finding::new(blocks.span(), "kv_memory and num_blocks both set the size of the KV pool")
            .label("the second of the two")
            .help("keep one of them"));
    }
    Ok(EngineSpec {
        policy: policy(&knobs, &kv_strategy)?,
        executor: knobs.choice("executor")?,
        weights,
        kv,
        kv_strategy,
        block_size: knobs.count("block_size")?,
        kv_memory_bytes: knobs.memory("kv_memory")?,
        num_blocks: knobs.optional_count("num_blocks")?,
        threads: knobs.optional_count("threads")?,
        max_queue: knobs.count("max_queue")?,
        enable_lora: knobs::find(knobs.policy, "enable_lora")
            .map_or(Ok(true), |_| knobs.switch("enable_lora"))?,
    })
}

fn policy(knobs: &Knobs, kv_strategy: &str) -> Result<PolicySpec, Finding> {
    Ok(match knobs.policy {
        "vllm" | "vllm-0.33.0" => PolicySpec::Vllm {
            max_num_seqs: knobs.count("max_num_seqs")?,
            max_num_batched_tokens: knobs.count("max_num_batched_tokens")?,
            enable_chunked_prefill: knobs.switch("enable_chunked_prefill")?,
            enable_prefix_caching: prefix_caching(knobs, kv_strategy)?,
            long_prefill_token_threshold: knobs.count("long_prefill_token_threshold")?,
            prefill_schedule_interval: knobs.count("prefill_schedule_interval")?,
            scheduler_reserve_full_isl: knobs.switch("scheduler_reserve_full_isl")?,
            watermark: knobs.number("watermark")?,
            priority: knobs.choice("scheduling_policy")? == "priority",
            async_scheduling: knobs.switch("async_scheduling")?,
            max_loras: knobs.count("max_loras")?,
            speculation: speculation(knobs)?,
            upstream_defects: knobs.policy == "vllm-0.33.0",
        },
        "tgi" | "tgi-3.3.6" => tgi(knobs)?,
        other => {
            if other == "dynamic" {
                preferred_sizes(knobs)?;
            }
            PolicySpec::Other(knob_values(knobs)?)
        }
    })
}

/// Everything the table says about a policy, as it is.
fn knob_values(knobs: &Knobs) -> Result<KnobValues, Finding> {
    let mut values = std::collections::BTreeMap::new();
    for knob in knobs::own(knobs.policy) {
        let name = knob.name;
        let value = match knob.kind {
            Kind::Count { .. } => knobs.optional_count(name)?.map(KnobValue::Count),
            Kind::Number { .. } => Some(KnobValue::Number(knobs.number(name)?)),
            Kind::Switch => Some(KnobValue::Switch(knobs.switch(name)?)),
            Kind::Choice(_) => knobs.optional_choice(name)?.map(KnobValue::Choice),
            Kind::Time => Some(KnobValue::Time(knobs.time(name)?)),
            Kind::Counts => Some(KnobValue::Counts(knobs.counts(name)?)),
            Kind::Model => panic!("knob {name} of policy {} is a model", knobs.policy),
            Kind::Memory => panic!("knob {name} of policy {} is about memory", knobs.policy),
        };
        values.extend(value.map(|value| (name.to_string(), value)));
    }
    if let Some((name, off)) = sharing_off(knobs.policy)
        && knobs.choice("executor")? == "candle"
    {
        if let Some(written) = knobs.written(name)
            && written.get_ref().as_bool() != Some(off)
        {
            let message = "reused beginnings share KV blocks, executor \"candle\" has none";
            let finding = Finding::new(written.span(), message);
            return Err(finding.help(format!("set it to {off}, or choose executor \"cpu\"")));
        }
        values.insert(name.into(), KnobValue::Switch(off));
    }
    Ok(KnobValues { policy: knobs.policy.into(), knobs: values })
}

/// The knob that keeps a policy from reusing what other requests computed, and its value for that.
fn sharing_off(policy: &str) -> Option<(&'static str, bool)> {
    match policy {
        "trtllm" => Some(("enable_block_reuse", false)),
        "llamacpp" => Some(("cache_prompt", false)),
        "sglang" => Some(("disable_radix_cache", true)),
        _ => None,
    }
}

/// Contiguous memory has no blocks to share, and candle keeps each request's keys and values to itself.
fn prefix_caching(knobs: &Knobs, kv_strategy: &str) -> Result<bool, Finding> {
    let on = knobs.switch("enable_prefix_caching")?;
    let cannot = if kv_strategy == "contiguous" {
        Some(("kv_strategy \"contiguous\" has none", "kv_strategy \"paged\" or \"reserve\""))
    } else if knobs.choice("executor")? == "candle" {
        Some(("executor \"candle\" has none", "executor \"cpu\""))
    } else {
        None
    };
    match (cannot, knobs.written("enable_prefix_caching")) {
        (Some((why, instead)), Some(value)) if on => {
            let finding = Finding::new(value.span(), format!("prefix caching shares KV blocks, {why}"));
            Err(finding.help(format!("set it to false, or choose {instead}")))
        }
        (cannot, _) => Ok(on && cannot.is_none()),
    }
}

/// Knobs of speculation mean something only together.
fn speculation(knobs: &Knobs) -> Result<Option<SpeculationSpec>, Finding> {
    let method = knobs.optional_choice("speculative_method")?;
    let unused = |names: &[&'static str], why: String| match names.iter().find_map(|name| knobs.written(name))
    {
        Some(value) => {
            Err(Finding::new(value.span(), why).help("remove it, or choose another speculative_method"))
        }
        None => Ok(()),
    };
    let (lookup, model) =
        (["prompt_lookup_min", "prompt_lookup_max"], ["speculative_model", "speculative_weights"]);
    let Some(method) = method else {
        let all = ["num_speculative_tokens", lookup[0], lookup[1], model[0], model[1]];
        unused(&all, "without speculative_method this has no effect".into())?;
        return Ok(None);
    };
    if let (Some(value), true) = (knobs.written("speculative_method"), knobs.choice("executor")? == "candle")
    {
        return Err(Finding::new(value.span(), "executor \"candle\" does not speculate")
            .help("remove it, or choose executor \"cpu\""));
    }
    let method = match method.as_str() {
        "ngram" => {
            unused(&model, "method \"ngram\" has no model".into())?;
            let (least, most) = (knobs.count("prompt_lookup_min")?, knobs.count("prompt_lookup_max")?);
            if let (Some(value), true) =
                (lookup.iter().rev().find_map(|name| knobs.written(name)), least > most)
            {
                let message = format!("prompt_lookup_min is {least}, prompt_lookup_max is {most}");
                return Err(Finding::new(value.span(), message).help("the least must not exceed the most"));
            }
            if let (Some(value), true) =
                (knobs.written("async_scheduling"), knobs.switch("async_scheduling")?)
            {
                let message =
                    "async_scheduling plans before the tokens are known that method \"ngram\" looks up";
                return Err(Finding::new(value.span(), message).help("remove one of them"));
            }
            SpeculationMethod::Ngram { prompt_lookup_min: least, prompt_lookup_max: most }
        }
        _ => {
            unused(&lookup, "method \"draft_model\" looks nothing up".into())?;
            match knobs.written("speculative_model").map(|value| (value, value.get_ref())) {
                Some((_, Value::String(source))) if !source.is_empty() => {
                    let weights = knobs.optional_choice("speculative_weights")?;
                    SpeculationMethod::DraftModel { source: source.clone(), weights }
                }
                Some((value, _)) => {
                    return Err(wrong_type(value, "speculative_model", "a model source".into()));
                }
                None => {
                    let span = knobs.written("speculative_method").map(Spanned::span).unwrap_or_default();
                    return Err(Finding::new(span, "method \"draft_model\" needs speculative_model"));
                }
            }
        }
    };
    Ok(Some(SpeculationSpec { num_speculative_tokens: knobs.count("num_speculative_tokens")?, method }))
}

/// A batch that is padded has neither chunks nor blocks to share, and candle keeps each request's keys and values to
/// itself.
fn tgi(knobs: &Knobs) -> Result<PolicySpec, Finding> {
    let requires_padding = knobs.switch("requires_padding")?;
    let padding = requires_padding.then_some("requires_padding = true");
    let candle = (knobs.choice("executor")? == "candle").then_some("executor \"candle\"");
    let unless = |name: &str, excluded_by: Option<&str>| match (excluded_by, knobs.written(name)) {
        (Some(reason), Some(value)) if knobs.switch(name)? => {
            let finding = Finding::new(value.span(), format!("{name} = true does not go with {reason}"));
            Err(finding.help("remove one of them"))
        }
        (excluded_by, _) => Ok(knobs.switch(name)? && excluded_by.is_none()),
    };
    Ok(PolicySpec::Tgi {
        max_batch_prefill_tokens: knobs.count("max_batch_prefill_tokens")?,
        max_batch_total_tokens: knobs.count("max_batch_total_tokens")?,
        waiting_served_ratio: knobs.number("waiting_served_ratio")?,
        max_waiting_tokens: knobs.count("max_waiting_tokens")?,
        max_batch_size: knobs.optional_count("max_batch_size")?,
        max_input_tokens: knobs.optional_count("max_input_tokens")?,
        prefill_chunking: unless("prefill_chunking", padding)?,
        use_prefix_caching: unless("use_prefix_caching", padding.or(candle))?,
        requires_padding,
        upstream_defects: knobs.policy == "tgi-3.3.6",
    })
}

fn preferred_sizes(knobs: &Knobs) -> Result<(), Finding> {
    let sizes = knobs.counts("preferred_batch_size")?;
    let most = knobs.count("max_batch_size")?;
    match (knobs.written("preferred_batch_size"), sizes.iter().find(|&&s| s > most)) {
        (Some(value), Some(size)) => Err(Finding::new(
            value.span(),
            format!("preferred_batch_size {size} is larger than max_batch_size {most}"),
        )),
        _ => Ok(()),
    }
}

/// The written keys of one engine table, all known to its policy; reads values against [`KNOBS`].
struct Knobs<'a> {
    policy: &'static str,
    table: &'a EngineTable,
}

impl<'a> Knobs<'a> {
    fn new(table: &'a EngineTable, span: Range<usize>) -> Result<Knobs<'a>, Finding> {
        let Some(written) = table.get("policy") else {
            return Err(Finding::new(span, "engine has no policy")
                .help(format!("write policy = \"...\", one of: {}", POLICIES.join(", "))));
        };
        let Value::String(name) = written.get_ref() else {
            return Err(wrong_type(written, "a policy name", POLICIES.join(", ")));
        };
        let Some(policy) = POLICIES.into_iter().find(|p| p == name) else {
            return Err(unknown_value(written.span(), "policy", name, &POLICIES));
        };
        for key in table.keys().filter(|k| k.get_ref() != "policy") {
            if knobs::find(policy, key.get_ref()).is_none() {
                return Err(not_a_knob(key, policy));
            }
        }
        Ok(Knobs { policy, table })
    }

    fn written(&self, name: &str) -> Option<&'a Spanned<Value>> {
        self.table.get(name)
    }

    /// The table's entry for this name; asking for a knob that does not exist is a bug in this file.
    fn knob(&self, name: &str) -> (Kind, Default) {
        let knob = knobs::find(self.policy, name);
        let knob =
            knob.unwrap_or_else(|| panic!("knob {name} of policy {} is not in the table", self.policy));
        (knob.kind, knob.default)
    }

    fn optional_count(&self, name: &str) -> Result<Option<u32>, Finding> {
        let (Kind::Count { min, max }, default) = self.knob(name) else {
            panic!("knob {name} is not a count")
        };
        match (self.written(name), default) {
            (Some(value), _) => count_in(value, name, min, max).map(Some),
            (None, Default::Count(count)) => Ok(Some(count)),
            (None, _) => Ok(None),
        }
    }

    fn count(&self, name: &str) -> Result<u32, Finding> {
        Ok(self.optional_count(name)?.unwrap_or_else(|| panic!("knob {name} has no default")))
    }

    fn counts(&self, name: &str) -> Result<Vec<u32>, Finding> {
        let Some(value) = self.written(name) else { return Ok(Vec::new()) };
        let Value::Array(items) = value.get_ref() else {
            return Err(wrong_type(value, name, "a list of whole numbers, e.g. [4, 8]".into()));
        };
        items
            .iter()
            .map(|item| count_in(&Spanned::new(value.span(), item.clone()), name, 1, u32::MAX))
            .collect()
    }

    fn number(&self, name: &str) -> Result<f64, Finding> {
        let (Kind::Number { min, max }, Default::Number(default)) = self.knob(name) else {
            panic!("knob {name} is not a number")
        };
        let Some(value) = self.written(name) else { return Ok(default) };
        let number = match value.get_ref() {
            Value::Float(number) => *number,
            Value::Integer(number) => *number as f64,
            _ => return Err(wrong_type(value, name, format!("a number from {min} to {max}"))),
        };
        if !(min..=max).contains(&number) {
            return Err(Finding::new(value.span(), format!("{name} is {number}"))
                .label(format!("must be from {min} to {max}")));
        }
        Ok(number)
    }

    fn switch(&self, name: &str) -> Result<bool, Finding> {
        let (_, Default::Switch(default)) = self.knob(name) else { panic!("knob {name} is not a switch") };
        match self.written(name).map(|v| (v, v.get_ref())) {
            None => Ok(default),
            Some((_, Value::Boolean(on))) => Ok(*on),
            Some((value, _)) => Err(wrong_type(value, name, "true or false".into())),
        }
    }

    fn optional_choice(&self, name: &str) -> Result<Option<String>, Finding> {
        let (Kind::Choice(accepted), default) = self.knob(name) else {
            panic!("knob {name} is not a choice")
        };
        match (self.written(name).map(|v| (v, v.get_ref())), default) {
            (None, Default::Text(default)) => Ok(Some(default.into())),
            (None, _) => Ok(None),
            (Some((_, Value::String(text))), _) if accepted.contains(&text.as_str()) => {
                Ok(Some(text.clone()))
            }
            (Some((value, Value::String(text))), _) => Err(unknown_value(value.span(), name, text, accepted)),
            (Some((value, _)), _) => Err(wrong_type(value, name, accepted.join(", "))),
        }
    }

    fn choice(&self, name: &str) -> Result<String, Finding> {
        Ok(self.optional_choice(name)?.unwrap_or_else(|| panic!("knob {name} has no default")))
    }

    fn time(&self, name: &str) -> Result<Duration, Finding> {
        let (_, Default::Text(default)) = self.knob(name) else { panic!("knob {name} is not a time") };
        let Some(value) = self.written(name) else {
            return Ok(parse_duration(default).expect("defaults in the table are durations"));
        };
        let Value::String(text) = value.get_ref() else {
            return Err(wrong_type(value, name, "a duration such as \"20ms\"".into()));
        };
        parse_duration(text).map_err(|why| Finding::sentence(value.span(), &why))
    }

    fn memory(&self, name: &str) -> Result<Option<u64>, Finding> {
        let Some(value) = self.written(name) else { return Ok(None) };
        let Value::String(text) = value.get_ref() else {
            return Err(wrong_type(value, name, "a memory size such as \"256MiB\"".into()));
        };
        let bytes = parse_memory(text).map_err(|why| Finding::sentence(value.span(), &why))?;
        if bytes == 0 {
            return Err(Finding::new(value.span(), format!("{name} is zero")));
        }
        Ok(Some(bytes))
    }
}

fn count_in(value: &Spanned<Value>, name: &str, min: u32, max: u32) -> Result<u32, Finding> {
    let range = if max == u32::MAX { format!("at least {min}") } else { format!("from {min} to {max}") };
    let Value::Integer(number) = value.get_ref() else {
        return Err(wrong_type(value, name, format!("a whole number, {range}")));
    };
    match u32::try_from(*number) {
        Ok(count) if (min..=max).contains(&count) => Ok(count),
        _ => Err(Finding::new(value.span(), format!("{name} is {number}")).label(format!("must be {range}"))),
    }
}

fn wrong_type(value: &Spanned<Value>, name: &str, accepted: String) -> Finding {
    let found = value.get_ref().type_str();
    Finding::new(value.span(), format!("{name} has the wrong type: {found}"))
        .label(format!("accepted: {accepted}"))
}

/// `a`, `a and b`, `a, b and c`.
fn enumeration(names: &[&str]) -> String {
    match names {
        [before @ .., a, b] => [before, &[&format!("{a} and {b}")]].concat().join(", "),
        _ => names.concat(),
    }
}

/// A key of another policy deserves another answer than a misspelt one.
fn not_a_knob(key: &Spanned<String>, policy: &str) -> Finding {
    let name = key.get_ref().as_str();
    let names = knobs::names_of(policy);
    let owners: Vec<_> = KNOBS.iter().filter(|k| k.name == name).flat_map(|k| k.policies).copied().collect();
    if owners.is_empty() {
        return unknown_key(key.span(), name, &format!(" of policy {policy}"), &names);
    }
    Finding::new(
        key.span(),
        format!("`{name}` is a knob of policy {}, not of {policy}", enumeration(&owners)),
    )
    .label(format!("policy {policy} has no such knob"))
    .help(format!("accepted keys of policy {policy}: {}", names.join(", ")))
}
