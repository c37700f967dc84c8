//! `llmlab models list` and `show`: the models of the catalogue, their shape and what they take in each format.

use llmlab_models::architecture::{Attention, Block, FeedForward, Window};
use llmlab_models::catalogue::{self, ApiPrice, PublishedModel};
use llmlab_models::memory::{Framework, MemoryConfig, Weights, plan};
use serde::Serialize;

use crate::cli::{ListArgs, ShowArgs};
use crate::commands::hardware::print_json;
use crate::exit::{Code, Failure};
use crate::table::table;
use crate::text::{bytes, count, print};

/// Of those a checkpoint can be had in, the ones people compare.
const FORMATS: [&str; 8] = ["bf16", "fp8", "int4", "mxfp4", "q8_0", "q5_k_m", "q4_k_m", "q2_k"];

/// What `--json` prints. Sizes are counts of values unless named otherwise.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    description: &'a str,
    aliases: &'a [String],
    parameters: u64,
    active_parameters: u64,
    layers: u32,
    max_positions: u32,
    kv_bytes_per_token: u64,
    published_in: String,
    /// Whether our engine has a forward pass for it.
    engine: bool,
    source: &'a str,
    date: &'a str,
}

impl<'a> Line<'a> {
    fn of(model: &'a PublishedModel) -> Line<'a> {
        let sizes = &model.architecture;
        Line {
            name: &sizes.name,
            description: &model.description,
            aliases: &model.aliases,
            parameters: sizes.parameters(),
            active_parameters: sizes.active_parameters(),
            layers: sizes.num_layers(),
            max_positions: sizes.max_positions,
            kv_bytes_per_token: 2 * sizes.kv_values_per_token(),
            published_in: sizes.stored.to_string(),
            engine: model.spec.is_some(),
            source: &model.source,
            date: &model.date,
        }
    }
}

pub fn list(args: &ListArgs) -> Result<Code, Failure> {
    let lines: Vec<Line> = catalogue::published_models().iter().map(Line::of).collect();
    if args.json {
        return print_json(&lines);
    }
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            vec![
                line.name.to_string(),
                count(line.parameters as f64),
                if line.active_parameters < line.parameters {
                    count(line.active_parameters as f64)
                } else {
                    String::new()
                },
                line.layers.to_string(),
                line.max_positions.to_string(),
                bytes(line.kv_bytes_per_token),
                line.published_in.clone(),
                if line.engine { "yes" } else { "" }.to_string(),
            ]
        })
        .collect();
    let heading = ["name", "parameters", "active", "layers", "positions", "KV/token", "published", "engine"];
    print(&table(&heading, &rows, &[1, 2, 3, 4, 5]))
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    line: Line<'a>,
    hidden_size: u32,
    vocab_size: u32,
    tied_embeddings: bool,
    blocks: Vec<String>,
    weight_bytes: Vec<FormatBytes>,
    api_prices: Vec<&'a ApiPrice>,
}

#[derive(Serialize)]
struct FormatBytes {
    format: &'static str,
    bytes: u64,
    bits_per_parameter: f64,
}

pub fn show(args: &ShowArgs) -> Result<Code, Failure> {
    let model = catalogue::published_model(&args.name).map_err(Failure::bad_input)?;
    let sizes = &model.architecture;
    let shown = Shown {
        line: Line::of(model),
        hidden_size: sizes.hidden_size,
        vocab_size: sizes.vocab_size,
        tied_embeddings: sizes.tied_embeddings,
        blocks: sizes.blocks.iter().map(|(count, block)| in_words(*count, block)).collect(),
        weight_bytes: formats(model)?,
        api_prices: catalogue::api_prices_of(&sizes.name).map_err(Failure::bad_input)?.collect(),
    };
    if args.json { print_json(&shown) } else { print(&text(&shown)) }
}

fn formats(model: &PublishedModel) -> Result<Vec<FormatBytes>, Failure> {
    let sizes = &model.architecture;
    let of = |format: &'static str| {
        let weights: Weights = format.parse().map_err(Failure::internal)?;
        let config = MemoryConfig { framework: Framework::Bare, weights, ..MemoryConfig::vllm("", 0) };
        let bytes = plan(sizes, &config, 0).map_err(Failure::internal)?.budget.weight_bytes;
        let bits_per_parameter = 8.0 * bytes as f64 / sizes.parameters() as f64;
        Ok(FormatBytes { format, bytes, bits_per_parameter })
    };
    ["published"].into_iter().chain(FORMATS).map(of).collect()
}

fn in_words(count: u32, block: &Block) -> String {
    let attention = match block.attention {
        Attention::Grouped { heads, kv_heads, head_dim, window } => {
            let window = match window {
                Some(Window::Sliding(tokens)) => format!(", window of {tokens} tokens"),
                Some(Window::Chunk(tokens)) => format!(", chunks of {tokens} tokens"),
                None => String::new(),
            };
            format!("{heads} heads and {kv_heads} KV heads of {head_dim}{window}")
        }
        Attention::Latent { heads, q_rank, kv_rank, rope_dim, nope_dim, v_dim } => {
            let queries = q_rank.map_or(String::new(), |rank| format!("queries through {rank}, "));
            format!(
                "{heads} heads of {nope_dim} + {rope_dim} and {v_dim}, {queries}keys and values through {kv_rank}"
            )
        }
    };
    let feed_forward = match block.feed_forward {
        FeedForward::Dense { width, gated } => {
            format!("MLP of {width}{}", if gated { ", gated" } else { "" })
        }
        FeedForward::Experts { experts, per_token, width, shared_width, .. } => {
            let shared = if shared_width > 0 { format!(", {shared_width} shared") } else { String::new() };
            format!("{per_token} of {experts} experts of {width}{shared}")
        }
    };
    format!("{count} x {attention}; {feed_forward}")
}

fn text(shown: &Shown) -> String {
    let line = &shown.line;
    let active = if line.active_parameters < line.parameters {
        format!(", {} for each token", count(line.active_parameters as f64))
    } else {
        String::new()
    };
    let mut text = format!("{}: {}\n", line.name, line.description);
    if !line.aliases.is_empty() {
        text += &format!("also {}\n", line.aliases.join(", "));
    }
    text += &format!("from {} ({})\n\n", line.source, line.date);
    text += &format!(
        "{} parameters ({}){active}, published in {}\n",
        line.parameters,
        count(line.parameters as f64),
        line.published_in
    );
    let tied = if shown.tied_embeddings { "one table for input and output" } else { "two tables" };
    text += &format!(
        "hidden size {}, vocabulary {} in {tied}, {} positions, {} of KV a token in 16 bits\n",
        shown.hidden_size,
        shown.vocab_size,
        line.max_positions,
        bytes(line.kv_bytes_per_token)
    );
    for block in &shown.blocks {
        text += &format!("  {block}\n");
    }
    text += if line.engine { "the engine runs it\n\n" } else { "the engine does not run it\n\n" };
    let rows = shown
        .weight_bytes
        .iter()
        .map(|of| vec![of.format.to_string(), bytes(of.bytes), format!("{:.2}", of.bits_per_parameter)]);
    text += &table(&["weights", "bytes", "bits a parameter"], &rows.collect::<Vec<_>>(), &[1, 2]);
    if !shown.api_prices.is_empty() {
        let rows = shown.api_prices.iter().map(|price| {
            let cached = price.cached_input_usd_per_million.map_or(String::new(), |usd| usd.to_string());
            let [input, output] = [price.input_usd_per_million, price.output_usd_per_million];
            vec![
                price.provider.clone(),
                price.sku.clone(),
                input.to_string(),
                output.to_string(),
                cached,
                price.date.clone(),
            ]
        });
        let heading = ["host", "name there", "$/M in", "$/M out", "$/M cached", "date"];
        text += &format!("\n{}", table(&heading, &rows.collect::<Vec<_>>(), &[2, 3, 4]));
    }
    text
}
