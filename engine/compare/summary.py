"""Markdown tables of a comparison's JSON lines.

    python summary.py RESULT.jsonl
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

OURS = "llmlab"


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def engines(records):
    """A table for each row: every engine in every format, next to the best peer and to the machine."""
    costs = costs_of(records)
    parts = [header(records)]
    for name, subjects in by_row(records).items():
        table = [
            f"## {name}", "",
            "| engine | format | tok/s | to the best peer | to the same format | of bandwidth | of compute | probe GB/s |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for key, rows in fastest_first(subjects):
            table.append(cells([
                *key, spread([row["tokens_per_s"] for row in rows]), to_peer(subjects, key, peers(subjects)),
                to_peer(subjects, key, [peer for peer in peers(subjects) if peer[1] == key[1]]),
                share(rows, bandwidth_share, costs), share(rows, compute_share, costs), probes(rows)]))
        parts.append("\n".join(table))
    return "\n\n".join(parts + failures(records)) + "\n"


def served(records):
    """A table for each number of streams: output rate, and the latencies that users see."""
    parts = [header(records)]
    for name, subjects in by_row(records).items():
        table = [
            f"## {name}", "",
            "| server | weights | output tok/s | to the best peer | TTFT mean, s | TPOT mean, ms | probe GB/s |",
            "|---|---|---|---|---|---|---|",
        ]
        for key, rows in fastest_first(subjects):
            table.append(cells([
                *key, spread([row["tokens_per_s"] for row in rows]) + untrusted(rows), to_peer(subjects, key, peers(subjects)),
                spread([row["ttft_mean_s"] for row in rows]), spread([row["tpot_mean_s"] * 1e3 for row in rows]),
                probes(rows)]))
        parts.append("\n".join(table))
    return "\n\n".join(parts + failures(records)) + "\n"


def untrusted(rows):
    """How many repetitions the load generator itself put in doubt."""
    count = sum(not row["trusted"] for row in rows)
    return f" ({count} UNTRUSTED)" if count else ""


def header(records):
    facts = records[0]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    repeats = [record for record in records if record["kind"] == "repeat"]
    minutes = ", ".join(f"{record['seconds'] / 60:.1f}" for record in repeats) or "none finished"
    return (f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}; {facts['threads']} threads; "
            f"{facts['date']}, load average at the start {facts['load_average']:.2f}\n\n{versions}\n\n"
            f"Median [lowest, highest] over repetitions, interleaved; minutes of each: {minutes}.")


def by_row(records):
    """{row: {(engine, format): [records]}}, in the order of `place`."""
    found = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["kind"] == "row":
            found[record["row"]][record["engine"], record["format"]].append(record)
    return dict(sorted(found.items(), key=lambda item: place(item[0])))


def place(row):
    """Prefill, decode, then by batch or streams."""
    word, *number = row.split()
    return {"prefill": 0, "decode": 1}.get(word, 2), int(number[0]) if number else 0


def fastest_first(subjects):
    return sorted(subjects.items(), key=lambda item: -rate(item[1]))


def rate(rows):
    return median(row["tokens_per_s"] for row in rows)


def peers(subjects):
    return [key for key in subjects if key[0] != OURS]


def to_peer(subjects, key, candidates):
    """Our rate over that of the fastest candidate, repetition by repetition."""
    if key[0] != OURS or not candidates:
        return ""
    best = max(candidates, key=lambda peer: rate(subjects[peer]))
    theirs = {row["repeat"]: row["tokens_per_s"] for row in subjects[best]}
    ratios = [row["tokens_per_s"] / theirs[row["repeat"]] for row in subjects[key] if row["repeat"] in theirs]
    return f"{spread(ratios)} {' '.join(best)}" if ratios else ""


def costs_of(records):
    """What a token costs in operations and a step in bytes, from our engine's rows: {(row, format): costs}."""
    return {
        (record["row"], record["format"]): record for record in records
        if record["kind"] == "row" and record["engine"] == OURS and record.get("ops_per_token")
    }


def share(rows, of, costs):
    known = [costs.get((row["row"], row["format"])) for row in rows]
    shares = [of(row, cost) for row, cost in zip(rows, known) if cost]
    shares = [value for value in shares if value is not None]
    return spread([100 * value for value in shares]) + " %" if shares else ""


def bandwidth_share(row, cost):
    if not cost["bytes_per_step"]:
        return None
    steps_per_s = row["tokens_per_s"] / cost["of_llmlab"]["pl"]
    return steps_per_s * cost["bytes_per_step"] / mean_bandwidth(row)


def compute_share(row, cost):
    peaks = [probe["peak_ops_per_s"].get(cost["peak"]) for probe in (row["before"], row["after"])]
    # A neighbour only ever makes a peak look lower.
    return row["tokens_per_s"] * cost["ops_per_token"] / max(peaks) if all(peaks) else None


def mean_bandwidth(row):
    return (row["before"]["bandwidth_bytes_per_s"] + row["after"]["bandwidth_bytes_per_s"]) / 2


def probes(rows):
    return spread([probe["bandwidth_bytes_per_s"] / 1e9 for row in rows for probe in (row["before"], row["after"])])


def spread(values):
    """Median [lowest, highest], three digits."""
    if len(values) == 1:
        return digits(values[0])
    return f"{digits(median(values))} [{digits(min(values))}, {digits(max(values))}]"


def digits(value):
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def cells(values):
    return f"| {' | '.join(values)} |"


def failures(records):
    failed = [record for record in records if record["kind"] == "failure"]
    lines = [f"- repetition {record['repeat'] + 1}, {record['ask']}: {record['words'].splitlines()[0]}" for record in failed]
    return ["## Failed\n\n" + "\n".join(lines)] if failed else []


if __name__ == "__main__":
    records = read(sys.argv[1])
    print((served if any("ttft_mean_s" in record for record in records) else engines)(records))
