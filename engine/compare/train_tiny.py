"""Trains a small Llama on the sources of Python's standard library, for comparisons that random weights cannot make.

    python train_tiny.py OUT [--steps 1200] [--seed 0]

Random weights give flat distributions whose perplexity hardly moves with rounding. Writes a Hugging Face folder to OUT/model
(4 layers, hidden 256, MLP 768, so that every quantized format finds whole blocks) and text it has not seen to OUT/heldout.txt.
Needs torch, transformers and tokenizers; ten minutes on two cores.
"""

import argparse
import math
import pathlib
import random
import sysconfig
import time

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 2048
HELD_OUT_CHARACTERS = 160_000
BEGIN, END = "<s>", "</s>"


def texts(seed):
    """Training text and held-out text: whole files, in a fixed random order."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    files = sorted(root.glob("*.py")) + sorted(root.glob("[a-z]*/*.py"))
    files = [file for file in files if not {"test", "tests", "site-packages", "dist-packages"} & set(file.parts)]
    random.Random(seed).shuffle(files)
    sources = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    held_out = ""
    while len(held_out) < HELD_OUT_CHARACTERS:
        held_out += sources.pop()[:20_000]
    return sources, held_out[:HELD_OUT_CHARACTERS]


def tokenizer(sources):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[BEGIN, END], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(sources, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return tokenizer


def train(model, tokens, steps, batch, length):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    warmup = max(1, steps // 20)
    rate = lambda step: min(1.0, (step + 1) / warmup) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    start = time.time()
    for step in range(steps):
        at = torch.randint(len(tokens) - length, (batch,))
        rows = torch.stack([tokens[i : i + length] for i in at])
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step + 1 == steps:
            print(f"step {step:4}  loss {loss.item():.3f}  {time.time() - start:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    sources, held_out = texts(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "heldout.txt").write_text(held_out, encoding="utf-8")
    bpe = tokenizer(sources)
    tokens = torch.tensor([id for text in bpe.encode_batch(sources) for id in text.ids])
    print(f"{len(tokens)} training tokens, {len(bpe.encode(held_out).ids)} held out", flush=True)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=bpe.token_to_id(BEGIN),
        eos_token_id=bpe.token_to_id(END),
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    train(model, tokens, args.steps, batch=4, length=256)
    model.save_pretrained(args.out / "model")
    PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=BEGIN, eos_token=END).save_pretrained(args.out / "model")


if __name__ == "__main__":
    main()
