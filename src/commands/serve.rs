//! `llmlab serve`: the reference engine as a server, in its own process.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;

use llmlab_core::scheduler::Scheduler;
use llmlab_models::ModelSpec;
use llmlab_models::lora::{LoraAdapter, MAX_RANK};
use llmlab_scenarios::spec::EngineSpec;

use crate::cli::ServeArgs;
use crate::exit::{Code, Failure};
use crate::parent::shutdown;
use crate::target::{CANDLE_THREADS, own_command};
use crate::{adapters, host, wire};

pub fn serve(args: ServeArgs) -> Result<Code, Failure> {
    let spec = engine_spec(&args)?;
    if spec.executor == "candle" {
        candle_threads(spec.threads.unwrap_or_else(host::default_threads))?;
    }
    let model = llmlab_models::load(&args.model, args.model_seed).map_err(Failure::bad_input)?;
    let resolved = wire::resolve_engine(&spec, &model, args.max_model_len).map_err(Failure::bad_input)?;
    let (lora_modules, adapters) = named_adapters(&args.lora_modules, &model.spec, args.model_seed)?;
    let executor = wire::build_executor(&spec, &model, &resolved, args.model_seed, &adapters)?;
    let scheduler = Scheduler::new(resolved.engine.clone()).map_err(Failure::bad_input)?;
    let api_key = api_key(&args)?;
    let config = llmlab_server::ServerConfig {
        addr: SocketAddr::new(args.host, args.port),
        lora_modules,
        served_model_name: args.served_model_name.clone().unwrap_or_else(|| args.model.clone()),
        api_key,
        max_queue: spec.max_queue as usize,
        max_model_len: resolved.engine.max_model_len,
        step_log: args.step_log.clone(),
        record: args.record.clone(),
        ..Default::default()
    };
    let info = Arc::new(wire::model_info(model)?);
    let describe = resolved.describe();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Failure::internal)?;
    let exit_with_parent = args.exit_with_parent;
    runtime
        .block_on(llmlab_server::serve(
            config,
            info,
            scheduler,
            executor,
            move |addr| {
                use std::io::Write;
                println!("listening on http://{addr}");
                println!("{describe}");
                let _ = std::io::stdout().flush();
            },
            shutdown(exit_with_parent),
        ))
        .map_err(Failure::target)?;
    Ok(Code::Pass)
}

/// Candle takes its number of threads from the environment, which a process cannot safely change for itself: this program
/// starts anew in its own place where the number there is another. Returns where it is not.
fn candle_threads(threads: u32) -> Result<(), Failure> {
    let threads = threads.to_string();
    if std::env::var(CANDLE_THREADS).is_ok_and(|set| set == threads) {
        return Ok(());
    }
    let error = own_command()?.args(std::env::args_os().skip(1)).env(CANDLE_THREADS, threads).exec();
    Err(Failure::internal(format!("cannot start with the threads that candle was given: {error}")))
}

/// Names and adapters from `NAME=FOLDER` and `NAME=synthetic:RANK`.
fn named_adapters(
    modules: &[String],
    spec: &ModelSpec,
    seed: u64,
) -> Result<(Vec<String>, Vec<LoraAdapter>), Failure> {
    let mut names = Vec::with_capacity(modules.len());
    let mut adapters = Vec::with_capacity(modules.len());
    for module in modules {
        let Some((name, folder)) = module.split_once('=') else {
            let message = format!("--lora-modules {module}: expected NAME=FOLDER or NAME=synthetic:RANK");
            return Err(Failure::bad_input(message));
        };
        names.push(name.to_string());
        adapters.push(match folder.strip_prefix(adapters::SYNTHETIC) {
            None => LoraAdapter::open(Path::new(folder), spec).map_err(Failure::bad_input)?,
            Some(rank) => match rank.parse() {
                Ok(rank) if (1..=MAX_RANK).contains(&rank) => LoraAdapter::synthetic(spec, name, rank, seed),
                _ => {
                    return Err(Failure::bad_input(format!(
                        "--lora-modules {module}: the rank must be from 1 to {MAX_RANK}"
                    )));
                }
            },
        });
    }
    Ok((names, adapters))
}

/// The engine as flags or as JSON from a parent.
fn engine_spec(args: &ServeArgs) -> Result<EngineSpec, Failure> {
    if let Some(json) = &args.engine_json {
        return serde_json::from_str(json)
            .map_err(|error| Failure::bad_input(format!("--engine-json: {error}")));
    }
    let mut knobs = args.knobs.clone();
    // The short flags are knobs too; one given both ways is the user's mistake and reported as a duplicate key.
    knobs.extend(args.weights.as_ref().map(|weights| format!("weights={weights}")));
    knobs.extend(args.kv.as_ref().map(|kv| format!("kv={kv}")));
    knobs.extend(args.threads.map(|threads| format!("threads={threads}")));
    llmlab_scenarios::engine_from_knobs(&args.policy, &knobs).map_err(Failure::usage)
}

fn api_key(args: &ServeArgs) -> Result<Option<String>, Failure> {
    let Some(variable) = &args.api_key_env else { return Ok(args.api_key.clone()) };
    match std::env::var(variable) {
        Ok(key) if !key.is_empty() => Ok(Some(key)),
        _ => {
            Err(Failure::bad_input(format!("--api-key-env {variable}: that environment variable is not set")))
        }
    }
}
