"""Compares servers under the same closed-loop load, one awake at a time. See README.md.

    python served.py --llmlab LLMLAB --models FOLDER --llama-bin FOLDER --vllm-python PYTHON --out FOLDER

A peer whose place is not given is left out. Results: OUT/served.jsonl and OUT/served.md.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import catalogue
import machine
import servers
import summary
from engines import words
from load import drive
from probe import Probe
from process import exit_on_termination
from session import Session


def streams(text):
    """"16x3,32x2": 16 streams with 3 requests each, then 32 with 2."""
    return {int(users): int(each) for users, each in (word.split("x") for word in words(text))}


def arguments():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--llmlab", required=True, type=Path, help="the binary")
    options.add_argument("--models", required=True, type=Path, help="what make_models.py wrote")
    options.add_argument("--out", required=True, type=Path)
    options.add_argument("--llama-bin", type=Path, help="folder with llama-server")
    options.add_argument("--vllm-python", type=Path, help="the `vllm` command lies beside it")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--ours", type=words, default="q4_0,q4_k_m,bf16", help="our formats")
    options.add_argument("--llama", type=words, default="q4_0", help="llama-server's formats")
    options.add_argument("--streams", type=streams, default="16x3,32x2", help="streams x requests of each")
    options.add_argument("--prompt", type=int, default=128)
    options.add_argument("--start-timeout", type=int, default=300, help="seconds that a server may take to load")
    options.add_argument("--generate", type=int, default=128)
    return options.parse_args()


def main():
    args = arguments()
    exit_on_termination()
    args.out.mkdir(parents=True, exist_ok=True)
    args.folder = args.models / catalogue.FOLDER
    print("starting servers", file=sys.stderr)
    alive = servers.start(args)
    try:
        for server in alive:
            ask(args, server, streams=4, requests=4, generate=16)
        result = args.out / "served.jsonl"
        session = Session(result, machine.describe(args.threads, programs(args)) | {"command": sys.argv})
        groups = [
            [(f"{server.engine} {server.weights}, {users} streams",
              partial(ask, args, server, streams=users, requests=users * each, generate=args.generate))
             for server in alive]
            for users, each in args.streams.items()
        ]
        failures = session.run(groups, Probe(args.llmlab, args.threads), args.repeats, args.seed)
    finally:
        servers.stop(alive)
    text = summary.served(summary.read(result))
    (args.out / "served.md").write_text(text)
    print(text)
    return 1 if failures else 0


def ask(args, server, streams, **workload):
    """One closed loop against one server; the others sleep."""
    server.process.resume()
    try:
        found = drive(args.llmlab, args.folder, server.url, args.out / "runs", seed=args.seed, prompt=args.prompt,
                      streams=streams, **workload)
    finally:
        server.process.pause()
    return [{"row": f"streams {streams}", "engine": server.engine, "format": server.weights, **found}]


def programs(args):
    found = {"llmlab": [args.llmlab, "--version"]}
    if args.llama_bin:
        found["llama.cpp"] = [args.llama_bin / "llama-server", "--version"]
    if args.vllm_python:
        found["vllm"] = machine.package(args.vllm_python, "vllm")
    return found


if __name__ == "__main__":
    sys.exit(main())
