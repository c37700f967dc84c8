//! `llmlab plan --device`: which models a laptop, a phone or a board runs, and how fast.

use llmlab_models::catalogue;
use llmlab_planner::edge::{ANSWER_TOKENS, Edge, EdgeRow, FORMATS, FORMATS_OF_ONE, PROMPT_TOKENS, edge};
use llmlab_planner::plan::words::{digits, percent, seconds};

use super::{PlanArgs, architecture};
use crate::commands::hardware::print_json;
use crate::exit::{Code, Failure};
use crate::table::table;
use crate::text;

const GIB: f64 = (1u64 << 30) as f64;
/// About as fast as one reads; our choice.
const READING_TOKENS_PER_S: f64 = 10.0;

/// Code 10 where nothing fits.
pub fn on_device(device: &str, args: &PlanArgs) -> Result<Code, Failure> {
    let hardware =
        catalogue::hardware(device).map_err(|error| Failure::bad_input(format!("--device: {error}")))?;
    let model = args.model.as_deref().map(architecture).transpose()?;
    let default: &[&str] = if model.is_some() { &FORMATS_OF_ONE } else { &FORMATS };
    let formats = match args.weights.is_empty() {
        true => default.iter().map(|name| (*name).to_owned()).collect(),
        false => args.weights.clone(),
    };
    let found =
        edge(hardware, model, &formats).map_err(|error| Failure::bad_input(format!("--device: {error}")))?;
    if args.json {
        print_json(&found)?;
    } else {
        text::print(&words(&found, model.is_some()))?;
    }
    Ok(if found.rows.is_empty() { Code::SloFailed } else { Code::Pass })
}

/// `all`: every format; else one line a model.
fn words(found: &Edge, all: bool) -> String {
    let mut text = format!(
        "{}: {}, {} GiB for a model and its context\n",
        found.device,
        found.description,
        digits(found.usable_bytes as f64 / GIB)
    );
    let shown: Vec<&EdgeRow> = if all { found.rows.iter().collect() } else { one_each(&found.rows) };
    if !shown.is_empty() {
        text += &format!("\n{}", rows(&shown, found.arithmetic_known));
        text += &format!(
            "\nanswer: {ANSWER_TOKENS} tokens after a prompt of {PROMPT_TOKENS}, one request at a time under llama.cpp\n"
        );
        let prefill = match found.arithmetic_known {
            true => format!(", prefill within {}", percent(found.prefill_error)),
            false => String::new(),
        };
        text += &format!(
            "predictions are {}: decode within {}{prefill}, in nine of ten cases\n",
            found.provenance.name(),
            percent(found.decode_error)
        );
        if !found.arithmetic_known {
            text += "the catalogue has no arithmetic peak of this device: decode is what its memory allows at most, prefill is not known\n";
        }
        if !all {
            text += &format!(
                "of each model the largest format that writes {READING_TOKENS_PER_S} tokens/s, else the fastest; --model NAME or --json has all\n"
            );
        }
    }
    text + &too_large(found, all)
}

/// Of each model the most exact format that is quick enough, else the quickest.
fn one_each(rows: &[EdgeRow]) -> Vec<&EdgeRow> {
    rows.chunk_by(|a, b| a.model == b.model)
        .filter_map(|of_model| {
            let quick = of_model.iter().filter(|row| row.decode_tokens_per_s >= READING_TOKENS_PER_S);
            let quickest =
                of_model.iter().max_by(|a, b| a.decode_tokens_per_s.total_cmp(&b.decode_tokens_per_s));
            quick.max_by_key(|row| row.weight_bytes).or(quickest)
        })
        .collect()
}

fn rows(shown: &[&EdgeRow], arithmetic_known: bool) -> String {
    let or_not = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let at_most = if arithmetic_known { "" } else { "<" };
    let lines: Vec<Vec<String>> = shown
        .iter()
        .map(|row| {
            vec![
                row.model.clone(),
                format!("{} B", digits(row.parameters as f64 / 1e9)),
                row.format.clone(),
                digits(row.weight_bytes as f64 / GIB),
                row.context_tokens.to_string(),
                or_not(row.prefill_tokens_per_s.map(digits)),
                format!("{at_most}{}", digits(row.decode_tokens_per_s)),
                or_not(row.answer_s.map(seconds)),
                or_not(row.answer_joules.map(|joules| format!("{} J", digits(joules)))),
                or_not(row.answer_battery_share.map(percent)),
            ]
        })
        .collect();
    let heading =
        ["model", "size", "format", "GiB", "context", "prefill/s", "decode/s", "answer", "energy", "battery"];
    table(&heading, &lines, &[1, 3, 4, 5, 6, 7, 8, 9])
}

fn too_large(found: &Edge, all: bool) -> String {
    let gib = |bytes: u64| digits(bytes as f64 / GIB);
    if all {
        let lines = found.too_large.iter().map(|one| {
            format!("{} in {} does not fit: it takes {} GiB\n", one.model, one.format, gib(one.needed_bytes))
        });
        let help = "what would help: fewer bits, a smaller model, or a device with more memory\n";
        return lines.chain((!found.too_large.is_empty()).then(|| help.to_owned())).collect();
    }
    let mut models: Vec<&str> = found.too_large.iter().map(|one| one.model.as_str()).collect();
    models.dedup();
    models.retain(|model| !found.rows.iter().any(|row| row.model == *model));
    let smallest = found.too_large.iter().filter(|one| models.contains(&one.model.as_str()));
    match smallest.min_by_key(|one| one.needed_bytes) {
        Some(one) => format!(
            "{} models fit in none of the formats; the smallest, {} in {}, takes {} GiB\n",
            models.len(),
            one.model,
            one.format,
            gib(one.needed_bytes)
        ),
        None => String::new(),
    }
}
