//! Shaped steps through the real executor, and the prices that tell their times.

use llmlab_core::executor::{Executor, ExecutorError};
use llmlab_kernels::attention::KvFormat;
use llmlab_models::LoadedModel;
use llmlab_quant::{UnknownFormat, WeightRecipe};
use llmlab_runtime::{CpuExecutor, RuntimeConfig};
use llmlab_sim::fit::{AttentionShape, Fitted, Measured, terms};

use super::cells::{BLOCK_SIZE, Cell, cells};
use super::served;
use crate::calibration::EngineCalibration;
use crate::cli::CalibrateArgs;
use crate::exit::{Code, Failure};
use crate::{host, interrupt, weights, wire};

/// The KV pool of a calibration at most.
const POOL_BYTES: u64 = 1 << 30;
/// A step that takes longer is not repeated, and none with more rows is tried.
const LONG_STEP_S: f64 = 2.0;
/// Steps of one cell in a row; the first warms the caches for its shape and does not count.
const IN_A_ROW: usize = 3;
/// Contexts beyond this tell nothing new about a CPU.
const LONGEST: u32 = 4096;

pub fn calibrate(args: &CalibrateArgs, threads: u32) -> Result<Code, Failure> {
    let source = args.model.as_deref().unwrap_or_default();
    if !(1..=1000).contains(&args.rounds) {
        return Err(Failure::bad_input(format!("--rounds {}: accepted are 1 to 1000", args.rounds)));
    }
    interrupt::once();
    let model = llmlab_models::load(source, args.model_seed).map_err(Failure::bad_input)?;
    let config = config(args, &model, threads)?;
    let measured = time_steps(&model, &config, args.rounds)?;
    let fitted = Fitted::fit(AttentionShape::of(&model.spec), &measured).map_err(|error| {
        Failure::bad_input(format!("{source} is too small or its context too short: {error}"))
    })?;
    let residuals = fitted.residuals(&measured);
    eprintln!("timing the server with it");
    let served = served::measure(source, args.model_seed, &config, &fitted)?;
    let calibration = EngineCalibration {
        schema_version: EngineCalibration::VERSION,
        model: source.to_string(),
        parameters: model.spec.parameters(),
        weights: config.weights.to_string(),
        kv: config.kv.to_string(),
        threads,
        cpu: host::facts(None).cpu_model,
        measured_at: host::rfc3339(host::utc_now()),
        fitted: fitted.served(served.stretch, served.planning_s),
        residuals,
        overhead: served.overhead,
    };
    let path = calibration.save()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&calibration).map_err(Failure::internal)?);
        return Ok(Code::Pass);
    }
    show(&calibration);
    println!("kept in {}; llmlab simulate uses it for hardware \"this-host\"", path.display());
    Ok(Code::Pass)
}

fn config(args: &CalibrateArgs, model: &LoadedModel, threads: u32) -> Result<RuntimeConfig, Failure> {
    let weights: WeightRecipe = match &args.weights {
        Some(name) => {
            name.parse().map_err(|error: UnknownFormat| Failure::bad_input(format!("--weights: {error}")))?
        }
        None => weights::default_recipe(model).map_err(Failure::bad_input)?,
    };
    let kv: KvFormat = args.kv.parse().map_err(|error| Failure::bad_input(format!("--kv: {error}")))?;
    let block_bytes = weights::kv_bytes_per_token(&model.spec, kv) * u64::from(BLOCK_SIZE);
    let longest = model.spec.max_position_embeddings.min(LONGEST);
    // As many as the largest cell needs, if memory has them.
    let wanted = cells(longest, u64::MAX).iter().map(Cell::blocks).max().unwrap_or(0) + 1;
    let num_blocks = wanted.min(POOL_BYTES / block_bytes.max(1)).max(2) as u32;
    let config = RuntimeConfig {
        weights,
        kv,
        threads: threads as usize,
        num_blocks,
        block_size: BLOCK_SIZE,
        max_model_len: longest,
    };
    wire::fits_this_machine(model, &config).map_err(Failure::bad_input)?;
    Ok(config)
}

/// The median time of each cell. Rounds go over all cells, so that a machine that drifts drifts for all.
fn time_steps(model: &LoadedModel, config: &RuntimeConfig, rounds: u32) -> Result<Vec<Measured>, Failure> {
    let failed = |error: ExecutorError| Failure::internal(error);
    let mut executor = CpuExecutor::new(model, config).map_err(Failure::bad_input)?;
    let vocab = model.spec.vocab_size;
    let mut samples: Vec<(Cell, Vec<f64>)> = Vec::new();
    let mut long = false;
    for cell in cells(config.max_model_len, u64::from(config.num_blocks)) {
        if long {
            break;
        }
        let first = time(&mut executor, &cell, vocab, 1).map_err(failed)?;
        long = first[0] > LONG_STEP_S;
        samples.push((cell, if long { first } else { Vec::new() }));
    }
    eprintln!("timing {} shaped steps in {rounds} rounds", samples.len());
    for _ in 0..rounds {
        for (cell, seconds) in samples.iter_mut() {
            if seconds.first().is_none_or(|first| *first <= LONG_STEP_S) {
                seconds
                    .extend(time(&mut executor, cell, vocab, IN_A_ROW).map_err(failed)?.into_iter().skip(1));
            }
        }
    }
    Ok(samples
        .into_iter()
        .map(|(cell, seconds)| Measured {
            name: cell.name,
            seqs: cell.seqs,
            seconds: served::median(seconds),
        })
        .collect())
}

fn time(
    executor: &mut CpuExecutor,
    cell: &Cell,
    vocab_size: u32,
    times: usize,
) -> Result<Vec<f64>, ExecutorError> {
    let plan = cell.plan(1, vocab_size);
    (0..times).map(|_| Ok(executor.execute(&plan)?.elapsed.as_secs_f64())).collect()
}

fn show(calibration: &EngineCalibration) {
    let EngineCalibration { fitted, residuals, overhead, .. } = calibration;
    println!(
        "{}, {} weights, {} KV, {} thread(s) on {}",
        calibration.model, calibration.weights, calibration.kv, calibration.threads, calibration.cpu
    );
    println!(
        "  {} shaped steps told within {:.1} % (median), {:.1} % (p95); worst {:.1} % at {}",
        residuals.cells,
        residuals.median * 100.0,
        residuals.p95 * 100.0,
        residuals.worst * 100.0,
        residuals.worst_cell
    );
    for (name, price) in terms::NAMES.iter().zip(&fitted.prices) {
        println!("  {name:<26} {:>10.3} us", price * 1e6);
    }
    println!("  {:<26} {:>10.3} x as long as alone", "served, a step takes", fitted.stretch);
    for (name, seconds) in [
        ("  and for planning", fitted.planning_s),
        ("request, before its queue", overhead.request_s),
        ("  for each prompt token", overhead.prompt_token_s),
        ("between steps", overhead.step_s),
        ("  for each token of one", overhead.step_token_s),
        ("token, to its client", overhead.delivery_s),
    ] {
        println!("  {name:<26} {:>10.3} us", seconds * 1e6);
    }
}
