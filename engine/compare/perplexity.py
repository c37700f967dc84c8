"""Perplexity of the same files and the same text by llmlab and by llama.cpp.

    python perplexity.py --llmlab target/release/llmlab --llama-cpp .../build/bin --model DIR --text FILE --work DIR

MODEL is a Hugging Face folder, a .gguf file or synthetic:<preset>. For each format two files are scored, one written by llmlab
and one by llama-quantize, each by both programs, which read the text and keep their predictions by themselves. Their arithmetic
is told from their weights by a third prediction: f32 arithmetic on the dequantized weights of the same file, from which the
Kullback-Leibler divergence of both is taken. Keys and values are f32 in all. Prints a table in Markdown, and JSON lines to
WORK/rows.jsonl. Needs numpy, and llama-perplexity and llama-quantize in the folder --llama-cpp.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys

from predictions import Predictions

FORMATS = "f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 iq4_nl q2_k q3_k_m q4_k_m q5_k_m q6_k".split()


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


class Programs:
    def __init__(self, args):
        self.args = args
        self.kept = args.work / "kept.kld"

    def convert(self, model, out, weights):
        run([self.args.llmlab, "models", "convert", model, out, "--weights", weights, "--force"])

    def quantize(self, source, out, weights):
        run([self.args.llama_cpp / "llama-quantize", source, out, weights.upper(), self.args.threads])

    def ours(self, model, weights):
        command = [self.args.llmlab, "models", "perplexity", model, "--weights", weights, "--kv", "f32"]
        size = ["--context", self.args.context, "--chunks", self.args.chunks, "--threads", self.args.threads]
        self.kept.unlink(missing_ok=True)
        report = json.loads(run([*command, *size, "--text", self.args.text, "--save-logits", self.kept, "--json"]))
        return report, Predictions(self.kept)

    def theirs(self, model):
        command = [self.args.llama_cpp / "llama-perplexity", "-m", model, "-f", self.args.text]
        size = ["-c", self.args.context, "-b", self.args.context, "-ub", 512, "--chunks", self.args.chunks]
        exact = ["-ctk", "f32", "-ctv", "f32", "-fa", "off", "-t", self.args.threads]
        # What it prints is lost at its end now and then; the file is whole.
        run([*command, *size, *exact, "--kl-divergence-base", self.kept])
        return Predictions(self.kept)


def row(programs, name, writer, path):
    base, exact = programs.ours(path, "f32")
    report, ours = programs.ours(path, "as_stored")
    theirs = programs.theirs(path)
    return {
        "format": name,
        "written_by": writer,
        "scored_tokens": report["scored_tokens"],
        "exact_perplexity": base["perplexity"],
        "perplexity_stderr": base["perplexity_stderr"],
        "llmlab_perplexity": report["perplexity"],
        "llama_cpp_perplexity": theirs.perplexity(),
        "ln_ratio": math.log(report["perplexity"] / theirs.perplexity()),
        "llmlab_kl": exact.divergence_to(ours),
        "llama_cpp_kl": exact.divergence_to(theirs),
        "llmlab_same_top": exact.same_top(ours),
        "llama_cpp_same_top": exact.same_top(theirs),
    }


HEADER = (
    "| format | written by | f32 arithmetic | llmlab | llama.cpp | ln(llmlab / llama.cpp) | KL llmlab | KL llama.cpp | same top llmlab | llama.cpp |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def markdown(row):
    return (
        "| {format} | {written_by} | {exact_perplexity:.4f} ± {perplexity_stderr:.4f} | {llmlab_perplexity:.4f} | "
        "{llama_cpp_perplexity:.4f} | {ln_ratio:+.5f} | {llmlab_kl:.1e} | {llama_cpp_kl:.1e} | {llmlab_same_top:.2%} | "
        "{llama_cpp_same_top:.2%} |"
    ).format(**row)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmlab", type=pathlib.Path, required=True)
    parser.add_argument("--llama-cpp", type=pathlib.Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    parser.add_argument("--writers", nargs="+", default=["llmlab", "llama-quantize"])
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    programs = Programs(args)
    source, path = args.work / "f32.gguf", args.work / "scored.gguf"
    programs.convert(args.model, source, "f32")
    print(HEADER)
    with open(args.work / "rows.jsonl", "a", encoding="utf-8") as rows:
        for name in args.formats:
            for writer in args.writers:
                if writer == "llmlab":
                    programs.convert(args.model, path, name)
                else:
                    programs.quantize(source, path, name)
                found = row(programs, name, writer, path)
                rows.write(json.dumps({"model": args.model, **found}) + "\n")
                rows.flush()
                print(markdown(found), flush=True)
    for left in (path, programs.kept, source):
        left.unlink()


if __name__ == "__main__":
    main()
