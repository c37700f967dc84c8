//! `llmlab plan` through the binary: an answer that adds up, refusals that say what would help, devices, and Ctrl-C.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;

use common::{llmlab, signal, stderr, stdout};
use serde_json::Value;

/// A plan small enough for a test: one device, one format, two requests a second.
const PLAN: [&str; 14] = [
    "plan",
    "--model",
    "llama-3.1-8b",
    "--rate",
    "2",
    "--max-model-len",
    "8192",
    "--ttft-p95",
    "1s",
    "--tpot-p95",
    "50ms",
    "--weights",
    "bf16",
    "--hardware=h100-sxm",
];

fn run(dir: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = llmlab(dir).args(args).env("XDG_CONFIG_HOME", dir.join("no-config")).output().unwrap();
    (output.status.code(), stdout(&output), stderr(&output))
}

/// The plan with options in place of its own.
fn changed(changes: &[(&'static str, &'static str)]) -> Vec<&'static str> {
    let mut args = PLAN.to_vec();
    for (option, value) in changes {
        match args.iter().position(|arg| arg == option || arg.starts_with(&format!("{option}="))) {
            Some(at) if args[at] == *option => args[at + 1] = value,
            Some(at) => {
                args[at] = option;
                args.insert(at + 1, value);
            }
            None => args.extend([option, value]),
        }
    }
    args
}

fn f64_of(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn an_answer_adds_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = changed(&[("--rate", "60"), ("--pricing", "on-demand,spot")]);
    args.extend(["--json", "--what-if", "traffic=0.5x"]);
    let (code, said, error) = run(dir.path(), &args);
    assert_eq!(code, Some(0), "{error}");
    let plan: Value = serde_json::from_str(&said).unwrap();
    let rows = plan["rows"].as_array().unwrap();
    // One, two, four and eight devices a replica, and two ways of paying.
    assert_eq!(rows.len(), 8, "{said}");
    for row in rows {
        let capacity = f64_of(&row["sized"]["capacity"]["best"]["rate_rps"]);
        let check = &row["cluster"];
        let added = if check.is_null() { 0.0 } else { f64_of(&check["added"]) };
        assert!(check.is_null() || check["routed"]["met"] == true, "{check}");
        assert_eq!(f64_of(&row["needed"]), (60.0 / capacity).ceil() + added);
        let devices = f64_of(&row["sized"]["candidate"]["tensor_parallel"]);
        let bill = f64_of(&row["replicas"]) * devices * f64_of(&row["price"]["usd"]) * 730.0;
        assert!((f64_of(&row["bill"]["usd_per_month"]) / bill - 1.0).abs() < 1e-9, "{row}");
        assert!(f64_of(&row["n_plus_one_usd_per_month"]) > bill);
        let seen = &row["at_peak"]["observed"];
        assert!(f64_of(&seen["ttft_p95_s"]) <= 1.0 && f64_of(&seen["tpot_p95_s"]) <= 0.05, "{seen}");
    }
    assert!(rows[..2].iter().all(|row| !row["cluster"].is_null()), "{said}");
    for row in rows.iter().filter(|row| row["sized"]["candidate"]["tensor_parallel"] == 1) {
        let capacity = f64_of(&row["sized"]["capacity"]["best"]["rate_rps"]);
        // Between what a fifth of the device's arithmetic does and all of it: 16 GFLOP a token at 989 TFLOP/s.
        let tokens =
            capacity * (f64_of(&plan["served"]["input_tokens"]) + f64_of(&plan["served"]["output_tokens"]));
        assert!((12e3..62e3).contains(&tokens), "{tokens} tokens/s a replica");
    }
    // Spot holds one replica for what may be taken away, and costs less all the same.
    assert_eq!(rows[0]["price"]["pricing"], "spot");
    assert_eq!(f64_of(&rows[0]["replicas"]), f64_of(&rows[0]["needed"]) + 1.0);
    for api in plan["apis"].as_array().unwrap() {
        let mix = &api["mixed"];
        let together = f64_of(&mix["own_usd_per_month"]) + f64_of(&mix["api_usd_per_month"]);
        assert!(
            together <= f64_of(&api["usd_per_month"]) * (1.0 + 1e-9),
            "a mix is never dearer than the API: {api}"
        );
    }
    let half = &plan["what_if"][0]["plan"];
    assert!(f64_of(&half["rows"][0]["needed"]) < f64_of(&rows[0]["needed"]));
    let folder = dir.path().join("results/plans/plan");
    for file in ["plan.html", "plan.md", "plan.json"] {
        assert!(folder.join(file).is_file(), "{file}");
    }
}

#[test]
fn what_has_no_answer_says_what_would_have_to_change() {
    let dir = tempfile::tempdir().unwrap();
    for (changes, reason, change) in [
        (
            vec![("--model", "llama-3.1-70b"), ("--hardware", "rtx-4090")],
            "does not fit into memory",
            "what would help",
        ),
        (vec![("--ttft-p95", "1ms")], "TTFT p95 1.00 ms is below the floor", "a longer limit"),
        (vec![("--rate", "1000000")], "at most 1024 may be used", "a higher max_devices"),
        (vec![("--budget", "1")], "the budget is $1.00", ""),
        (
            vec![("--hardware", "rtx-4090"), ("--pricing", "spot")],
            "no price is known for rtx-4090 spot",
            "device_usd",
        ),
        (
            vec![("--model", "qwen/qwen3-8b-fp8"), ("--weights", "published"), ("--hardware", "v100")],
            "v100-sxm2-32gb has no kernel for fp8 weights",
            "int4",
        ),
    ] {
        let (code, said, error) = run(dir.path(), &changed(&changes));
        assert_eq!(code, Some(10), "{changes:?}: {said}{error}");
        assert!(said.starts_with("No: "), "{said}");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            said.contains(reason) && said.contains(change),
            "{changes:?}: {reason:?} is missing in\n{said}"
        );
    }
}

#[test]
fn a_wrong_word_is_one_plain_error() {
    let dir = tempfile::tempdir().unwrap();
    let price = r#"
[[price]]
hardware = "h100-sxm"
usd_per_hour = 0.0
provider = "nobody"
pricing = "on-demand"
devices = 1
source = "nowhere"
date = "2026-11"
confidence = "published"
"#;
    std::fs::write(dir.path().join("free.toml"), price).unwrap();
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (changed(&[("--catalogue", "free.toml")]), "accepted are numbers above 0"),
        (changed(&[("--model", "llama-9")]), "model: "),
        (changed(&[("--hardware", "h100O")]), "hardware: "),
        (changed(&[("--weights", "q99")]), "unknown format"),
        (changed(&[("--rate", "0")]), "rate"),
        (changed(&[("--ttft-p95", "soon")]), "ttft_p95"),
        (changed(&[("--pricing", "barter")]), "on-demand"),
        (changed(&[("--what-if", "traffic")]), "no '='"),
        (changed(&[("--what-if", "traffic=-2x")]), "a number above 0"),
        (changed(&[("--what-if", "colour=red")]), "unknown key"),
        (changed(&[("--what-if", "hardware=abacus")]), "abacus"),
        (changed(&[("--what-if", "pricing=barter")]), "on-demand, spot, reserved, own"),
        (changed(&[("--what-if", ",")]), "accepted: traffic"),
        (changed(&[("--max-model-len", "200000")]), "was made for 131072 tokens"),
        (vec!["plan", "--model", "llama-3.1-8b"], "--rate"),
        (vec!["plan", "nowhere.toml"], "nowhere.toml"),
        (vec!["plan", "--device", "abacus"], "--device: "),
        (vec!["plan", "--device", "epyc-genoa"], "is a CPU"),
        (vec!["plan", "--device", "apple-m1", "--model", "llama-9"], "model: "),
        (vec!["plan", "--device", "apple-m1", "--weights", "q99"], "q99"),
        (vec!["plan", "--device", "apple-m1", "--rate", "2"], "cannot be used with"),
    ];
    for (args, words) in cases {
        let (code, said, error) = run(dir.path(), &args);
        assert_eq!((code, said.as_str()), (Some(2), ""), "{args:?}: {error}");
        // Drawn errors are broken into lines.
        let plain = error.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(
            plain.contains(words) && !plain.contains("panicked"),
            "{args:?}: {words:?} is missing in\n{error}"
        );
    }
}

#[test]
fn a_device_says_what_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (code, said, error) = run(dir.path(), &["plan", "--device", "apple-m1"]);
    assert_eq!(code, Some(0), "{error}");
    for part in ["llama-3.2-1b", "mistral-7b", "battery", "models fit in none of the formats"] {
        assert!(said.contains(part), "{part} is missing in\n{said}");
    }
    let (code, said, _) =
        run(dir.path(), &["plan", "--device", "apple-m1", "--model", "mistral-7b", "--json"]);
    assert_eq!(code, Some(0));
    let found: Value = serde_json::from_str(&said).unwrap();
    let rows = found["rows"].as_array().unwrap();
    assert!(rows.len() >= 4 && rows.iter().all(|row| row["model"] == "mistral-7b"), "{said}");
    assert!(found["too_large"].as_array().unwrap().iter().any(|row| row["format"] == "f16"), "{said}");
    let (code, said, _) =
        run(dir.path(), &["plan", "--device", "raspberry-pi-5", "--model", "llama-3.1-70b"]);
    assert_eq!(code, Some(10));
    assert!(said.contains("does not fit") && said.contains("what would help"), "{said}");
}

/// Candidates that are not simulated are in the answer with what they could be at best; all else is as if they had been.
#[test]
fn what_is_not_simulated_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = r#"
name = "skip"
model = { name = "llama-3.1-8b", max_model_len = 8192 }
workload = { traffic = "azure-2023-conversation", requests = 300, arrivals = { process = "poisson", rate = 40.0 } }
slo = { ttft_p95 = "1s", tpot_p95 = "50ms" }
[search]
hardware = ["h100-sxm", "b200-sxm", "a10g", "l4", "v100-sxm2-32gb"]
weights = ["bf16", "int4"]
tensor_parallel = [1, 2, 4, 8]
"#;
    std::fs::write(dir.path().join("skip.toml"), file).unwrap();
    let plan = |more: &[&str]| -> Value {
        let (code, said, error) = run(dir.path(), &[&["plan", "skip.toml", "--json"], more].concat());
        assert_eq!(code, Some(0), "{error}");
        serde_json::from_str(&said).unwrap()
    };
    let (quick, full) = (plan(&[]), plan(&["--exhaustive"]));
    let list = |plan: &Value, key: &str| plan[key].as_array().unwrap().clone();
    let (rows, all) = (list(&quick, "rows"), list(&full, "rows"));
    let skipped = list(&quick, "skipped");
    assert!(!skipped.is_empty() && list(&full, "skipped").is_empty(), "{skipped:?}");
    assert!(rows.iter().all(|row| all.contains(row)));
    assert_eq!(rows[0], all[0]);
    let front = |plan: &Value| -> Vec<Value> {
        list(plan, "front")
            .iter()
            .map(|place| plan["rows"][place.as_u64().unwrap() as usize].clone())
            .collect()
    };
    assert_eq!(front(&quick), front(&full));
    assert_eq!(quick["sensitivities"], full["sensitivities"]);
    for one in skipped {
        let found = all.iter().filter(|row| row["sized"]["candidate"] == one["candidate"]);
        for row in found {
            let seen = &row["at_peak"]["observed"];
            assert!(f64_of(&row["bill"]["usd_per_month"]) >= f64_of(&one["usd_per_month"]), "{one} {row}");
            assert!(f64_of(&seen["ttft_p95_s"]) >= f64_of(&one["bound"]["ttft_p95_s"]), "{one} {row}");
            assert!(f64_of(&seen["tpot_p95_s"]) >= f64_of(&one["bound"]["tpot_p95_s"]), "{one} {row}");
        }
    }
}

/// Every GPU with a price and thousands of requests for each rate keep any machine busy for longer than the first line of
/// progress takes to come; that line says that the search has begun.
#[test]
fn ctrl_c_leaves_the_part_that_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let file = r#"
name = "long"
model = { name = "llama-3.1-8b" }
workload = { traffic = "azure-2023-conversation", requests = 5000, arrivals = { process = "poisson", rate = 2.0 } }
slo = { ttft_p95 = "1s" }
"#;
    std::fs::write(dir.path().join("long.toml"), file).unwrap();
    let args = ["plan", "long.toml", "--out", "here"];
    let mut child = llmlab(dir.path())
        .args(args)
        .env("XDG_CONFIG_HOME", dir.path().join("no-config"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    progress.read_line(&mut line).unwrap();
    assert!(line.contains("configurations"), "{line}");
    signal(child.id(), "INT");
    let mut rest = String::new();
    progress.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{rest}");
    let said = stdout(&output).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("interrupted, the table is partial"), "{said}");
    let json = std::fs::read_to_string(dir.path().join("here/plan.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["complete"], false);
}
