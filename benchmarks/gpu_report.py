"""Report of `on_gpu`: a JSON file, and rows of a Markdown table."""

import json
import statistics
from pathlib import Path
from typing import Any

Times = dict[str, list[float]]


def describe(times: Times) -> dict[str, dict[str, float]]:
    """Return median, quartiles and the ratio to the first way of each way."""
    first = statistics.median(next(iter(times.values())))
    found = {}
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        found[name] = {"median_ms": middle, "low_ms": low, "high_ms": high, "ratio": middle / first}
    return found


def write(out: Path, found: dict[str, Any]) -> None:
    """Write what has been measured so far."""
    (out / "on_gpu.json").write_text(json.dumps(found, indent=2) + "\n")
    (out / "on_gpu.md").write_text(table(found))


def table(found: dict[str, Any]) -> str:
    """Return the measurements as rows of a Markdown table."""
    lines = [
        f"{found['device']}, {found['versions']}",
        "",
        "| measurement | way | ms (quartiles) | ratio |",
        "|---|---|---|---|",
    ]
    for name, ways in found["measurements"].items():
        for way, v in ways.items():
            quartiles = f"{v['low_ms']:.2f}–{v['high_ms']:.2f}"
            lines.append(f"| {name} | {way} | {v['median_ms']:.2f} ({quartiles}) | {v['ratio']:.2f} |")
    return "\n".join(lines) + "\n"
