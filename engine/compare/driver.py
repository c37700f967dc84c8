"""Peers that are Python libraries: a driver process loads the model once and answers asks, one line of JSON each."""

import json
import subprocess

from process import Process


class Driver(Process):
    def __init__(self, command, log, env=None):
        super().__init__(command, log, env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_loaded(self):
        """The first answer says that the model is there; the driver is paused from then on."""
        self.answer()
        self.pause()

    def ask(self, question):
        self.resume()
        try:
            self.child.stdin.write(json.dumps(question) + "\n")
            self.child.stdin.flush()
            return self.answer()
        finally:
            self.pause()

    def answer(self):
        line = self.child.stdout.readline()
        if not line:
            self.child.wait()
            self.check()
        return json.loads(line)
