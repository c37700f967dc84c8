"""The other end of `driver.Driver`, inside a driver process: asks on standard input, answers on standard output."""

import json
import os
import sys


def take_stdout():
    """Where answers go. What libraries print goes to standard error from now on, also from other languages."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def serve(answers, tests):
    """`tests` maps a name to a function of the ask's other fields that returns an answer."""
    print(json.dumps({"loaded": True}), file=answers)
    for line in sys.stdin:
        ask = json.loads(line)
        print(json.dumps(tests[ask.pop("test")](**ask)), file=answers)
