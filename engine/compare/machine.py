"""Facts about the machine and the programs that stand above every result."""

import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path


def describe(threads, programs):
    """`programs` maps a name to the command that prints its version."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "threads": threads,
        "load_average": os.getloadavg()[0],
        "versions": {name: version(command) for name, command in programs.items()},
    }


def cpu():
    """The model, and the vector extensions that decide which kernels run."""
    fields = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set(fields.get("flags", "").split())
    known = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if name in flags]
    return f"{fields.get('model name', platform.machine())} ({', '.join(known)})"


def version(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    said = (done.stdout + done.stderr).strip().splitlines()
    if done.returncode != 0 or not said:
        return "unknown"
    line = next((line for line in said if "version" in line), said[-1])
    return line.removeprefix("version: ").removeprefix("llmlab ")


def package(python, name):
    """The command that prints a Python package's version."""
    return [python, "-c", f"from importlib.metadata import version; print(version({name!r}))"]
