//! What requests have in common: beginnings of prompts, and adapters.

use std::path::Path;

use toml::Spanned;

use super::workload::{need, only};
use super::{beside, in_range, out_of_range};
use crate::error::{Finding, unknown_value};
use crate::scenario::{AdaptersTable, PrefixesTable, WorkloadTable};
use crate::spec::{AdapterModule, AdapterSource, AdapterSpec, PopularitySpec, PrefixSpec};

pub const POPULARITIES: [&str; 2] = ["uniform", "zipf"];

const MAX_PREFIXES: u32 = 100_000;
const MAX_DEPTH: u32 = 40;
const MAX_LEAVES: f64 = 1e12;
const MAX_ADAPTERS: usize = 1000;
/// vLLM's largest `max_lora_rank`.
const MAX_RANK: u32 = 512;
const DEFAULT_RANK: u32 = 16;
const DEFAULT_EXPONENT: f64 = 1.0;
const MAX_EXPONENT: f64 = 10.0;
const MAX_TOKENS: u32 = 10_000_000;
const MAX_NAME_LEN: usize = 100;

pub(super) fn prefixes(workload: &WorkloadTable) -> Result<Option<PrefixSpec>, Finding> {
    let Some(written) = &workload.prefixes else { return Ok(None) };
    if workload.shared_prefix_tokens.is_some() {
        return Err(Finding::new(written.span(), "prefixes and shared_prefix_tokens both begin the prompt")
            .label("the second of the two")
            .help("shared_prefix_tokens = n is the same as prefixes = { count = 1, tokens = n }"));
    }
    let PrefixesTable { count, tokens, block_tokens, depth, branching, hit_rate, popularity, exponent } =
        written.get_ref();
    let of_tree = [
        ("block_tokens", block_tokens.as_ref().map(Spanned::span)),
        ("depth", depth.as_ref().map(Spanned::span)),
        ("branching", branching.as_ref().map(Spanned::span)),
        ("hit_rate", hit_rate.as_ref().map(Spanned::span)),
    ];
    let key = |value: &Option<Spanned<u32>>, name: &str, max| {
        in_range(need(value, written.span(), name)?, &format!("prefixes.{name}"), 1, max)
    };
    let popularity = self::popularity(popularity, exponent)?;
    if of_tree.iter().all(|(_, span)| span.is_none()) {
        let count = key(count, "count", MAX_PREFIXES)?;
        return Ok(Some(PrefixSpec::Each { count, tokens: key(tokens, "tokens", MAX_TOKENS)?, popularity }));
    }
    let of_each =
        [("count", count.as_ref().map(Spanned::span)), ("tokens", tokens.as_ref().map(Spanned::span))];
    only(&of_each, &["block_tokens", "depth", "branching", "hit_rate"], "a tree of prefixes")?;
    if workload.sessions.is_some() {
        return Err(Finding::new(written.span(), "a tree of prefixes is for requests that stand alone")
            .label("not with `sessions`, whose turns begin with the turns before them")
            .help("a system prompt for all sessions is prefixes = { count = 1, tokens = 64 }"));
    }
    let (depth_value, branches) =
        (key(depth, "depth", MAX_DEPTH)?, key(branching, "branching", MAX_PREFIXES)?);
    if f64::from(branches).powf(f64::from(depth_value)) > MAX_LEAVES {
        let message = format!("{branches} branches to a depth of {depth_value} are too many");
        return Err(Finding::new(written.span(), message).label("at most 10^12 leaves"));
    }
    if let Some(rate) = hit_rate
        && !(0.0..=1.0).contains(rate.get_ref())
    {
        let range = "must be from 0 to 1".into();
        return Err(out_of_range(rate.span(), "prefixes.hit_rate", *rate.get_ref(), range));
    }
    Ok(Some(PrefixSpec::Tree {
        block_tokens: key(block_tokens, "block_tokens", MAX_TOKENS)?,
        depth: depth_value,
        branching: branches,
        hit_rate: hit_rate.as_ref().map(|rate| *rate.get_ref()),
        popularity,
    }))
}

pub(super) fn adapters(workload: &WorkloadTable, base: &Path) -> Result<Option<AdapterSpec>, Finding> {
    let Some(written) = &workload.adapters else { return Ok(None) };
    let AdaptersTable { count, rank, folders, popularity, exponent } = written.get_ref();
    let modules = match (count, folders) {
        (Some(count), None) => {
            let count = in_range(count, "adapters.count", 1, MAX_ADAPTERS as u32)?;
            let rank = rank
                .as_ref()
                .map_or(Ok(DEFAULT_RANK), |rank| in_range(rank, "adapters.rank", 1, MAX_RANK))?;
            let module = |number| AdapterModule {
                name: format!("lora-{number}"),
                source: AdapterSource::Synthetic { rank },
            };
            (1..=count).map(module).collect()
        }
        (None, Some(folders)) => {
            if let Some(rank) = rank {
                return Err(Finding::new(rank.span(), "an adapter in a folder has its own rank")
                    .help("remove rank, or write count in place of folders"));
            }
            if folders.get_ref().is_empty() || folders.get_ref().len() > MAX_ADAPTERS {
                let message = format!("{} adapters", folders.get_ref().len());
                return Err(
                    Finding::new(folders.span(), message).label(format!("must be from 1 to {MAX_ADAPTERS}"))
                );
            }
            folders
                .get_ref()
                .iter()
                .map(|(name, folder)| module(name, folder, base))
                .collect::<Result<_, _>>()?
        }
        _ => {
            return Err(Finding::new(written.span(), "adapters needs exactly one of count and folders").help(
                "adapters = { count = 8, rank = 16 } makes synthetic ones; adapters = { folders = { sql = \"adapters/sql\" } } \
                 takes PEFT's",
            ));
        }
    };
    Ok(Some(AdapterSpec { modules, popularity: self::popularity(popularity, exponent)? }))
}

/// The name goes into requests and onto the engine's command line as NAME=FOLDER.
fn module(name: &Spanned<String>, folder: &Spanned<String>, base: &Path) -> Result<AdapterModule, Finding> {
    let text = name.get_ref();
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    if text.is_empty() || text.len() > MAX_NAME_LEN || !text.chars().all(harmless) {
        return Err(Finding::new(name.span(), "the adapter's name is not usable")
            .label(format!("must be 1 to {MAX_NAME_LEN} letters, digits, '.', '_', '-' or '/'")));
    }
    let path = beside(base, folder.get_ref());
    if !path.is_dir() {
        return Err(Finding::new(folder.span(), format!("no adapter folder at {}", path.display()))
            .help("a folder with adapter_config.json and adapter_model.safetensors, relative to this file"));
    }
    Ok(AdapterModule {
        name: text.clone(),
        source: AdapterSource::Folder { path: path.display().to_string() },
    })
}

fn popularity(
    popularity: &Option<Spanned<String>>,
    exponent: &Option<Spanned<f64>>,
) -> Result<PopularitySpec, Finding> {
    let name = popularity.as_ref().map_or("uniform", |written| written.get_ref().as_str());
    match (name, exponent) {
        ("uniform", None) => Ok(PopularitySpec::Uniform),
        ("uniform", Some(exponent)) => Err(Finding::new(exponent.span(), "uniform shares have no exponent")
            .help("write popularity = \"zipf\", or remove it")),
        ("zipf", None) => Ok(PopularitySpec::Zipf { exponent: DEFAULT_EXPONENT }),
        ("zipf", Some(written)) => {
            let exponent = *written.get_ref();
            if !(0.0..=MAX_EXPONENT).contains(&exponent) {
                return Err(Finding::new(written.span(), format!("exponent is {exponent}"))
                    .label(format!("must be from 0 to {MAX_EXPONENT}")));
            }
            Ok(PopularitySpec::Zipf { exponent })
        }
        _ => {
            let span = popularity.as_ref().map_or(0..0, Spanned::span);
            Err(unknown_value(span, "popularity", name, &POPULARITIES))
        }
    }
}
