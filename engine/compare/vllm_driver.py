"""vLLM's engine without its server, driven step by step. Runs under the Python that has vLLM.

    python vllm_driver.py MODEL_FOLDER

The engine lives in this process, so no message passing is timed. Prompts are random tokens, never the same twice.
"""

import itertools
import random
import sys
import time

from answering import serve, take_stdout

answers = take_stdout()

from vllm import EngineArgs, LLMEngine, SamplingParams  # noqa: E402

# Ids below are bytes and control tokens.
FIRST_TOKEN = 300
LONGEST = 1024

engine = LLMEngine.from_engine_args(EngineArgs(
    model=sys.argv[1], dtype="bfloat16", max_model_len=LONGEST, max_num_seqs=64, max_num_batched_tokens=4096,
    enable_prefix_caching=False, seed=0))
vocabulary = engine.model_config.get_vocab_size()
numbers = itertools.count()


def add(prompt, generate):
    """One request with a random prompt that generates so many tokens, whatever they are."""
    sampling = SamplingParams(temperature=0, max_tokens=generate, min_tokens=generate, ignore_eos=True, detokenize=False)
    tokens = [random.randrange(FIRST_TOKEN, vocabulary) for _ in range(prompt)]
    engine.add_request(str(next(numbers)), {"prompt_token_ids": tokens}, sampling)


def prefill(prompt, samples):
    """Prompt tokens per second, from handing in the request to its first token, one request at a time."""
    seconds = []
    for sample in range(samples + 1):
        begin = time.perf_counter()
        add(prompt, 1)
        while engine.has_unfinished_requests():
            engine.step()
        seconds.append(time.perf_counter() - begin)
    # The first one warms up.
    return {"samples": [prompt / each for each in seconds[1:]]}


def decode(batch, prompt, generate, samples):
    """Tokens per second of the steps after every request has its first token."""
    rates = []
    for _ in range(samples):
        for _ in range(batch):
            # The first token belongs to the prompt.
            add(prompt, generate + 1)
        written = {}
        while len(written) < batch:
            written |= lengths(engine.step())
        before, begin = sum(written.values()), time.perf_counter()
        while engine.has_unfinished_requests():
            written |= lengths(engine.step())
        rates.append((sum(written.values()) - before) / (time.perf_counter() - begin))
    return {"samples": rates}


def lengths(outputs):
    return {output.request_id: len(output.outputs[0].token_ids) for output in outputs}


# Compiles what is compiled lazily, for one sequence and for many.
prefill(512, 1)
decode(1, 1, 8, 1)
decode(32, 16, 8, 1)
serve(answers, {"prefill": prefill, "decode": decode})
