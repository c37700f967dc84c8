//! Every mistake is one error with file, line, caret and what is accepted. The snapshots are what a person sees.

use llmlab_scenarios::{ScenarioError, parse};
use miette::{GraphicalReportHandler, GraphicalTheme};

const GOOD: &str = r#"name = "test"
seed = 42
[model]
source = "synthetic:llama-15m"
[workload]
traffic = "azure-2023-conversation"
requests = 300
arrivals = { process = "poisson", load = 0.7 }
[[target]]
name = "vllm"
engine = { policy = "vllm", max_num_seqs = 32 }
[slo]
ttft_p95 = "200ms"
"#;

fn shown(error: &ScenarioError) -> String {
    let mut drawn = String::new();
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(110);
    handler.render_report(&mut drawn, error).unwrap();
    drawn
}

/// The good scenario with one line replaced.
fn with(line: &str, replacement: &str) -> String {
    assert!(GOOD.contains(line), "{line}");
    GOOD.replacen(line, replacement, 1)
}

fn error_of(text: &str) -> String {
    let error = parse(text, "scenarios/test.toml").expect_err(text);
    shown(&error)
}

macro_rules! mistake {
    ($name:ident, $line:expr => $replacement:expr) => {
        #[test]
        fn $name() {
            insta::assert_snapshot!(error_of(&with($line, $replacement)));
        }
    };
}

mistake!(unknown_key, "requests = 300" => "reqests = 300");
mistake!(wrong_type, "requests = 300" => "requests = \"many\"");
mistake!(duration_without_unit, "\"200ms\"" => "\"200\"");
mistake!(duration_with_a_space, "\"200ms\"" => "\"200 m\"");
mistake!(duration_as_a_number, "\"200ms\"" => "200");
mistake!(negative_rate, "load = 0.7" => "rate = -3.0");
mistake!(rate_is_nan, "load = 0.7" => "rate = nan");
mistake!(prefixes_twice, "requests = 300" => "requests = 300\nshared_prefix_tokens = 8\nprefixes = { count = 2, tokens = 8 }");
mistake!(no_prefixes, "requests = 300" => "requests = 300\nprefixes = { count = 0, tokens = 8 }");
mistake!(tree_and_list_of_prefixes, "requests = 300" => "requests = 300\nprefixes = { count = 2, block_tokens = 64, depth = 2, branching = 2 }");
mistake!(tree_without_depth, "requests = 300" => "requests = 300\nprefixes = { block_tokens = 64, hit_rate = 0.4 }");
mistake!(tree_of_too_many_leaves, "requests = 300" => "requests = 300\nprefixes = { block_tokens = 64, depth = 20, branching = 20 }");
mistake!(hit_rate_in_per_cent, "requests = 300" => "requests = 300\nprefixes = { block_tokens = 64, depth = 2, branching = 2, hit_rate = 37 }");
mistake!(tree_under_sessions, "arrivals = { process = \"poisson\", load = 0.7 }" => "arrivals = { rate = 2.0 }\nprefixes = { block_tokens = 64, depth = 2, branching = 2 }\nsessions = { turns = { distribution = \"fixed\", count = 3 } }");
mistake!(unknown_popularity, "requests = 300" => "requests = 300\nprefixes = { count = 2, tokens = 8, popularity = \"zip\" }");
mistake!(exponent_of_nothing, "requests = 300" => "requests = 300\nprefixes = { count = 2, tokens = 8, exponent = 2 }");
mistake!(sessions_at_a_share_of_saturation, "requests = 300" => "requests = 300\nsessions = { turns = { distribution = \"fixed\", count = 3 } }");
mistake!(unknown_turn_distribution, "arrivals = { process = \"poisson\", load = 0.7 }" => "arrivals = { rate = 2.0 }\nsessions = { turns = { distribution = \"poisson\", mean = 3 } }");
mistake!(turns_of_another_distribution, "arrivals = { process = \"poisson\", load = 0.7 }" => "arrivals = { rate = 2.0 }\nsessions = { turns = { distribution = \"geometric\", mean = 3, max = 8 } }");
mistake!(think_time_without_unit, "arrivals = { process = \"poisson\", load = 0.7 }" => "arrivals = { rate = 2.0 }\nsessions = { turns = { distribution = \"fixed\", count = 3 }, think_time = { distribution = \"fixed\", time = 2 } }");
mistake!(think_time_upside_down, "arrivals = { process = \"poisson\", load = 0.7 }" => "arrivals = { rate = 2.0 }\nsessions = { turns = { distribution = \"fixed\", count = 3 }, think_time = { distribution = \"lognormal\", median = \"3s\", p95 = \"2s\" } }");
mistake!(abandoned_more_than_all, "requests = 300" => "requests = 300\nabandon = { share = 10, after = { distribution = \"fixed\", time = \"2s\" } }");
mistake!(abandoned_in_two_ways, "requests = 300" => "requests = 300\nabandon = { share = 0.1, after = { distribution = \"fixed\", time = \"2s\" }, after_tokens = { distribution = \"fixed\", tokens = 8 } }");
mistake!(adapters_of_no_kind, "requests = 300" => "requests = 300\nadapters = { rank = 8 }");
mistake!(adapter_folder_not_found, "requests = 300" => "requests = 300\nadapters = { folders = { sql = \"no/such/folder\" } }");
mistake!(rank_of_a_folder, "requests = 300" => "requests = 300\nadapters = { rank = 8, folders = { sql = \".\" } }");
mistake!(adapters_under_another_policy, "arrivals = { process = \"poisson\", load = 0.7 }" => "arrivals = { users = 2 }
adapters = { count = 2 }
[[target]]
name = \"tgi\"
engine = { policy = \"tgi\" }");
mistake!(claim_of_an_unknown_metric, "[slo]" => "[[claim]]\nname = \"c\"\nsays = \"s\"\nsource = \"p\"\nmetric = \"speed\"\nratio = [2, 4]\ntarget = \"vllm\"\nagainst = \"tgi\"\n[slo]");
mistake!(claim_about_an_unknown_target, "[slo]" => "[[claim]]\nname = \"c\"\nsays = \"s\"\nsource = \"p\"\nmetric = \"ttft_p50\"\nratio = [2, 4]\ntarget = \"vllm\"\nagainst = \"tgi\"\n[slo]");
mistake!(claim_with_a_range_upside_down, "[slo]" => "[[claim]]\nname = \"c\"\nsays = \"s\"\nsource = \"p\"\nmetric = \"ttft_p50\"\nratio = [4, 2]\ntarget = \"vllm\"\nagainst = \"vllm\"\n[slo]");
const FIND: &str = "name = \"test\"\nfind = \"max rate meeting the SLO\"";
mistake!(find_something_unknown, "name = \"test\"" => "name = \"test\"\nfind = \"max rate\"");
mistake!(find_where_the_rate_is_given, "name = \"test\"" => FIND);
mistake!(search_that_searches_nothing, "[slo]" => "[search]\ntolerance = 0.1\n[slo]");

/// The good scenario as a search.
fn searching(line: &str, replacement: &str) -> String {
    let text = with("name = \"test\"", FIND).replacen(", load = 0.7", "", 1);
    assert!(text.contains(line), "{line}");
    text.replacen(line, replacement, 1)
}

macro_rules! mistake_of_a_search {
    ($name:ident, $line:expr => $replacement:expr) => {
        #[test]
        fn $name() {
            insta::assert_snapshot!(error_of(&searching($line, $replacement)));
        }
    };
}

mistake_of_a_search!(find_without_limits, "[slo]\nttft_p95 = \"200ms\"\n" => "");
mistake_of_a_search!(find_with_a_tolerance_of_nothing, "[slo]" => "[search]\ntolerance = 0\n[slo]");
mistake_of_a_search!(find_upside_down, "[slo]" => "[search]\nlowest = 5\nhighest = 2\n[slo]");
mistake_of_a_search!(find_and_sweep, "[slo]" => "[sweep]\nrate = [1, 2]\n[slo]");
mistake_of_a_search!(find_the_users_of_an_open_loop, "max rate" => "max users");
mistake_of_a_search!(find_where_bursts_fix_the_rate, "process = \"poisson\"" => "process = \"mmpp\", rates = [1, 20], dwell = [\"60s\", \"5s\"]");

mistake!(mmpp_that_never_dwells, "process = \"poisson\", load = 0.7" => "process = \"mmpp\", rate = 3, burst_ratio = 4, dwell = [\"0s\", \"5s\"]");
mistake!(mmpp_with_two_means, "process = \"poisson\", load = 0.7" => "process = \"mmpp\", rate = 3, rates = [1, 20], dwell = [\"60s\", \"5s\"]");
mistake!(day_that_swings_below_zero, "process = \"poisson\", load = 0.7" => "process = \"diurnal\", rate = 3, amplitude = 1.5");
mistake!(day_without_a_shape, "process = \"poisson\", load = 0.7" => "process = \"diurnal\", rate = 3");
mistake!(phase_with_three_rates, "process = \"poisson\", load = 0.7" => "process = \"phases\", phases = [{ rate = [1, 2, 3], for = \"1s\" }]");
mistake!(unknown_mix_of_clients, "process = \"poisson\", load = 0.7" => "process = \"clients\", rate = 3, like = \"servegen-large\"");
mistake!(cv_below_the_median, "process = \"poisson\", load = 0.7" => "process = \"clients\", rate = 3, clients = 4, cv = 2, cv_mean = 1");
mistake!(native_where_nothing_was_measured, "traffic = \"azure-2023-conversation\"\nrequests = 300\narrivals = { process = \"poisson\", load = 0.7 }" => "traffic = \"arxiv-summarization\"\nrequests = 300\narrivals = { process = \"native\", load = 0.7 }");
mistake!(no_requests_at_all, "requests = 300" => "requests = 0");
mistake!(block_size_zero, "max_num_seqs = 32" => "block_size = 0");
mistake!(percentile_out_of_range, "ttft_p95" => "ttft_p100");
mistake!(unknown_metric, "ttft_p95" => "latency_p95");
mistake!(unknown_policy, "policy = \"vllm\"" => "policy = \"vlm\"");
mistake!(knob_of_another_policy, "policy = \"vllm\"" => "policy = \"tgi\"");
mistake!(misspelt_knob, "max_num_seqs" => "max_num_seq");
mistake!(unknown_traffic, "azure-2023-conversation" => "azure-2023-conversations");
mistake!(quantiles_that_decrease, "traffic = \"azure-2023-conversation\"" => "lengths = { input = { distribution = \"quantiles\", values = [1, 2, 3, 4, 5, 6, 7, 9, 8, 10, 11] }, output = { distribution = \"quantiles\", values = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] } }");
mistake!(quantiles_on_one_side, "traffic = \"azure-2023-conversation\"" => "lengths = { input = { distribution = \"quantiles\", values = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] }, output = { distribution = \"fixed\", tokens = 3 } }");
mistake!(trace_not_found, "traffic = \"azure-2023-conversation\"" => "trace = \"absent.csv\"");
mistake!(model_folder_not_found, "synthetic:llama-15m" => "models/TinyLlama");
mistake!(missing_table, "[workload]" => "[worklode]");
mistake!(no_target, "[[target]]\nname = \"vllm\"\nengine = { policy = \"vllm\", max_num_seqs = 32 }" => "");
mistake!(command_that_is_one_text, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "command = { run = \"vllm serve m\", url = \"http://127.0.0.1:8000\" }");
mistake!(command_without_a_url, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "command = { run = [\"vllm\", \"serve\", \"m\"] }");
mistake!(command_that_starts_nothing, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "command = { url = \"http://127.0.0.1:8000\" }");
mistake!(command_and_template, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "command = { run = [\"vllm\"], template = \"vllm\", model = \"m\" }");
mistake!(unknown_template, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "command = { template = \"vlm\", model = \"m\" }");
mistake!(template_with_a_url, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "command = { template = \"vllm\", model = \"m\", url = \"http://127.0.0.1:8000\" }");
mistake!(secret_in_the_environment_of_a_command, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "command = { template = \"vllm\", model = \"m\", env = { HF_TOKEN = \"hf_abc\" } }");
mistake!(ca_file_without_https, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "endpoint = { url = \"http://h\", ca_file = \"Cargo.toml\" }");
mistake!(two_places_for_a_key, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "endpoint = { url = \"https://h\", api_key_env = \"KEY\", api_key_file = \"Cargo.toml\" }");
mistake!(simulation_without_hardware, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "simulate = { policy = \"vllm\" }");
mistake!(simulation_that_speculates_and_says_no_rate, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "simulate = { hardware = \"h100-sxm\", policy = \"vllm\", speculative_method = \"ngram\" }");
mistake!(simulation_with_rates_for_more_drafts_than_there_are, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "simulate = { hardware = \"h100-sxm\", policy = \"vllm\", speculative_method = \"ngram\", speculative_acceptance_rate = [0.7, 0.6, 0.5, 0.4] }");
mistake!(simulation_with_a_rate_above_one, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "simulate = { hardware = \"h100-sxm\", policy = \"vllm\", speculative_method = \"ngram\", speculative_acceptance_rate = 70 }");
mistake!(rate_without_speculation, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "simulate = { hardware = \"h100-sxm\", policy = \"vllm\", speculative_acceptance_rate = 0.7 }");
mistake!(simulation_with_a_misspelt_knob, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "simulate = { hardware = \"h100-sxm\", policy = \"vllm\", max_num_seq = 32 }");
mistake!(two_kinds_of_target, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "engine = { policy = \"vllm\" }\nsimulate = { hardware = \"h100-sxm\", policy = \"vllm\" }");
mistake!(unknown_target_kind, "engine = { policy = \"vllm\", max_num_seqs = 32 }" => "engin = { policy = \"vllm\" }");
mistake!(key_of_another_process, "load = 0.7" => "load = 0.7, users = 3");
mistake!(broken_toml, "seed = 42" => "seed = = 42");

#[test]
fn duplicate_target_names() {
    let text = format!("{GOOD}[[target]]\nname = \"vllm\"\nengine = {{ policy = \"tgi\" }}\n");
    insta::assert_snapshot!(error_of(&text));
}

#[test]
fn a_missing_file_is_named() {
    let error = llmlab_scenarios::load(std::path::Path::new("absent.toml")).unwrap_err();
    assert!(error.to_string().starts_with("cannot read scenario absent.toml"), "{error}");
}

/// Cases that need no picture: each must be refused, at the line that is wrong.
#[test]
fn impossible_values_are_refused_at_their_line() {
    for (line, replacement, wrong_line) in [
        ("seed = 42", "seed = -1", 2),
        ("name = \"test\"", "name = \"\"", 1),
        ("name = \"test\"", "name = \"a\\nb\"", 1),
        ("synthetic:llama-15m", "synthetic:", 4),
        ("source =", "max_model_len = 1\nsource =", 4),
        ("requests = 300", "requests = 20_000_000", 7),
        ("requests = 300", "requests = 300\nwarmup = 300", 8),
        ("requests = 300", "requests = 300\ninput_range = [10, 5]", 8),
        ("requests = 300", "requests = 300\noutput_range = [0, 5]", 8),
        ("requests = 300", "requests = 300\nscale = { input = 0.0 }", 8),
        ("requests = 300", "requests = 300\ntimeouts = { total = \"0s\" }", 8),
        ("requests = 300", "requests = 300\ntrace = \"x.csv\"", 6),
        ("load = 0.7", "load = 0", 8),
        ("load = 0.7", "load = 2.5", 8),
        ("load = 0.7", "load = inf", 8),
        ("load = 0.7", "load = 0.7, rate = 3", 8),
        ("process = \"poisson\", load = 0.7", "users = 0", 8),
        ("process = \"poisson\"", "process = \"gamma\"", 8),
        ("process = \"poisson\", load = 0.7", "process = \"trace\"", 8),
        ("process = \"poisson\"", "process = \"possion\"", 8),
        ("policy = \"vllm\", ", "", 11),
        ("max_num_seqs = 32", "max_num_seqs = 1.5", 11),
        ("max_num_seqs = 32", "watermark = 1.0", 11),
        ("max_num_seqs = 32", "watermark = nan", 11),
        ("max_num_seqs = 32", "weights = \"q4_k_xl\"", 11),
        ("max_num_seqs = 32", "kv = \"q4_0\"", 11),
        ("max_num_seqs = 32", "kv_memory = \"0MiB\"", 11),
        ("max_num_seqs = 32", "kv_memory = \"1GiB\", num_blocks = 9", 11),
        ("max_num_seqs = 32", "kv_strategy = \"contiguous\", enable_prefix_caching = true", 11),
        ("max_num_seqs = 32", "executor = \"candle\", enable_prefix_caching = true", 11),
        (
            "policy = \"vllm\", max_num_seqs = 32",
            "policy = \"tgi\", requires_padding = true, use_prefix_caching = true",
            11,
        ),
        ("policy = \"vllm\", max_num_seqs = 32", "policy = \"dynamic\", preferred_batch_size = [16]", 11),
        ("policy = \"vllm\", max_num_seqs = 32", "policy = \"dynamic\", preferred_batch_size = [0]", 11),
        ("name = \"vllm\"", "name = \"../up\"", 10),
        ("ttft_p95", "ttft_p0", 13),
        ("ttft_p95", "ttft_pnan", 13),
        ("ttft_p95", "ttft_p95.9 = \"1s\"\nttft_p95", 14),
        ("\"200ms\"", "\"0ms\"", 13),
        ("[slo]", "[cost]\nhardware = \"x\"\nusd_per_hour = 1.0\n[slo]", 12),
        ("[slo]", "[cost]\nusd_per_hour = -1.0\n[slo]", 13),
        ("[slo]", "[compare]\nrepeats = 0\n[slo]", 13),
    ] {
        let error = parse(&with(line, replacement), "t.toml").expect_err(replacement);
        let ScenarioError::Invalid(mistake) = error else { panic!("{replacement}") };
        assert_eq!(mistake.line(), wrong_line, "{replacement}: {mistake}");
    }
}

#[test]
fn endpoints_are_checked_and_a_pasted_key_is_not_repeated() {
    let endpoint = |inside: &str| {
        let text =
            with("engine = { policy = \"vllm\", max_num_seqs = 32 }", &format!("endpoint = {{ {inside} }}"));
        parse(&text, "t.toml")
    };
    endpoint(r#"url = "https://example.org/v1/", model = "m", metrics = "/metrics""#).unwrap();
    for protocol in ["openai-chat", "tgi", "ollama-chat", "llamacpp", "sglang", "triton", "anthropic", "auto"]
    {
        endpoint(&format!(r#"url = "http://a", protocol = "{protocol}""#)).unwrap();
    }
    for bad in [
        r#"url = "127.0.0.1:8000""#,
        r#"url = "http://""#,
        r#"url = "http://:80""#,
        r#"url = "http://user:pass@host""#,
        r#"url = "http://a b""#,
        r#"url = "http://a", protocol = "grpc""#,
        r#"url = "http://a", metrics = "metrics""#,
        r#"model = "no url""#,
    ] {
        assert!(endpoint(bad).is_err(), "{bad}");
    }
    let error = endpoint(r#"url = "http://a", api_key_env = "sk-secret""#).unwrap_err();
    assert!(!error.to_string().contains("sk-secret"), "{error}");
}

const JOURNEY: &str = r#"name = "test"
[model]
source = "synthetic:llama-15m"
[journey]
users = 4
[[journey.flow]]
name = "chat"
steps = [
    { name = "log in", post = "/login", save = { token = "/token" } },
    { name = "ask", ask = { input = 20, output = 10 }, headers = { authorization = "Bearer {token}" } },
]
[[target]]
name = "vllm"
engine = { policy = "vllm" }
"#;

macro_rules! journey_mistake {
    ($name:ident, $line:expr => $replacement:expr) => {
        #[test]
        fn $name() {
            assert!(JOURNEY.contains($line));
            insta::assert_snapshot!(error_of(&JOURNEY.replacen($line, $replacement, 1)));
        }
    };
}

journey_mistake!(journey_and_workload, "[journey]\n" => "[workload]\ntraffic = \"azure-2023-conversation\"\nrequests = 3\narrivals = { users = 1 }\n[journey]\n");
journey_mistake!(journey_that_asks_nothing, "ask = { input = 20, output = 10 }" => "get = \"/v1/models\"");
journey_mistake!(journey_of_a_simulation, "engine = { policy" => "simulate = { hardware = \"h100-sxm\", policy");
journey_mistake!(journey_that_is_searched, "[model]\nsource = \"synthetic:llama-15m\"\n" => "find = \"max users meeting the SLO\"\n[slo]\nttft_p95 = \"1s\"\n[model]\nsource = \"synthetic:llama-15m\"\n");
journey_mistake!(step_of_two_kinds, "post = \"/login\"" => "post = \"/login\", get = \"/\"");
journey_mistake!(step_with_a_key_of_another_kind, "output = 10 }" => "output = 10 }, expect = 200");
journey_mistake!(value_that_nothing_saves, "{token}" => "{tokem}");
journey_mistake!(value_without_a_pointer, "\"/token\"" => "\"token\"");
journey_mistake!(ask_of_no_length, "input = 20" => "input = 0");
journey_mistake!(ask_with_a_misspelt_distribution, "input = 20" => "input = { distribution = \"unifrom\", min = 1, max = 2 }");
journey_mistake!(pause_upside_down, "users = 4" => "users = 4\npause = [\"2s\", \"1s\"]");
journey_mistake!(flow_without_users, "steps = [" => "weight = 1\nsteps = [\n  { name = \"a\", ask = { input = 1, output = 1 } } ]\n[[journey.flow]]\nname = \"all\"\nweight = 100\nsteps = [");
