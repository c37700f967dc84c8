"""Our engine and llama.cpp: commands that load, measure, print and end."""

import catalogue
from run import json_lines


class Ours:
    """`llmlab bench-engine`, in the formats named."""

    def __init__(self, args):
        self.llmlab, self.models, self.threads = args.llmlab, args.models, args.threads

    def single(self, weights, sizes):
        return self.rows(weights, ["--pp", sizes.prompt, "--tg", sizes.generate, "--batch", 0, "-r", sizes.samples], sizes)

    def batched(self, weights, sizes):
        batches = ",".join(map(str, sizes.batches))
        tokens = ["--prompt-tokens", sizes.batch_prompt, "--generate-tokens", sizes.generate]
        return self.rows(weights, ["--pp", 0, "--tg", 0, "--batch", batches, "-r", 1, *tokens], sizes)

    def rows(self, weights, tests, sizes):
        command = [self.llmlab, "bench-engine", "--model", self.models / catalogue.ours(weights), "--weights", weights,
                   "--threads", self.threads, "--json", *tests]
        return [self.row(weights, row) for row in json_lines(command)]

    def row(self, weights, row):
        """The operations of a token are what all engines are held to; the bytes of a step, those of its format."""
        phase = "pp" if row["test"].startswith("pp") else "tg"
        name = {"pp": "prefill", "tg": "decode"}.get(row["test"][:2], f"batch {row['pl']}")
        speed = row[f"speed_{phase}"]
        return {
            "row": name, "engine": "llmlab", "format": weights, "tokens_per_s": speed, "peak": row["peak"],
            "ops_per_token": row[f"{phase}_compute_share"] * row["peak_ops_per_s"] / speed,
            "bytes_per_step": row["tg_bytes_per_step"], "of_llmlab": row,
        }


class LlamaCpp:
    """`llama-bench` for one sequence and `llama-batched-bench` for many."""

    def __init__(self, args):
        self.folder, self.models, self.threads = args.llama_bin, args.models, args.threads

    def single(self, weights, sizes):
        rows = json_lines([self.folder / "llama-bench", *self.model(weights), "-p", sizes.prompt, "-n", sizes.generate,
                           "-r", sizes.samples, "-o", "jsonl"])
        return [self.row("prefill" if row["n_prompt"] else "decode", weights, row["avg_ts"], row) for row in rows]

    def batched(self, weights, sizes):
        context = max(sizes.batches) * (sizes.batch_prompt + sizes.generate)
        rows = json_lines([self.folder / "llama-batched-bench", *self.model(weights), "-c", context, "-b", 2048, "-ub", 512,
                           "-npp", sizes.batch_prompt, "-ntg", sizes.generate, "-npl", ",".join(map(str, sizes.batches)),
                           "--output-format", "jsonl"])
        return [self.row(f"batch {row['pl']}", weights, row["speed_tg"], row) for row in rows]

    def model(self, weights):
        return ["-m", self.models / catalogue.GGUF[weights], "-t", self.threads]

    def row(self, name, weights, speed, row):
        return {"row": name, "engine": "llama.cpp", "format": weights, "tokens_per_s": speed, "of_llama_cpp": row}
