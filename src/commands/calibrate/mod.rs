//! `llmlab calibrate`: this machine's roofline, and what the engine takes on it.
//!
//! Reading order: this file (the roofline), [`engine`] (shaped steps through the executor, fitted), [`cells`] (which steps),
//! [`served`] (what a request pays around them).

mod cells;
mod engine;
mod served;

use crate::cli::CalibrateArgs;
use crate::exit::{Code, Failure};
use crate::host;

pub fn calibrate(args: CalibrateArgs) -> Result<Code, Failure> {
    let threads = args.threads.unwrap_or_else(host::default_threads);
    if threads == 0 || threads as usize > 4 * host::cores() {
        return Err(Failure::bad_input(format!(
            "--threads {threads}: accepted are 1 to {} (4 per core)",
            4 * host::cores()
        )));
    }
    if args.engine {
        return engine::calibrate(&args, threads);
    }
    let roofline = host::measure_roofline(threads);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&roofline).map_err(Failure::internal)?);
        return Ok(Code::Pass);
    }
    println!("{} with {threads} thread(s)", host::facts(None).cpu_model);
    println!("  read bandwidth   {:>8.1} GB/s", roofline.read_bandwidth_bytes_per_s / 1e9);
    println!("  f32              {:>8.0} GFLOP/s", roofline.f32_flops_per_s / 1e9);
    print_or_absent("bf16", roofline.bf16_flops_per_s, "GFLOP/s");
    print_or_absent("int8", roofline.int8_ops_per_s, "GOP/s");
    let ridge = roofline.f32_flops_per_s / roofline.read_bandwidth_bytes_per_s;
    println!(
        "  ridge point      {ridge:>8.1} FLOP/byte in f32: work below it is bound by memory, above it by compute"
    );
    println!("kept for later runs; reports compare each target with it");
    Ok(Code::Pass)
}

fn print_or_absent(name: &str, per_s: f64, unit: &str) {
    if per_s > 0.0 {
        println!("  {name:<16} {:>8.0} {unit}", per_s / 1e9);
    } else {
        println!("  {name:<16} {:>8} (no such instruction here)", "-");
    }
}
