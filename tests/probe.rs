//! The probe for saturation sends what the trials send: prompts of the same length by the server's own count.

mod common;

use common::{Mock, llmlab, only_run, stderr, stdout};
use llmlab_results::manifest::TrialKind;
use llmlab_results::prompt_fit::PromptFitMethod;
use llmlab_results::read_run;

/// The mock counts a word as a token, and a prompt of 40 tokens would have fewer words if nobody asked it.
#[test]
fn the_prompts_of_a_probe_are_as_long_as_those_of_the_trials() {
    let dir = tempfile::tempdir().unwrap();
    let mock = Mock::start(dir.path(), &["--ttft", "100ms", "--itl", "1ms"]);
    let text = format!(
        r#"
name = "probed"
[workload]
lengths = {{ input = {{ distribution = "uniform", min = 20, max = 60 }}, output = {{ distribution = "fixed", tokens = 4 }} }}
requests = 20
arrivals = {{ process = "poisson", load = 0.5 }}
[[target]]
name = "server"
endpoint = {{ url = "{}", protocol = "openai-chat", model = "mock" }}
"#,
        mock.url
    );
    std::fs::write(dir.path().join("scenario.toml"), text).unwrap();
    let output =
        llmlab(dir.path()).args(["run", "scenario.toml", "--no-client-calibration"]).output().unwrap();
    mock.stop();
    assert!(matches!(output.status.code(), Some(0 | 4)), "{}\n{}", stdout(&output), stderr(&output));
    let (_, trials) = read_run(&only_run(dir.path())).unwrap();
    let kinds: Vec<TrialKind> = trials.iter().map(|trial| trial.facts.kind).collect();
    assert_eq!(kinds, [TrialKind::Probe, TrialKind::Measure]);
    for trial in &trials {
        let fit = trial.facts.prompt_fit.as_ref().expect("prompts of text are fitted");
        assert_eq!(fit.method, PromptFitMethod::Tokenizer);
        let counted: Vec<_> = trial.records.iter().filter(|record| record.outcome.is_success()).collect();
        assert!(counted.len() >= 20, "{} in {}", counted.len(), trial.facts.dir);
        let off = counted.iter().filter(|record| record.prompt_tokens != record.prompt_tokens_requested);
        assert_eq!(off.count(), 0, "{}", trial.facts.dir);
    }
}
