"""Predictions of llmlab's folders by transformers and by vLLM on the CPU, next to llmlab's own.

    python exports.py --llmlab target/release/llmlab --model DIR --text FILE --work DIR [--formats ...] [--peers transformers vllm]

Writes MODEL in each format of `llmlab models convert`, keeps what f32 arithmetic on its dequantized weights predicts for the text
(the base), and lets llmlab and each peer predict the same tokens in the format itself. Each peer runs in a process of its own: what
it cannot load is a row of the table, not the end of it. Columns: mean negative log likelihood of the scored tokens, and root mean
square of its difference from the base's, token by token. Needs numpy and the peers: torch with transformers and
compressed-tensors, vllm (CPU build).
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
from predictions import Predictions

FORMATS = "bf16 int8 fp8 fp8_tensor fp8_block w4a16 w4a16_asym awq awq_gemv gptq gptq_act_order gptq_v2 gptq_8bit".split()


def with_transformers(folder, base):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    nll = []
    with torch.no_grad():
        for window in base.windows:
            logits = model(torch.tensor(window[None].astype(np.int64))).logits[0, base.first : -1].float()
            log_p = logits.log_softmax(-1)
            nll.append(-log_p[torch.arange(len(log_p)), torch.tensor(window[base.first + 1 :].astype(np.int64))])
    return torch.cat(nll).numpy()


def with_vllm(folder, base):
    from vllm import LLM, SamplingParams

    size = base.context + 16
    model = LLM(folder, skip_tokenizer_init=True, enforce_eager=True, max_model_len=size, max_num_seqs=4,
                gpu_memory_utilization=0.2)
    ask = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
    answers = model.generate([{"prompt_token_ids": window.tolist()} for window in base.windows], ask)
    nll = []
    for window, answer in zip(base.windows, answers):
        at = range(base.first + 1, base.context)
        nll += [-answer.prompt_logprobs[i][int(window[i])].logprob for i in at]
    return np.array(nll)


PEERS = {"transformers": with_transformers, "vllm": with_vllm}


def child(args):
    base = Predictions(args.work / "base.kld")
    if args.begin is not None:
        base.windows = base.windows.copy()
        base.windows[:, 0] = args.begin
    nll = PEERS[args.peer](str(args.work / "folder"), base)
    difference = nll - base.nll()
    print("RESULT " + json.dumps({"nll": float(nll.mean()), "rms": float(np.sqrt((difference**2).mean()))}))


def llmlab(args, *command):
    command = [str(args.llmlab.resolve()), "models", *map(str, command)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def perplexity(args, *more):
    return json.loads(llmlab(args, "perplexity", args.work / "folder", "--kv", "f32", "--json", *more))


def ask(args, peer, begin):
    command = [sys.executable, __file__, "--peer", peer, "--work", str(args.work)]
    if begin is not None:
        command += ["--begin", str(begin)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=args.limit)
    except subprocess.TimeoutExpired:
        return f"no answer in {args.limit} s"
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if found:
        return json.loads(found[0][7:])
    (args.work / f"{peer}.log").write_text(done.stdout + done.stderr)
    errors = re.findall(r"^.*?\b\w*Error: (.+)$", done.stdout + done.stderr, re.MULTILINE)
    # The first is the cause; those after it say that the process died of it.
    return errors[0].strip()[:160] if errors else f"exit {done.returncode}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmlab", type=pathlib.Path)
    parser.add_argument("--model")
    parser.add_argument("--text", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--limit", type=int, default=900, help="seconds for one peer and format")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return child(args)
    args.work.mkdir(parents=True, exist_ok=True)
    print("| format | who | mean nll | rms of nll against f32 arithmetic |\n|---|---|---|---|")
    for name in args.formats:
        base = args.work / "base.kld"
        base.unlink(missing_ok=True)
        llmlab(args, "convert", args.model, args.work / "folder", "--weights", name, "--force")
        text = ["--text", args.text, "--context", args.context, "--chunks", args.chunks]
        exact = perplexity(args, *text, "--weights", "f32", "--save-logits", base)
        print(f"| {name} | f32 arithmetic | {exact['nll']:.5f} | |", flush=True)
        ours = perplexity(args, "--kl-base", base)
        rms = ours["divergence"]["nll_change_rms"]
        print(f"| {name} | llmlab, {ours['weights']} | {ours['nll']:.5f} | {rms:.5f} |", flush=True)
        for peer in args.peers:
            found = ask(args, peer, exact["begin_token"])
            if isinstance(found, str):
                print(f"| {name} | {peer} | not opened: {found} | |", flush=True)
            else:
                print(f"| {name} | {peer} | {found['nll']:.5f} | {found['rms']:.5f} |", flush=True)


if __name__ == "__main__":
    main()
