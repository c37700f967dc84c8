//! `llmlab roofline` through the binary: what crosses nodes has lines of its own, and more devices than there is to divide is
//! one plain error.

mod common;

use common::{llmlab, stderr, stdout};

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let output = llmlab(dir.path())
        .arg("roofline")
        .args(args)
        .env("XDG_CONFIG_HOME", dir.path().join("no-config"))
        .output()
        .unwrap();
    (output.status.code(), stdout(&output), stderr(&output))
}

#[test]
fn exchanges_say_which_way_they_take() {
    let (code, said, error) =
        run(&["llama-3.1-405b", "--hardware", "h100-sxm", "--tp", "16", "--pp", "2", "--network", "25"]);
    assert_eq!(code, Some(0), "{error}");
    for part in [
        "all-reduce, nodes",
        "transfer, nodes",
        "link",
        "network",
        "scale-up 450 GB/s between the 8 devices of a node, network 25.0 GB/s a device between nodes",
    ] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    let (_, said, _) = run(&["llama-3.1-8b", "--hardware", "l40s", "--tp", "2"]);
    assert!(said.contains("pcie 32 GB/s") && !said.contains("nodes "), "{said}");
    let (_, said, _) = run(&["llama-3.1-8b", "--hardware", "h100-sxm"]);
    assert!(!said.contains("GB/s between"), "{said}");
}

#[test]
fn more_devices_than_there_is_to_divide_is_an_error() {
    for (args, words) in [
        (["deepseek-v3", "--ep", "257"], "--ep 257: deepseek-v3 has 256 experts; accepted are 1 to 256"),
        (["llama-3.1-8b", "--ep", "2"], "--ep 2: llama-3.1-8b has no experts; accepted are 1 to 1"),
        (["llama-3.1-8b", "--pp", "33"], "--pp 33: llama-3.1-8b has 32 layers; accepted are 1 to 32"),
        (["llama-3.1-8b", "--tp", "3"], "--tp 3: it does not divide the 32 heads of llama-3.1-8b"),
        (["llama-3.1-8b", "--tp", "33"], "--tp 33: llama-3.1-8b has 32 heads; accepted are 1 to 32"),
    ] {
        let (code, _, error) = run(&[&args[..], &["--hardware", "h100-sxm"]].concat());
        assert_eq!(code, Some(2), "{args:?}: {error}");
        assert!(error.contains(words), "{error}");
    }
    let (code, _, error) = run(&["llama-3.1-8b", "--hardware", "h100-sxm", "--network", "0"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("0.01 to 10000"), "{error}");
}

/// vLLM expands 8-bit floats on an A100 and has no kernel for them on a V100.
#[test]
fn weights_without_a_kernel_are_refused() {
    let (code, _, error) = run(&["llama-3.1-8b", "--hardware", "a100", "--weights", "fp8"]);
    assert_eq!(code, Some(0), "{error}");
    let published = ["qwen/qwen3-8b-fp8", "--hardware", "v100", "--weights", "published"];
    let (code, _, error) = run(&published);
    assert_eq!(code, Some(2));
    assert!(error.contains("--weights: v100-sxm2-32gb has no kernel for fp8 weights"), "{error}");
    let (code, _, error) = run(&["gpt-oss-20b", "--hardware", "mi250x", "--weights", "published"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("mi250x has no kernel for mxfp4 weights"), "{error}");
    let other = ["gpt-oss-20b", "--hardware", "apple-m3-max-40", "--weights", "published"];
    let (code, _, error) = run(&[&other[..], &["--runtime", "llama.cpp"]].concat());
    assert_eq!(code, Some(0), "the kernels are those of vLLM: {error}");
}
