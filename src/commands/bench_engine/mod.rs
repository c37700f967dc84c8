//! `llmlab bench-engine`: the executor alone, with the tests and columns of llama-bench and llama-batched-bench, each row
//! beside what this machine could do at that moment.
//!
//! Reading order: this file (the tests), [`drive`] (steps without a scheduler), [`work`] (operations), [`limits`] (probes),
//! [`row`] (figures), [`table`] (for people).

mod drive;
mod limits;
mod row;
mod table;
mod work;

use llmlab_kernels::Isa;
use llmlab_kernels::attention::KvFormat;
use llmlab_models::LoadedModel;
use llmlab_quant::{UnknownFormat, WeightRecipe};
use llmlab_runtime::{CpuExecutor, RuntimeConfig};

use crate::cli::BenchEngineArgs;
use crate::exit::{Code, Failure};
use crate::text::count;
use crate::weights::{self, Footprint};
use crate::{host, wire};
use drive::{BLOCK_SIZE, Driver};
use limits::Bandwidth;
use row::{Repetition, Row, Sizes, Subject};
use work::Operations;

/// Decode steps that are run and not counted before a test.
const WARMUP_STEPS: u32 = 4;

pub fn bench_engine(args: BenchEngineArgs) -> Result<Code, Failure> {
    let isa = Isa::requested().map_err(Failure::bad_input)?.unwrap_or_else(Isa::best);
    let threads = args.threads.unwrap_or_else(|| host::cores() as u32);
    check(&args, threads)?;
    let model = llmlab_models::load(&args.model, args.model_seed).map_err(Failure::bad_input)?;
    let configs = configs(&args, &model, threads)?;
    let cpu = host::facts(None).cpu_model;
    if !args.json {
        println!("{}: {} parameters", args.model, count(model.spec.parameters() as f64));
        println!("{cpu}, {isa}, {threads} thread(s), {} repetition(s) after a warm-up", args.repetitions);
    }
    let peaks = limits::peaks(threads as usize);
    let mut bandwidth = Bandwidth::new(threads as usize).map_err(Failure::internal)?;
    let mut rows = Vec::new();
    for (config, footprint) in configs {
        eprintln!("loading {} as {}", args.model, config.weights);
        let mut executor = CpuExecutor::new(&model, &config).map_err(Failure::bad_input)?;
        let label = weights::label(config.weights, &footprint);
        let (peak, peak_ops_per_s) = llmlab_metrics::roofline::peak(&peaks, Some(&label));
        let subject = Subject {
            model: args.model.clone(),
            family: model.spec.family.to_string(),
            parameters: model.spec.parameters(),
            weights: label,
            weight_bytes: executor.weight_bytes(),
            kv: config.kv.to_string(),
            kv_bytes_per_token: weights::kv_bytes_per_token(&model.spec, config.kv),
            cpu: cpu.clone(),
            isa: isa.to_string(),
            threads,
            peak: peak.into(),
            peak_ops_per_s,
        };
        let bench = Bench { args: &args, subject, model: &model };
        rows.extend(bench.run(&mut executor, &mut bandwidth)?);
    }
    if !args.json {
        println!("\n{}", table::legend(&rows));
    }
    Ok(Code::Pass)
}

/// One executor under test.
struct Bench<'a> {
    args: &'a BenchEngineArgs,
    subject: Subject,
    model: &'a LoadedModel,
}

impl Bench<'_> {
    fn run(&self, executor: &mut CpuExecutor, bandwidth: &mut Bandwidth) -> Result<Vec<Row>, Failure> {
        let args = self.args;
        let operations = Operations::of(&self.model.spec);
        let vocab = self.model.spec.vocab_size;
        let longest = longest_sequence(args);
        let mut driver = Driver::new(executor, &operations, bandwidth, vocab, args.step_tokens, longest);
        let mut rows = Vec::new();
        self.say(format_args!("\n{}", table::title(&self.subject)));
        let singles = [(args.pp, 0), (0, args.tg)].map(|(pp, tg)| Sizes { pp, tg, pl: 1 });
        let singles: Vec<Sizes> = singles.into_iter().filter(|sizes| sizes.pp + sizes.tg > 0).collect();
        if !singles.is_empty() {
            self.say(format_args!("{}", table::SINGLE_HEADER));
        }
        for sizes in singles {
            let test = if sizes.tg == 0 { format!("pp{}", sizes.pp) } else { format!("tg{}", sizes.tg) };
            let row = self.row(&mut driver, test, sizes)?;
            self.show(&row, table::single)?;
            rows.push(row);
        }
        let batches: Vec<u32> = args.batch.iter().copied().filter(|batch| *batch > 0).collect();
        if !batches.is_empty() {
            self.say(format_args!("\n{}", table::BATCH_HEADER));
        }
        for pl in batches {
            let sizes = Sizes { pp: args.prompt_tokens, tg: args.generate_tokens, pl };
            let row = self.row(&mut driver, "batch".into(), sizes)?;
            self.show(&row, table::batch)?;
            rows.push(row);
        }
        Ok(rows)
    }

    /// One warm-up that is not counted, then the repetitions.
    fn row(&self, driver: &mut Driver, test: String, sizes: Sizes) -> Result<Row, Failure> {
        let failed = |error: llmlab_core::executor::ExecutorError| Failure::internal(error);
        driver.reset(sizes.pl);
        driver.prefill(sizes.pp).map_err(failed)?;
        driver.decode(sizes.tg.min(WARMUP_STEPS)).map_err(failed)?;
        let mut repetitions = Vec::new();
        for _ in 0..self.args.repetitions {
            driver.reset(sizes.pl);
            let prompt = (sizes.pp > 0).then(|| driver.prefill(sizes.pp)).transpose().map_err(failed)?;
            let generation = (sizes.tg > 0).then(|| driver.decode(sizes.tg)).transpose().map_err(failed)?;
            repetitions.push(Repetition { prompt, generation });
        }
        Ok(Row::new(&self.subject, test, sizes, &repetitions))
    }

    fn say(&self, line: std::fmt::Arguments) {
        if !self.args.json {
            println!("{line}");
        }
    }

    /// As soon as it is measured: a whole run takes minutes.
    fn show(&self, row: &Row, human: fn(&Row) -> String) -> Result<(), Failure> {
        if self.args.json {
            println!("{}", serde_json::to_string(row).map_err(Failure::internal)?);
        } else {
            println!("{}", human(row));
        }
        Ok(())
    }
}

/// Positions a sequence reaches in any of the tests.
fn longest_sequence(args: &BenchEngineArgs) -> u32 {
    args.pp.max(args.tg).max(args.prompt_tokens + args.generate_tokens)
}

/// What clap cannot check, before anything is loaded.
fn check(args: &BenchEngineArgs, threads: u32) -> Result<(), Failure> {
    let most_threads = 4 * host::cores() as u32;
    let limits = [
        ("--threads", threads, 1, most_threads),
        ("--pp", args.pp, 0, 1 << 20),
        ("--tg", args.tg, 0, 1 << 20),
        ("--prompt-tokens", args.prompt_tokens, 1, 1 << 20),
        ("--generate-tokens", args.generate_tokens, 1, 1 << 20),
        ("--step-tokens", args.step_tokens, 1, 1 << 16),
        ("--repetitions", args.repetitions, 1, 1000),
    ];
    let batches = args.batch.iter().map(|batch| ("--batch", *batch, 0, 4096));
    for (flag, value, low, high) in limits.into_iter().chain(batches) {
        if !(low..=high).contains(&value) {
            return Err(Failure::bad_input(format!("{flag} {value}: accepted are {low} to {high}")));
        }
    }
    if args.pp == 0 && args.tg == 0 && args.batch.iter().all(|batch| *batch == 0) {
        return Err(Failure::bad_input("--pp 0 --tg 0 --batch 0 leaves no test to run"));
    }
    Ok(())
}

fn configs(
    args: &BenchEngineArgs,
    model: &LoadedModel,
    threads: u32,
) -> Result<Vec<(RuntimeConfig, Footprint)>, Failure> {
    let longest = longest_sequence(args);
    let positions = model.spec.max_position_embeddings;
    if longest > positions {
        return Err(Failure::bad_input(format!(
            "the tests need sequences of {longest} tokens, {} holds {positions}; lower --pp, --tg, --prompt-tokens or --generate-tokens",
            args.model
        )));
    }
    let widest = args.batch.iter().copied().max().unwrap_or(0).max(1);
    let blocks = u64::from(widest) * u64::from(longest.div_ceil(BLOCK_SIZE)) + 1;
    let num_blocks = u32::try_from(blocks)
        .map_err(|_| Failure::bad_input(format!("--batch {widest} of {longest} tokens is too large")))?;
    let recipes: Vec<WeightRecipe> = match args.weights.as_slice() {
        [] => vec![weights::default_recipe(model).map_err(Failure::bad_input)?],
        names => names
            .iter()
            .map(|name| {
                name.parse().map_err(|error: UnknownFormat| Failure::bad_input(format!("--weights: {error}")))
            })
            .collect::<Result<_, _>>()?,
    };
    let mut configs = Vec::new();
    for weights in recipes {
        for kv in &args.kv {
            let kv: KvFormat = kv.parse().map_err(|error| Failure::bad_input(format!("--kv: {error}")))?;
            let config = RuntimeConfig {
                weights,
                kv,
                threads: threads as usize,
                num_blocks,
                block_size: BLOCK_SIZE,
                max_model_len: longest,
            };
            let footprint = wire::fits_this_machine(model, &config).map_err(Failure::bad_input)?;
            configs.push((config, footprint));
        }
    }
    Ok(configs)
}
