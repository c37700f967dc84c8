//! Trace files in the spellings of the public traces, and the errors of files that are none.

use std::fs;

use llmlab_scenarios::spec::{ArrivalSpec, LengthSpec, TraceRow};
use llmlab_scenarios::trace::read;
use tempfile::TempDir;

fn rows_of(file: &str, text: &str, limit: Option<u32>) -> Result<Vec<(u32, u32, Option<f64>)>, String> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(file);
    fs::write(&path, text).unwrap();
    let rows = read(&path, limit).map_err(|e| e.replace(&path.display().to_string(), file))?;
    let rounded = |s: f64| (s * 1e5).round() / 1e5;
    Ok(rows.iter().map(|r| (r.input_tokens, r.output_tokens, r.arrival_s.map(rounded))).collect())
}

#[test]
fn public_traces() {
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
                 2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n";
    assert_eq!(rows_of("azure.csv", azure, None).unwrap(), [(374, 44, Some(0.0)), (396, 109, Some(4.31458))]);

    let burst = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                 5,ChatGPT,472,18,490,Conversation log\n45.5,ChatGPT,1087,230,1317,Conversation log\n";
    assert_eq!(rows_of("burst.csv", burst, None).unwrap(), [(472, 18, Some(0.0)), (1087, 230, Some(40.5))]);

    let mooncake = "{\"timestamp\": 27482, \"input_length\": 6955, \"output_length\": 52, \"hash_ids\": [46, 47]}\n\
                    {\"timestamp\": 30535, \"input_length\": 6472, \"output_length\": 26, \"hash_ids\": [46]}\n";
    assert_eq!(rows_of("m.jsonl", mooncake, None).unwrap(), [(6955, 52, Some(0.0)), (6472, 26, Some(3.053))]);

    let vidur = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n100,20.0,120,5.0\n";
    assert_eq!(rows_of("vidur.csv", vidur, None).unwrap(), [(100, 20, None)]);

    let excel = "\u{feff}arrival_ms, Input-Tokens ,output\r\n1000,\"3\",4\r\n1500,5,6\r\n";
    assert_eq!(rows_of("excel.csv", excel, None).unwrap(), [(3, 4, Some(0.0)), (5, 6, Some(0.5))]);
}

#[test]
fn only_the_rows_that_are_needed_are_read() {
    let text = "input,output\n1,2\n3,4\nbroken,6\n";
    assert_eq!(rows_of("t.csv", text, Some(2)).unwrap().len(), 2);
    assert!(rows_of("t.csv", text, Some(3)).is_err());
    let text = "{\"input\":1,\"output\":2}\nbroken\n";
    assert_eq!(rows_of("t.jsonl", text, Some(1)).unwrap().len(), 1);
}

#[test]
fn errors_name_the_line() {
    for (file, text, expected) in [
        ("t.csv", "", "line 1: no prompt length column"),
        ("t.csv", "input,out\n1,2\n", "line 1: no output length column among input, out"),
        ("t.csv", "input,output\n1,2\n3,x\n", "line 3: \"x\" is not a number of tokens"),
        ("t.csv", "input,output\n1\n", "line 2: \"\" is not a number of tokens"),
        ("t.csv", "input,output\n-1,2\n", "line 2: \"-1\" is not a number of tokens"),
        ("t.csv", "input,output\n5,0\n", "line 2: a request with no tokens"),
        ("t.csv", "input,output\n", "has no rows"),
        ("t.csv", "arrival,input,output\nsoon,1,2\n", "line 2: \"soon\" is neither"),
        ("t.csv", "arrival,input,output\nnan,1,2\n", "line 2: \"nan\" is neither"),
        ("t.csv", "arrival,input,output\n5,1,2\n4,1,2\n", "row 2 arrives before"),
        ("t.csv", "input,output\n\u{1b}[2J,2\n", "line 2: \"\\u{1b}[2J\""),
        ("t.jsonl", "\n[1]\n", "line 2: not a JSON object"),
        ("t.jsonl", "{\"input\": 1}\n", "line 1: no output length"),
        (
            "t.jsonl",
            "{\"timestamp\":1,\"input\":1,\"output\":1}\n{\"input\":1,\"output\":1}\n",
            "row 2 has no arrival",
        ),
    ] {
        let error = rows_of(file, text, None).expect_err(text);
        assert!(error.contains(expected) && error.starts_with(&format!("trace {file}")), "{text:?}: {error}");
    }
    assert!(rows_of("t.csv", "input,output\n\u{e9}", None).is_err());
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("t.csv"), b"input,output\n\xff,\xfe\n").unwrap();
    assert!(read(&folder.path().join("t.csv"), None).is_err());
}

#[test]
fn a_scenario_finds_its_trace_beside_itself_and_counts_its_rows() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("t.csv"), "arrival,input,output\n10,1,2\n11,3,4\n").unwrap();
    let scenario = |workload: &str| {
        let path = folder.path().join("s.toml");
        let rest = "[[target]]\nname = \"a\"\nengine = { policy = \"tgi\" }\n";
        let model = "[model]\nsource = \"synthetic:llama-15m\"\n";
        let text = format!("name = \"s\"\n{model}[workload]\ntrace = \"t.csv\"\n{workload}\n{rest}");
        fs::write(&path, text).unwrap();
        llmlab_scenarios::load(&path).map(|(_, spec)| spec.workload)
    };
    let workload = scenario("arrivals = { process = \"trace\" }").unwrap();
    assert_eq!(
        (workload.requests, workload.arrivals),
        (2, ArrivalSpec::Trace { speed: 1.0, jitter: std::time::Duration::ZERO })
    );
    let LengthSpec::Trace { rows, .. } = workload.lengths else { panic!() };
    assert_eq!(rows[1], TraceRow { input_tokens: 3, output_tokens: 4, arrival_s: Some(1.0) });
    assert_eq!(scenario("requests = 1\narrivals = { rate = 2 }").unwrap().requests, 1);
    assert!(
        scenario("requests = 3\narrivals = { process = \"trace\" }").is_err(),
        "times for two requests only"
    );
}
