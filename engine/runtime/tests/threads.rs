//! A system that has no thread left to give. Alone in its binary: it runs itself again under such a limit.

mod common;

use std::process::Command;

use common::{config, tiny_spec, tiny_weights};
use llmlab_kernels::KernelError;
use llmlab_kernels::attention::KvFormat;
use llmlab_quant::WeightFormat;
use llmlab_runtime::{CandleExecutor, CpuExecutor, RuntimeError};

const LIMITED: &str = "LLMLAB_TEST_NO_THREADS";

#[test]
fn a_refused_thread_is_an_error_of_both_executors() {
    if std::env::var_os(LIMITED).is_none() {
        // A stack larger than the address space: every thread is refused, without using up those of the machine.
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_refused_thread_is_an_error_of_both_executors", "--test-threads=1"])
            .env(LIMITED, "1")
            .env("RUST_MIN_STACK", (1u64 << 60).to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
        return;
    }
    let spec = tiny_spec();
    let weights = tiny_weights(&spec);
    let config = config(WeightFormat::F32, KvFormat::F32, 2, 4, 16);
    let cpu = CpuExecutor::from_weights(&spec, &weights, &config).err();
    let candle = CandleExecutor::from_weights(&spec, &weights, &config).err();
    for error in [cpu, candle] {
        let refused = RuntimeError::Threads(KernelError::ThreadRefused {
            thread: 2,
            threads: 2,
            reason: String::new(),
        });
        let shown = error.unwrap().to_string();
        assert!(shown.starts_with(&refused.to_string()), "{shown}");
    }
}
