"""CTranslate2's generator in int8. Runs under the Python that has CTranslate2.

    python ct2_driver.py MODEL_FOLDER THREADS

CTranslate2 computes all of the prompt but its last token without logits, then the last one with them.
"""

import json
import random
import sys
import time
from pathlib import Path

from answering import serve, take_stdout

answers = take_stdout()

import ctranslate2  # noqa: E402

# Tokens below are bytes and control tokens.
FIRST_TOKEN = 300

folder = Path(sys.argv[1])
generator = ctranslate2.Generator(
    str(folder), device="cpu", compute_type="int8", inter_threads=1, intra_threads=int(sys.argv[2]))
vocabulary = json.loads((folder / "vocabulary.json").read_text())[FIRST_TOKEN:]


def prefill(prompt, samples):
    """Prompt tokens per second, from handing in the prompt to its first token."""
    seconds = []
    for _ in range(samples + 1):
        tokens = random.choices(vocabulary, k=prompt)
        begin = time.perf_counter()
        result = generator.generate_batch(
            [tokens], max_length=1, min_length=1, sampling_topk=1, include_prompt_in_result=False)
        seconds.append(time.perf_counter() - begin)
        assert len(result[0].sequences[0]) == 1
    # The first one warms up.
    return {"samples": [prompt / each for each in seconds[1:]]}


serve(answers, {"prefill": prefill})
