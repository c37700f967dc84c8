"""What the model of the comparison is called in each format, below the folder of models."""

PRESET = "llama-1.1b"
# Hugging Face folder in bf16: for vLLM, and what all others are converted from.
FOLDER = "llama-1.1b"
# Our engine and llama.cpp read the same files.
GGUF = {weights: f"llama-1.1b-{weights}.gguf" for weights in ("bf16", "q8_0", "q4_0", "q4_k_m")}
# Formats of ours that GGUF does not have, quantized beforehand so that no measurement waits for it.
HF_QUANTIZED = {weights: f"llama-1.1b-{weights}" for weights in ("int8", "int4")}
CT2 = "llama-1.1b-ct2-int8"


def ours(weights):
    """The file or folder that `llmlab` loads for a format."""
    return (GGUF | HF_QUANTIZED)[weights]
