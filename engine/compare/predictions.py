"""Predictions kept by `llmlab models perplexity --save-logits` or `llama-perplexity --kl-divergence-base`: one layout."""

import numpy as np

LEAST_LOG_PROBABILITY = -16.0


class Predictions:
    """Log-probabilities of every token of the vocabulary at every scored position of a text."""

    def __init__(self, path):
        data = path.read_bytes()
        if data[:8] != b"_logits_":
            raise ValueError(f"{path} is no file of predictions")
        self.context, self.vocab, count = (int(number) for number in np.frombuffer(data, "<i4", 3, 8))
        self.windows = np.frombuffer(data, "<i4", count * self.context, 20).reshape(count, self.context)
        self.first = self.context // 2
        positions = count * (self.context - 1 - self.first)
        words = 4 + self.vocab + self.vocab % 2
        start = 20 + 4 * self.windows.size
        records = np.frombuffer(data, "<u2", positions * words, start).reshape(positions, words)
        step = np.ascontiguousarray(records[:, :4]).view("<f4")
        self.log_p = records[:, 4 : 4 + self.vocab].astype(np.float32) * step[:, :1] + step[:, 1:]
        self.next = self.windows[:, self.first + 1 :].reshape(-1)

    def nll(self):
        """Negative log likelihood of the token that follows each position."""
        return -self.log_p[np.arange(len(self.next)), self.next].astype(np.float64)

    def perplexity(self):
        return float(np.exp(self.nll().mean()))

    def divergence_to(self, other):
        """Mean Kullback-Leibler divergence of the other predictions from these, as `llmlab models perplexity` computes it."""
        if not np.array_equal(self.next, other.next):
            raise ValueError("predictions of different tokens")
        total = 0.0
        for base, found in zip(self.log_p, other.log_p):
            counts = base > LEAST_LOG_PROBABILITY
            base, found = base[counts].astype(np.float64), found[counts].astype(np.float64)
            p = np.exp(base)
            total += (p * (base - found) + np.exp(found) - p).sum()
        return total / len(self.next)

    def same_top(self, other):
        """Share of the positions whose likeliest token is the same."""
        return float((self.log_p.argmax(1) == other.log_p.argmax(1)).mean())
