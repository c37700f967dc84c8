"""What the machine can do at this moment: read bandwidth and arithmetic peaks, measured by llmlab's own probes."""

from run import json_lines


class Probe:
    """Two seconds a call: a tiny model in two formats, whose rows carry the probes of both kinds of arithmetic."""

    def __init__(self, llmlab, threads):
        self.command = [llmlab, "bench-engine", "--model", "synthetic:llama-15m", "--weights", "bf16,q8_0", "--pp", 0,
                        "--tg", 1, "--batch", 0, "-r", 1, "--threads", threads, "--json"]

    def __call__(self):
        rows = json_lines(self.command)
        bounds = [row[f"read_bandwidth_{end}_bytes_per_s"] for row in rows for end in ("min", "max")]
        peaks = {row["peak"]: row["peak_ops_per_s"] for row in rows}
        return {"bandwidth_bytes_per_s": sum(bounds) / len(bounds), "peak_ops_per_s": peaks}
