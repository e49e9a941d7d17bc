"""Side-by-side measurement: variants take turns in one run, medians and spread of their times, ratios to the first.

Two runs of a noisy machine cannot be compared; two variants that took turns within one can. Results go to stdout as a table
and to benchmarks/results/NAME.json. Knows nothing of what is measured.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"


class Timing(NamedTuple):
    """Seconds of one variant."""

    median_s: float
    spread: float  # (largest - smallest) / median

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """From the seconds of each round."""
        median = statistics.median(seconds)
        return cls(median, (max(seconds) - min(seconds)) / median)


def take_turns(variants: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1) -> dict[str, Timing]:
    """Time each variant once a round, in an order that is reversed every other round."""
    for _ in range(warm_up):
        for run in variants.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        names = list(variants) if number % 2 == 0 else list(reversed(variants))
        for name in names:
            began = time.perf_counter()
            variants[name]()
            seconds[name].append(time.perf_counter() - began)
    return {name: Timing.of(values) for name, values in seconds.items()}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def publish(name: str, header: list[str], rows: list[list[str]], figures: Mapping[str, Any]) -> None:
    """Print the table, and write it with the raw figures and the machine to results/NAME.json."""
    print(table(header, rows))
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(), "header": header, "rows": rows, "figures": dict(figures)}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
