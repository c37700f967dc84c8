"""Writes the model of the comparison in the format of every engine: one shape, the same random weights.

    python make_models.py --llmlab LLMLAB --models FOLDER [--ct2-python PYTHON]

What exists is kept. FOLDER takes 8 GB. Without --ct2-python, CTranslate2 gets no model.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from catalogue import CT2, FOLDER, GGUF, HF_QUANTIZED, PRESET


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--llmlab", required=True)
    options.add_argument("--models", required=True, type=Path)
    options.add_argument("--ct2-python")
    args = options.parse_args()

    args.models.mkdir(parents=True, exist_ok=True)
    base = args.models / FOLDER
    make(base, [args.llmlab, "models", "synth", PRESET, base, "--weights", "bf16"])
    for weights, name in (GGUF | HF_QUANTIZED).items():
        path = args.models / name
        make(path, [args.llmlab, "models", "convert", base, path, "--weights", weights])
    if args.ct2_python:
        path = args.models / CT2
        convert = "from ctranslate2.converters.transformers import main; main()"
        make(path, [args.ct2_python, "-c", convert, "--model", base, "--output_dir", path, "--quantization", "int8",
                    "--low_cpu_mem_usage"])


def make(path, command):
    if path.exists():
        print(f"{path} exists")
        return
    print(f"making {path}", flush=True)
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{path} was not made:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
