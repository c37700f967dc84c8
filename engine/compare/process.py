"""Processes that live through a whole comparison and are stopped while others are measured."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

STOP_TIMEOUT_S = 20


def exit_on_termination():
    """A comparison that is told to end ends what it started, too."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


class Process:
    """A command in a process group of its own. It uses no core while it is paused."""

    def __init__(self, command, log, env=None, **streams):
        self.command = [str(word) for word in command]
        self.log = Path(log)
        with self.log.open("wb") as messages:
            streams = {"stdin": subprocess.DEVNULL, "stdout": messages, "stderr": messages} | streams
            self.child = subprocess.Popen(
                self.command, env=os.environ | (env or {}), start_new_session=True, **streams)

    def check(self):
        """Raises when the process has ended."""
        code = self.child.poll()
        if code is not None:
            raise RuntimeError(f"{self.command[0]} ended with {code}; its log {self.log} ends with:\n{self.last_words()}")

    def last_words(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.check()
        self.signal(signal.SIGCONT)

    def signal(self, number):
        os.killpg(self.child.pid, number)

    def close(self):
        """Ends the whole group, asked first and then told."""
        try:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            self.child.wait(STOP_TIMEOUT_S)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
        try:
            self.signal(signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()


def wait_until(ready, process, timeout_s, what):
    """Polls `ready` until it holds; fails when the process ends or the time is over."""
    end = time.monotonic() + timeout_s
    while not ready():
        process.check()
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not answer within {timeout_s} s:\n{process.last_words()}")
        time.sleep(0.2)
