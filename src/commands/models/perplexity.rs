//! `llmlab models perplexity`: how well a model predicts a text, with the convention of llama.cpp's `llama-perplexity`.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::time::{Duration, Instant};

use llmlab_kernels::Isa;
use llmlab_kernels::attention::KvFormat;
use llmlab_models::{LoadedModel, Tokenizer};
use llmlab_quant::{UnknownFormat, WeightRecipe};
use llmlab_runtime::perplexity::{
    Divergence, LogProbabilitiesReader, LogProbabilitiesWriter, Moments, PerplexityError, Scorer, Windows,
};
use llmlab_runtime::{CpuExecutor, RuntimeConfig};
use serde::Serialize;

use super::output::Output;
use crate::cli::PerplexityArgs;
use crate::exit::{Code, Failure};
use crate::text::{bytes, print};
use crate::{host, weights, wire};

/// Tokens per KV block.
const BLOCK_SIZE: u32 = 16;
/// A line of progress is worth writing after this.
const QUIET_FOR: Duration = Duration::from_secs(10);

type Base = LogProbabilitiesReader<BufReader<File>>;

pub fn perplexity(args: PerplexityArgs) -> Result<Code, Failure> {
    let isa = Isa::requested().map_err(Failure::bad_input)?.unwrap_or_else(Isa::best);
    let threads = args.threads.unwrap_or_else(|| host::cores() as u32);
    let most_threads = 4 * host::cores() as u32;
    if !(1..=most_threads).contains(&threads) {
        return Err(Failure::bad_input(format!("--threads {threads}: accepted are 1 to {most_threads}")));
    }
    if args.chunks == Some(0) {
        return Err(Failure::bad_input("--chunks 0 leaves nothing to score"));
    }
    let output = args.save_logits.as_deref().map(new_file).transpose()?;
    let model = llmlab_models::load(&args.model, args.model_seed).map_err(Failure::bad_input)?;
    let base = args.kl_base.as_deref().map(|path| open_base(path, &model)).transpose()?;
    let text = Text::read(&args, &model.tokenizer, base.as_ref())?;
    let mut windows = Windows::new(&text.tokens, text.begin, text.context as usize).map_err(bad_input)?;
    if let Some(chunks) = args.chunks {
        windows = windows.take(chunks as usize);
    }
    let (config, label) = config(&args, &model, text.context, threads)?;
    let mut executor = CpuExecutor::new(&model, &config).map_err(Failure::bad_input)?;
    let mut report = Report {
        model: args.model.clone(),
        family: model.spec.family.to_string(),
        weights: label,
        weight_bytes: executor.weight_bytes(),
        kv: config.kv.to_string(),
        isa: isa.to_string(),
        threads,
        text: text.name.clone(),
        text_tokens: text.tokens.len(),
        begin_token: text.begin,
        context: text.context,
        windows: windows.count(),
        ..Report::default()
    };
    let scorer = Scorer::new(&mut executor, windows.clone(), BLOCK_SIZE, model.spec.vocab_size);
    let mut run = Run {
        scorer: scorer.map_err(bad_input)?,
        windows,
        base,
        nll: Moments::default(),
        divergence: args.kl_base.is_some().then(Divergence::default),
    };
    let writer = output.as_ref().map(|output| run.save_to(output.partial(), model.spec.vocab_size));
    run.all(&mut report, writer.transpose()?)?;
    if let Some(output) = output {
        output.keep()?;
    }
    run.fill(&mut report, args.kl_base.as_deref());
    if args.json {
        return print(&(serde_json::to_string(&report).map_err(Failure::internal)? + "\n"));
    }
    print(&in_words(&report))
}

/// What is wrong with the text, the base or the model is for the caller to change; a step that fails is not.
fn bad_input(error: PerplexityError) -> Failure {
    match error {
        PerplexityError::Executor(error) => Failure::internal(error),
        error => Failure::bad_input(error),
    }
}

fn new_file(path: &Path) -> Result<Output, Failure> {
    if path.symlink_metadata().is_ok() {
        return Err(Failure::bad_input(format!("{} exists already; name another file", path.display())));
    }
    Output::new(path, false)
}

fn open_base(path: &Path, model: &LoadedModel) -> Result<Base, Failure> {
    let failed =
        |problem: &dyn std::fmt::Display| Failure::bad_input(format!("{}: {problem}", path.display()));
    let file = File::open(path).map_err(|error| failed(&error))?;
    let base = LogProbabilitiesReader::new(BufReader::new(file)).map_err(|error| failed(&error))?;
    let (theirs, ours) = (base.header().vocab, model.spec.vocab_size);
    if theirs != ours {
        return Err(failed(&format!("its vocabulary has {theirs} tokens, that of {} {ours}", model.source)));
    }
    Ok(base)
}

/// What is scored: a file cut into tokens, or the tokens of the base.
struct Text {
    name: String,
    tokens: Vec<u32>,
    begin: Option<u32>,
    context: u32,
}

impl Text {
    fn read(args: &PerplexityArgs, tokenizer: &Tokenizer, base: Option<&Base>) -> Result<Text, Failure> {
        let begin = begin_token(tokenizer)?;
        let (name, tokens, context) = match (base, &args.text) {
            (Some(base), _) => {
                let name = args.kl_base.as_ref().map(|path| path.display().to_string());
                (name.unwrap_or_default(), base.header().tokens.clone(), base.header().context)
            }
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| Failure::bad_input(format!("--text {}: {error}", path.display())))?;
                // As llama.cpp reads files.
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let tokens = tokenizer.try_encode(text, false).map_err(Failure::bad_input)?;
                (path.display().to_string(), begin.into_iter().chain(tokens).collect(), args.context)
            }
            (None, None) => return Err(Failure::bad_input("--text FILE is missing")),
        };
        Ok(Text { name, tokens, begin, context })
    }
}

/// The token that the tokenizer puts in front of every text, where it does.
fn begin_token(tokenizer: &Tokenizer) -> Result<Option<u32>, Failure> {
    let encode = |special| tokenizer.try_encode("a", special).map_err(Failure::bad_input);
    let (bare, whole) = (encode(false)?, encode(true)?);
    let before = (0..=whole.len()).find(|at| whole[*at..].starts_with(&bare)).unwrap_or(0);
    match whole[..before] {
        [] => Ok(None),
        [begin] => Ok(Some(begin)),
        ref several => {
            Err(Failure::bad_input(format!("the tokenizer starts a text with {} tokens", several.len())))
        }
    }
}

fn config(
    args: &PerplexityArgs,
    model: &LoadedModel,
    context: u32,
    threads: u32,
) -> Result<(RuntimeConfig, String), Failure> {
    let positions = model.spec.max_position_embeddings;
    if context > positions {
        return Err(Failure::bad_input(format!(
            "a context of {context} tokens: {} was made for {positions}",
            args.model
        )));
    }
    let recipe: WeightRecipe = match &args.weights {
        None => weights::default_recipe(model).map_err(Failure::bad_input)?,
        Some(name) => {
            name.parse().map_err(|error: UnknownFormat| Failure::bad_input(format!("--weights: {error}")))?
        }
    };
    let kv: KvFormat = args.kv.parse().map_err(|error| Failure::bad_input(format!("--kv: {error}")))?;
    let config = RuntimeConfig {
        weights: recipe,
        kv,
        threads: threads as usize,
        num_blocks: context.div_ceil(BLOCK_SIZE) + 1,
        block_size: BLOCK_SIZE,
        max_model_len: context,
    };
    let footprint = wire::fits_this_machine(model, &config).map_err(Failure::bad_input)?;
    Ok((config, weights::label(recipe, &footprint)))
}

type Writer = LogProbabilitiesWriter<BufWriter<File>>;

struct Run<'a> {
    scorer: Scorer<'a>,
    windows: Windows<'a>,
    base: Option<Base>,
    nll: Moments,
    divergence: Option<Divergence>,
}

impl Run<'_> {
    fn save_to(&mut self, path: &Path, vocab: u32) -> Result<Writer, Failure> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::internal(format!("{}: {error}", path.display()));
        let file = File::create(path).map_err(|error| failed(&error))?;
        self.scorer.keep_log_probabilities();
        LogProbabilitiesWriter::new(BufWriter::new(file), &self.windows, vocab)
            .map_err(|error| failed(&error))
    }

    #[allow(clippy::disallowed_methods, reason = "says how long the scoring took")]
    fn all(&mut self, report: &mut Report, mut save: Option<Writer>) -> Result<(), Failure> {
        let start = Instant::now();
        let mut said = start;
        for index in 0..self.windows.count() {
            self.one(index, save.as_mut())?;
            if said.elapsed() > QUIET_FOR {
                said = Instant::now();
                let (done, of) = (index + 1, self.windows.count());
                eprintln!("{done} of {of} windows: perplexity {:.4}", self.nll.mean().exp());
            }
        }
        report.seconds = start.elapsed().as_secs_f64();
        let computed = self.windows.count() * (self.windows.context() - 1);
        report.tokens_per_s = computed as f64 / report.seconds.max(1e-9);
        match save {
            Some(writer) => writer.finish().map(drop).map_err(Failure::internal),
            None => Ok(()),
        }
    }

    fn one(&mut self, index: usize, save: Option<&mut Writer>) -> Result<(), Failure> {
        let base = match &mut self.base {
            Some(base) => Some(base.read(self.windows.scored()).map_err(bad_input)?),
            None => None,
        };
        let window = self.scorer.score(index, base.as_deref()).map_err(bad_input)?;
        for row in &window.rows {
            self.nll.add(row.nll);
            if let (Some(all), Some(row_divergence)) = (&mut self.divergence, &row.divergence) {
                all.add(row_divergence, row.nll);
            }
        }
        if let Some(writer) = save {
            let positions = window.rows.iter().filter_map(|row| row.log_probabilities.as_ref());
            writer.write(positions).map_err(Failure::internal)?;
        }
        Ok(())
    }

    fn fill(&self, report: &mut Report, base: Option<&Path>) {
        report.scored_tokens = self.nll.count();
        report.nll = self.nll.mean();
        report.perplexity = self.nll.mean().exp();
        report.perplexity_stderr = report.perplexity * self.nll.standard_error();
        report.divergence = self.divergence.as_ref().map(|all| DivergenceReport {
            base: base.map(|path| path.display().to_string()).unwrap_or_default(),
            base_perplexity: all.base_nll().mean().exp(),
            ln_perplexity_ratio: all.nll_change().mean(),
            ln_perplexity_ratio_stderr: all.nll_change().standard_error(),
            nll_change_rms: all.nll_change().rms(),
            kl_mean: all.kl().mean(),
            kl_stderr: all.kl().standard_error(),
            kl_median: all.kl_quantile(0.5),
            kl_p99: all.kl_quantile(0.99),
            kl_max: all.kl_quantile(1.0),
            probability_change_mean: all.probability_change().mean(),
            probability_change_rms: all.probability_change().rms(),
            same_top: all.same_top().mean(),
            same_top_stderr: all.same_top().standard_error(),
        });
    }
}

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Report {
    model: String,
    family: String,
    weights: String,
    weight_bytes: u64,
    kv: String,
    isa: String,
    threads: u32,
    text: String,
    text_tokens: usize,
    begin_token: Option<u32>,
    context: u32,
    windows: usize,
    scored_tokens: u64,
    /// Mean negative log likelihood, in nats.
    nll: f64,
    perplexity: f64,
    perplexity_stderr: f64,
    seconds: f64,
    tokens_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    divergence: Option<DivergenceReport>,
}

#[derive(Debug, Serialize)]
struct DivergenceReport {
    base: String,
    base_perplexity: f64,
    ln_perplexity_ratio: f64,
    ln_perplexity_ratio_stderr: f64,
    nll_change_rms: f64,
    kl_mean: f64,
    kl_stderr: f64,
    kl_median: f32,
    kl_p99: f32,
    kl_max: f32,
    probability_change_mean: f64,
    probability_change_rms: f64,
    same_top: f64,
    same_top_stderr: f64,
}

fn in_words(report: &Report) -> String {
    let r = report;
    let begin = r.begin_token.map_or_else(String::new, |token| format!(", each from token {token} on"));
    let mut out = format!(
        "{}: {} weights ({}), {} KV, {}, {} thread(s)\n\
         {}: {} tokens, {} windows of {}{begin}; the second half of each is scored\n\
         perplexity     {:.4} ± {:.4}  ({} tokens scored, {:.1} tok/s)\n",
        r.model,
        r.weights,
        bytes(r.weight_bytes),
        r.kv,
        r.isa,
        r.threads,
        r.text,
        r.text_tokens,
        r.windows,
        r.context,
        r.perplexity,
        r.perplexity_stderr,
        r.scored_tokens,
        r.tokens_per_s
    );
    if let Some(d) = &r.divergence {
        out.push_str(&format!(
            "base           {:.4}, ln of the ratio {:+.6} ± {:.6}\n\
             KL divergence  {:.6} ± {:.6}, median {:.6}, 99 % {:.6}, largest {:.6}\n\
             same top       {:.3} ± {:.3} %, probability of the text's tokens {:+.3} %, rms {:.3} %\n",
            d.base_perplexity,
            d.ln_perplexity_ratio,
            d.ln_perplexity_ratio_stderr,
            d.kl_mean,
            d.kl_stderr,
            d.kl_median,
            d.kl_p99,
            d.kl_max,
            100.0 * d.same_top,
            100.0 * d.same_top_stderr,
            100.0 * d.probability_change_mean,
            100.0 * d.probability_change_rms
        ));
    }
    out
}
