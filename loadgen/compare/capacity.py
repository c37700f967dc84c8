"""How many tokens one core of a load generator can read: llmlab and its peers, each alone on one core, against `llmlab mock` without
delay on another, the same number of requests, streams and tokens. See README.md.

    python capacity.py --llmlab LLMLAB --tokenizer FOLDER --out FOLDER [--vllm BIN] [--guidellm BIN] [--aiperf BIN]

A peer whose program is not given is left out. Results: OUT/capacity.jsonl and OUT/capacity.md.
"""

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

CLIENT_CORE, SERVER_CORE = "0", "1"


def arguments():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--llmlab", required=True, type=Path, help="the binary")
    options.add_argument("--out", required=True, type=Path)
    options.add_argument("--tokenizer", type=Path, help="a model folder; the peers want one")
    options.add_argument("--vllm", type=Path, help="the `vllm` command")
    options.add_argument("--guidellm", type=Path)
    options.add_argument("--aiperf", type=Path)
    options.add_argument("--streams", type=int, default=64)
    options.add_argument("--prompt", type=int, default=128)
    options.add_argument("--generate", type=int, default=100)
    options.add_argument("--requests", type=int, default=2000, help="of each peer")
    options.add_argument("--ours", type=int, default=20000, help="requests of llmlab, which needs more to last as long")
    options.add_argument("--itl", default="0ms", help="of the mock; with 0ms it writes as fast as it can")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--timeout", type=int, default=900, help="seconds that a program may take")
    return options.parse_args()


def main():
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    clients = {"llmlab": llmlab}
    for name, client in [("vllm", vllm), ("guidellm", guidellm), ("aiperf", aiperf)]:
        if getattr(args, name):
            clients[name] = client
    order = list(clients) * args.repeats
    random.Random(args.seed).shuffle(order)
    rows = []
    with open(args.out / "capacity.jsonl", "w") as results:
        for name in order:
            row = {"client": name, **measure(args, clients[name])}
            print(row, file=sys.stderr)
            rows.append(row)
            results.write(json.dumps(row) + "\n")
            results.flush()
    text = table(args, rows)
    (args.out / "capacity.md").write_text(text)
    print(text)


def measure(args, client):
    """One client against a fresh server."""
    server = subprocess.Popen(
        [args.llmlab, "mock", "--port", "0", "--ttft", "0ms", "--itl", args.itl, "--core", SERVER_CORE],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        url = re.search(r"http://\S+", server.stdout.readline()).group()
        before = cpu_s(server.pid)
        found = client(args, url)
        found["server_cpu_s"] = round(cpu_s(server.pid) - before, 2)
        return found
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def llmlab(args, url):
    scenario = args.out / "capacity.toml"
    scenario.write_text(f'''name = "capacity"
seed = {args.seed}
[model]
source = "synthetic:llama-15m"
[workload]
lengths = {{ input = {{ distribution = "fixed", tokens = {args.prompt} }}, output = {{ distribution = "fixed", tokens = {args.generate} }} }}
requests = {args.ours}
warmup = 0
arrivals = {{ users = {args.streams} }}
[[target]]
name = "mock"
endpoint = {{ url = "{url}", protocol = "openai-completions", model = "mock" }}
[compare]
repeats = 1
''')
    runs = args.out / "runs"
    # The check of the client afterwards is no part of the load.
    used = run(args, [args.llmlab, "run", scenario, "--results", runs, "--no-client-calibration"])
    newest = max(runs.iterdir(), key=lambda run: run.name)
    trial = json.loads((newest / "manifest.json").read_text())["trials"][-1]
    records = [json.loads(line) for line in journal(newest / trial["dir"] / "journal.jsonl")]
    good = [record for record in records if record["outcome"] == "ok"]
    return used | figures(len(good), len(records), sum(r["output_tokens"] for r in good), trial["elapsed_ns"] / 1e9) | {
        "client_cpu_s": round(trial["client"]["cpu_ns"] / 1e9, 2)}


def journal(path):
    """The records of a journal, each line of which begins with a checksum."""
    for line in path.read_text().splitlines():
        yield line[line.index("{"):]


def vllm(args, url):
    result = args.out / "vllm.json"
    result.unlink(missing_ok=True)
    used = run(args, [
        args.vllm, "bench", "serve", "--backend", "vllm", "--base-url", url, "--model", "mock", "--tokenizer", args.tokenizer,
        "--dataset-name", "random", "--random-input-len", args.prompt, "--random-output-len", args.generate,
        "--num-prompts", args.requests, "--max-concurrency", args.streams, "--ignore-eos", "--disable-tqdm", "--seed", args.seed,
        "--save-result", "--result-dir", args.out, "--result-filename", result.name])
    found = json.loads(result.read_text())
    return used | figures(found["completed"], args.requests, found["total_output_tokens"], found["duration"])


def guidellm(args, url):
    result = args.out / "guidellm.json"
    result.unlink(missing_ok=True)
    used = run(args, [
        args.guidellm, "run", "--backend", f"kind=openai_http,target={url},model=mock,request_format=/v1/completions",
        "--profile", f"kind=concurrent,streams={args.streams}", "--constraint", f"kind=max_requests,count={args.requests}",
        "--tokenizer", f"kind=hf_auto,model={args.tokenizer}",
        "--data", f"kind=synthetic_text,prompt_tokens={args.prompt},output_tokens={args.generate}",
        "--output", f"kind=json,path={result}", "--disable-console"])
    bench = json.loads(result.read_text())["benchmarks"][0]
    totals = bench["metrics"]["request_totals"]
    tokens = sum(request["output_metrics"]["text_tokens"] or 0 for request in bench["requests"]["successful"])
    return used | figures(totals["successful"], args.requests, tokens, bench["duration"])


def aiperf(args, url):
    folder = args.out / "aiperf"
    used = run(args, [
        args.aiperf, "profile", "--model", "mock", "--url", url, "--endpoint-type", "completions", "--streaming",
        "--concurrency", args.streams, "--request-count", args.requests, "--isl", args.prompt, "--osl", args.generate,
        "--extra-inputs", "ignore_eos:true", "--tokenizer", args.tokenizer, "--artifact-dir", folder, "--ui", "none",
        "--random-seed", args.seed, "--use-server-token-count"])
    found = json.loads((folder / "profile_export_aiperf.json").read_text())
    value = lambda name: found[name]["avg"]
    return used | figures(int(value("request_count")), args.requests, value("total_osl"), value("benchmark_duration"))


def figures(good, asked, tokens, seconds):
    return {"requests": good, "lost": asked - good, "tokens": int(tokens), "seconds": round(seconds, 3),
            "tokens_per_s": round(tokens / seconds), "requests_per_s": round(good / seconds, 1)}


def run(args, command):
    """Runs a client on its core; its processor time and the most memory that all of its processes had together."""
    environment = os.environ | {"DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}
    before = children_cpu_s()
    with open(args.out / "client.log", "w") as log:
        client = subprocess.Popen(["taskset", "-c", CLIENT_CORE, *map(str, command)], stdout=log, stderr=subprocess.STDOUT,
                                  env=environment, start_new_session=True)
        peak, over = [0], threading.Event()
        watcher = threading.Thread(target=watch, args=(client.pid, peak, over))
        watcher.start()
        try:
            code = client.wait(timeout=args.timeout)
        except subprocess.TimeoutExpired:
            os.killpg(client.pid, signal.SIGKILL)
            code = client.wait()
        finally:
            over.set()
            watcher.join()
    # 4: llmlab mistrusts a run in which its core was full, as it should.
    if code not in (0, 4):
        raise SystemExit(f"{command[0]} ended with {code}, see {args.out / 'client.log'}")
    return {"total_cpu_s": round(children_cpu_s() - before, 2), "rss_mib": round(peak[0] / 2**20)}


def watch(session, peak, over):
    while not over.wait(0.2):
        peak[0] = max(peak[0], sum(rss_bytes(pid) for pid in processes(session)))


def processes(session):
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int(stat(folder.name)[3]) == session:
                yield folder.name
        except (OSError, IndexError):
            pass


def stat(pid):
    """The fields of proc_pid_stat(5) behind the name, from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def rss_bytes(pid):
    try:
        return int(stat(pid)[21]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def cpu_s(pid):
    fields = stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_cpu_s():
    times = os.times()
    return times.children_user + times.children_system


def table(args, rows):
    best = max((median(rows, name, "tokens_per_s") for name in {row["client"] for row in rows} - {"llmlab"}), default=None)
    ours = median(rows, "llmlab", "tokens_per_s")
    lines = [f"{args.streams} streams, {args.prompt} tokens in, {args.generate} out, ITL {args.itl}; median [lowest, highest] of {args.repeats}.",
             "", "| client | tok/s | requests/s | lost | CPU s, whole program | RSS MiB |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(row["client"] for row in sorted(rows, key=lambda row: -row["tokens_per_s"])):
        cells = [spread(rows, name, key) for key in ("tokens_per_s", "requests_per_s", "lost", "total_cpu_s", "rss_mib")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if best:
        lines += ["", f"llmlab over the best peer: {ours / best:.1f}"]
    return "\n".join(lines) + "\n"


def values(rows, name, key):
    return [row[key] for row in rows if row["client"] == name]


def median(rows, name, key):
    return statistics.median(values(rows, name, key))


def spread(rows, name, key):
    found = values(rows, name, key)
    return f"{statistics.median(found):,g} [{min(found):,g}, {max(found):,g}]"


if __name__ == "__main__":
    main()
