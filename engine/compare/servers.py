"""The servers of the comparison: how each is started, all with the same threads and without prefix caching."""

import urllib.error
import urllib.request
from dataclasses import dataclass

import catalogue
from libraries import vllm_environment
from process import Process, wait_until

FIRST_PORT = 18450
# Prompt plus output of a request at most.
CONTEXT = 512


@dataclass
class Server:
    engine: str
    weights: str
    url: str
    process: Process

    def healthy(self):
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


def start(args):
    """Starts one after the other and pauses each once it answers, so that they share the cores with nobody."""
    wanted = [(ours, "llmlab", weights) for weights in args.ours]
    if args.llama_bin:
        wanted += [(llama, "llama-server", weights) for weights in args.llama]
    if args.vllm_python:
        wanted.append((vllm, "vllm serve", "bf16"))
    servers = []
    try:
        for index, (command, engine, weights) in enumerate(wanted):
            port = FIRST_PORT + index
            words, environment = command(args, weights, port)
            log = args.out / f"{engine}-{weights}.log".replace(" ", "-")
            server = Server(engine, weights, f"http://127.0.0.1:{port}", Process(words, log, environment))
            servers.append(server)
            wait_until(server.healthy, server.process, args.start_timeout, engine)
            server.process.pause()
    except BaseException:
        stop(servers)
        raise
    return servers


def stop(servers):
    for server in servers:
        server.process.close()


def ours(args, weights, port):
    knobs = {"max_num_seqs": max(args.streams), "enable_prefix_caching": "false", "kv_memory": "1GiB"}
    settings = [word for knob, value in knobs.items() for word in ("--set", f"{knob}={value}")]
    return [args.llmlab, "serve", "--model", args.models / catalogue.ours(weights), "--weights", weights, "--port", port,
            "--served-model-name", "m", "--threads", args.threads, "--max-model-len", CONTEXT, *settings], {}


def llama(args, weights, port):
    slots = max(args.streams)
    return [args.llama_bin / "llama-server", "-m", args.models / catalogue.GGUF[weights], "--port", port, "-t", args.threads,
            "-np", slots, "-c", slots * CONTEXT, "--no-cache-prompt", "-cram", 0, "--no-webui"], {}


def vllm(args, _weights, port):
    return [args.vllm_python.parent / "vllm", "serve", args.models / catalogue.FOLDER, "--served-model-name", "m", "--host",
            "127.0.0.1", "--port", port, "--dtype", "bfloat16", "--max-model-len", CONTEXT, "--max-num-seqs", max(args.streams),
            "--no-enable-prefix-caching"], vllm_environment(args.threads, 2)
