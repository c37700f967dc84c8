"""One comparison: asks in an order that is fair to all, a probe between any two, everything written down at once."""

import json
import random
import sys
import time


def order(groups, repeat, seed):
    """The asks of a repetition: groups and their asks shuffled, and every second repetition runs the one before
    backwards, so that slow drift of the machine falls on all alike."""
    rng = random.Random(f"{seed}-{repeat // 2}")
    groups = [list(group) for group in groups]
    rng.shuffle(groups)
    for group in groups:
        rng.shuffle(group)
    asks = [ask for group in groups for ask in group]
    return asks if repeat % 2 == 0 else asks[::-1]


class Session:
    def __init__(self, path, header):
        self.file = open(path, "w", buffering=1)
        self.write({"kind": "machine", **header})

    def write(self, record):
        print(json.dumps(record), file=self.file)

    def run(self, groups, probe, repeats, seed):
        """An ask is a name and a function that returns rows. One that fails is written down and the rest go on.
        Returns how many failed."""
        failures = 0
        for repeat in range(repeats):
            before = probe()
            begin = time.monotonic()
            for name, ask in order(groups, repeat, seed):
                print(f"repeat {repeat + 1} of {repeats}: {name}", end="", file=sys.stderr, flush=True)
                started = time.monotonic()
                try:
                    rows, words = ask(), ""
                except Exception as error:  # noqa: BLE001
                    rows, words = [], str(error)
                    failures += 1
                took = time.monotonic() - started
                after = probe()
                if words:
                    self.write({"kind": "failure", "repeat": repeat, "ask": name, "words": words})
                for row in rows:
                    self.write({"kind": "row", "repeat": repeat, "ask": name, "ask_s": took, "before": before,
                                "after": after} | row)
                said = words or ", ".join(f"{row['row']} {row['tokens_per_s']:.1f}" for row in rows)
                print(f": {took:.1f} s: {said}", file=sys.stderr)
                before = after
            self.write({"kind": "repeat", "repeat": repeat, "seconds": time.monotonic() - begin})
        return failures
