"""Renders benchmarks/README.md: one line a program, and the latest table of each from results/.

    python benchmarks/readme.py

Programs describe themselves in the first line of their docstring; tables and machine come from what `harness.publish` wrote.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

from harness import RESULTS, table

FOLDER = Path(__file__).parent
PARTS = ("harness", "flow", "readme")  # no programs that measure
INTRODUCTION = """# Benchmarks

Each is a program that prints one table: variants side by side in one run, medians and spread over several rounds (largest
less smallest, over the median). Ratios count: seconds are this machine's, and it is a noisy one. The tables as JSON, with the
raw figures, are in `results/`. `python benchmarks/readme.py` writes this file; what the figures mean for a run at scale is in
[docs/performance.md](../docs/performance.md)."""


def programs() -> list[list[str]]:
    """Name and first line of each program."""
    paths = [path for path in sorted(FOLDER.glob("*.py")) if path.stem not in PARTS]
    return [[f"`{path.name}`", (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]] for path in paths]


def results() -> list[str]:
    """A section for each result."""
    sections = []
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text())
        machine = content["machine"]
        where = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, {machine['date']}"
        sections += [f"## {path.stem}", table(content["header"], content["rows"]), where]
    return sections


def main() -> None:
    """Write the file."""
    (FOLDER / "README.md").write_text("\n\n".join([INTRODUCTION, table(["program", ""], programs()), *results()]) + "\n")


if __name__ == "__main__":
    main()
