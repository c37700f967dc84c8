//! `llmlab roofline`: a step of a model on a device, operation by operation.

use std::fs;

use llmlab_models::architecture::{Architecture, FeedForward};
use llmlab_models::catalogue;
use llmlab_models::memory::Weights;
use llmlab_planner::explain::Explanation;
use llmlab_planner::validate::names;
use llmlab_planner::{Deployment, formats};
use llmlab_sim::cost_model::calibration::DEFAULT_RUNTIME;
use llmlab_sim::cost_model::{Calibration, Efficiency, Sharding};
use llmlab_sim::{Device, Roofline, SeqShape};

use crate::cli::RooflineArgs;
use crate::exit::{Code, Failure};
use crate::text;

/// Each device has a head, a layer and an expert at least.
fn sharding(args: &RooflineArgs, model: &Architecture) -> Result<Sharding, Failure> {
    let name = &model.name;
    let attention = model.blocks.iter().map(|(_, block)| block.attention.heads());
    let heads = attention.min().unwrap_or(1);
    let experts = model.blocks.iter().filter_map(|(_, block)| match block.feed_forward {
        FeedForward::Experts { experts, .. } => Some(experts),
        FeedForward::Dense { .. } => None,
    });
    let experts = experts.min().unwrap_or(1);
    if args.tp <= heads && heads % args.tp != 0 {
        return Err(Failure::bad_input(format!(
            "--tp {}: it does not divide the {heads} heads of {name}",
            args.tp
        )));
    }
    let limits = [
        ("--tp", args.tp, heads, "heads"),
        ("--pp", args.pp, model.num_layers(), "layers"),
        ("--ep", args.ep, experts, "experts"),
    ];
    for (key, asked, most, what) in limits {
        if asked > most {
            let has =
                if what == "experts" && most == 1 { "no experts".into() } else { format!("{most} {what}") };
            return Err(Failure::bad_input(format!(
                "{key} {asked}: {name} has {has}; accepted are 1 to {most}"
            )));
        }
    }
    Ok(Sharding { tensor: args.tp, pipeline: args.pp, expert: args.ep })
}

pub fn roofline(args: RooflineArgs) -> Result<Code, Failure> {
    let model = catalogue::architecture(&args.model).map_err(Failure::bad_input)?;
    let hardware = catalogue::hardware(&args.hardware).map_err(Failure::bad_input)?;
    let mut device = Device::from_catalogue(hardware).map_err(Failure::bad_input)?;
    if let Some(network) = args.network {
        device.network_bytes_per_s = 1e9 * network;
    }
    let format: Weights =
        args.weights.parse().map_err(|error| Failure::bad_input(format!("--weights: {error}")))?;
    let weights = formats::weights(format, model).map_err(Failure::bad_input)?;
    let format = format.of(model);
    if args.runtime.starts_with(DEFAULT_RUNTIME) {
        hardware.multiplies(format).map_err(|error| Failure::bad_input(format!("--weights: {error}")))?;
    }
    let kv_value_bytes = names::kv_value_bytes(&args.kv).ok_or_else(|| {
        Failure::bad_input(format!("--kv: {:.40?} is not known; accepted are bf16, f16, fp8, int8", args.kv))
    })?;
    let sharding = sharding(&args, model)?;
    let calibration = Calibration::shipped();
    if !calibration.runtime.contains_key(&args.runtime) {
        let known: Vec<&str> = calibration.runtime.keys().map(String::as_str).collect();
        return Err(Failure::bad_input(format!(
            "--runtime: {:.40?} is not known; accepted are {}",
            args.runtime,
            known.join(", ")
        )));
    }
    let provenance = calibration.provenance(&device, &args.runtime);
    let deployment = Deployment {
        model,
        device: device.clone(),
        weights,
        kv_value_bytes,
        sharding,
        runtime: args.runtime.clone(),
    };
    let cost = if args.ideal {
        Roofline::with_efficiency(deployment.layers(), device, Efficiency::IDEAL)
    } else {
        deployment.roofline(calibration)
    };
    let one = SeqShape { context: args.context, new: 1, padding: 0, sample: true, drafts: 0 };
    let (shapes, words) = match args.prefill {
        Some(tokens) => {
            (vec![SeqShape { context: 0, new: tokens, ..one }], format!("a prompt of {tokens} tokens"))
        }
        None => (
            vec![one; args.batch as usize],
            format!("{} sequence(s) decode after {} tokens", args.batch, args.context),
        ),
    };
    let words = format!("{words}, {format} weights, {} device(s)", sharding.devices());
    let taken = cost.step(&shapes);
    let explanation = Explanation::of(&model.name, words, &cost, &taken, provenance);
    if let Some(path) = &args.svg {
        let svg = explanation.svg().map_err(Failure::internal)?;
        fs::write(path, svg).map_err(|error| Failure::bad_input(format!("{}: {error}", path.display())))?;
    }
    if args.json {
        let json = serde_json::to_string_pretty(&explanation).map_err(Failure::internal)?;
        return text::print(&format!("{json}\n"));
    }
    text::print(&explanation.text())
}
