"""vLLM and CTranslate2: libraries that stay loaded in a driver process."""

from pathlib import Path
from statistics import mean

import catalogue
from driver import Driver

HERE = Path(__file__).parent


def vllm_environment(threads, kv_gib):
    """vLLM's settings for its CPU backend, without a network."""
    return {
        "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(kv_gib), "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "VLLM_HOST_IP": "127.0.0.1",
    }


class Vllm:
    """vLLM in bf16, its engine called directly."""

    def __init__(self, args, log):
        environment = vllm_environment(args.threads, 2) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        command = [args.vllm_python, HERE / "vllm_driver.py", args.models / catalogue.FOLDER]
        self.driver = Driver(command, log, environment)

    def single(self, weights, sizes):
        prefill = self.driver.ask({"test": "prefill", "prompt": sizes.prompt, "samples": sizes.samples})
        # The shortest prompt there is, for a decode from an empty context.
        decode = self.driver.ask({"test": "decode", "batch": 1, "prompt": 1, "generate": sizes.generate,
                                  "samples": sizes.samples})
        return [row("prefill", "vllm", weights, prefill), row("decode", "vllm", weights, decode)]

    def batched(self, weights, sizes):
        return [
            row(f"batch {batch}", "vllm", weights, self.driver.ask({
                "test": "decode", "batch": batch, "prompt": sizes.batch_prompt, "generate": sizes.generate, "samples": 1}))
            for batch in sizes.batches
        ]


class CTranslate2:
    """CTranslate2 in int8: the prompt alone."""

    def __init__(self, args, log):
        self.driver = Driver([args.ct2_python, HERE / "ct2_driver.py", args.models / catalogue.CT2, args.threads], log)

    def single(self, weights, sizes):
        answer = self.driver.ask({"test": "prefill", "prompt": sizes.prompt, "samples": sizes.samples})
        return [row("prefill", "ctranslate2", weights, answer)]


def row(name, engine, weights, answer):
    return {"row": name, "engine": engine, "format": weights, "tokens_per_s": mean(answer["samples"]), **answer}
