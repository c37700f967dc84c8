"""The load: `llmlab run` against a live server, one client for all. Prompts are token ids, so their length is exact.

Users pause for 20 ms between an answer and their next request: llama-server closes the connection after each stream
without saying so, and a request that is sent before the close arrives is lost."""

import json
import subprocess
from pathlib import Path
from statistics import mean

SCENARIO = """
name = "compare"
seed = {seed}

[model]
source = {model}

[workload]
lengths = {{ input = {{ distribution = "fixed", tokens = {prompt} }}, output = {{ distribution = "fixed", tokens = {generate} }} }}
requests = {requests}
warmup = 0
timeouts = {{ first_token = "300s", inter_token = "300s" }}
arrivals = {{ process = "closed", users = {streams}, think_time = "20ms" }}

[[target]]
name = "server"
endpoint = {{ url = {url} }}
"""
TIMEOUT_S = 580
# Exit codes of a run: the client kept up, or it did not.
TRUSTED, UNTRUSTED = 0, 4


def drive(llmlab, model, url, folder, **workload):
    """One closed loop of `requests` requests from `streams` users. Raises when a request failed."""
    folder.mkdir(parents=True, exist_ok=True)
    scenario = folder / "scenario.toml"
    scenario.write_text(SCENARIO.format(model=json.dumps(str(Path(model).resolve())), url=json.dumps(url), **workload))
    before = set(folder.iterdir())
    command = [llmlab, "run", scenario, "--results", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    runs = set(folder.iterdir()) - before
    if done.returncode not in (TRUSTED, UNTRUSTED) or len(runs) != 1:
        raise RuntimeError(f"llmlab run ended with {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
    return figures(journal(runs.pop() / "server-r1" / "journal.jsonl")) | {"trusted": done.returncode == TRUSTED}


def journal(path):
    """One request a line, after a checksum."""
    return [json.loads(line.split(" ", 1)[1]) for line in path.read_text().splitlines()]


def figures(requests):
    """Rates over the whole run, as vLLM's `bench serve` counts them; latencies by analysis/metrics/definitions.md."""
    bad = [request for request in requests if request["outcome"] != "ok"]
    if bad:
        raise RuntimeError(f"{len(bad)} of {len(requests)} requests failed: {bad[0]['outcome']} {bad[0]['error']}")
    begin = min(request["scheduled_ns"] for request in requests)
    end = max(request["done_ns"] for request in requests)
    return {
        "tokens_per_s": sum(request["output_tokens"] for request in requests) / (end - begin) * 1e9,
        "ttft_mean_s": mean(request["events"][0]["at_ns"] - request["scheduled_ns"] for request in requests) / 1e9,
        "tpot_mean_s": mean(tpot_ns(request) for request in requests) / 1e9,
        "prompt_tokens_mean": mean(request["prompt_tokens"] for request in requests),
        "requests": len(requests),
    }


def tpot_ns(request):
    first, last = request["events"][0], request["events"][-1]
    return (last["at_ns"] - first["at_ns"]) / (request["output_tokens"] - first["tokens"])
