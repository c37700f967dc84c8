"""Compares engines without a server: prefill and decode of one sequence, decode of many. See README.md.

    python engines.py --llmlab LLMLAB --models FOLDER --llama-bin FOLDER --vllm-python PYTHON --ct2-python PYTHON --out FOLDER

A peer whose place is not given is left out. Results: OUT/engines.jsonl and OUT/engines.md.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import machine
import summary
from libraries import CTranslate2, Vllm
from native import LlamaCpp, Ours
from probe import Probe
from process import exit_on_termination
from session import Session


@dataclass
class Sizes:
    prompt: int
    generate: int
    batch_prompt: int
    batches: list
    samples: int


def numbers(text):
    return [int(word) for word in text.split(",") if word]


def words(text):
    return [word for word in text.split(",") if word]


def arguments():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--llmlab", required=True, type=Path, help="the binary")
    options.add_argument("--models", required=True, type=Path, help="what make_models.py wrote")
    options.add_argument("--out", required=True, type=Path)
    options.add_argument("--llama-bin", type=Path, help="folder with llama-bench and llama-batched-bench")
    options.add_argument("--vllm-python", type=Path)
    options.add_argument("--ct2-python", type=Path)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--ours", type=words, default="int8,int4,q4_k_m,q8_0,q4_0,bf16", help="our formats")
    options.add_argument("--llama", type=words, default="q4_0,q4_k_m,q8_0,bf16", help="llama.cpp's formats")
    options.add_argument("--tests", type=words, default="single,batched")
    options.add_argument("--prompt", type=int, default=512, help="prefill tokens")
    options.add_argument("--generate", type=int, default=128, help="decode steps")
    options.add_argument("--batches", type=numbers, default="16,32")
    options.add_argument("--batch-prompt", type=int, default=128)
    options.add_argument("--samples", type=int, default=2, help="measurements of prefill and decode at each ask")
    return options.parse_args()


def main():
    args = arguments()
    exit_on_termination()
    args.out.mkdir(parents=True, exist_ok=True)
    sizes = Sizes(args.prompt, args.generate, args.batch_prompt, args.batches, args.samples)
    loaded = {}
    try:
        if args.vllm_python:
            loaded["vllm"] = Vllm(args, args.out / "vllm.log")
            print("loading vLLM", file=sys.stderr)
            loaded["vllm"].driver.wait_loaded()
        if args.ct2_python:
            loaded["ctranslate2"] = CTranslate2(args, args.out / "ctranslate2.log")
            loaded["ctranslate2"].driver.wait_loaded()
        probe = Probe(args.llmlab, args.threads)
        result = args.out / "engines.jsonl"
        session = Session(result, machine.describe(args.threads, programs(args)) | {"command": sys.argv})
        failures = session.run(groups(args, sizes, loaded), probe, args.repeats, args.seed)
    finally:
        for peer in loaded.values():
            peer.driver.close()
    text = summary.engines(summary.read(result))
    (args.out / "engines.md").write_text(text)
    print(text)
    return 1 if failures else 0


def groups(args, sizes, loaded):
    """The asks of each test: every engine in every format."""
    subjects = [("llmlab", weights, Ours(args)) for weights in args.ours]
    if args.llama_bin:
        subjects += [("llama.cpp", weights, LlamaCpp(args)) for weights in args.llama]
    if "vllm" in loaded:
        subjects.append(("vllm", "bf16", loaded["vllm"]))
    if "ctranslate2" in loaded:
        subjects.append(("ctranslate2", "int8", loaded["ctranslate2"]))
    return [
        [(f"{engine} {weights} {test}", partial(getattr(peer, test), weights, sizes))
         for engine, weights, peer in subjects if hasattr(peer, test)]
        for test in args.tests
    ]


def programs(args):
    found = {"llmlab": [args.llmlab, "--version"]}
    if args.llama_bin:
        found["llama.cpp"] = [args.llama_bin / "llama-bench", "--version"]
    if args.vllm_python:
        found["vllm"] = machine.package(args.vllm_python, "vllm")
    if args.ct2_python:
        found["ctranslate2"] = machine.package(args.ct2_python, "ctranslate2")
    return found


if __name__ == "__main__":
    sys.exit(main())
