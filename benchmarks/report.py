"""Reporting ten million rows: time and peak memory of `jobs/report.py`, and the size of the page.

    python benchmarks/report.py

The rows are those of benchmarks/filter.py, in a folder that is removed at the end. Without thumbnails: what they cost depends
on their hosts, and not on the number of rows.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from filter import Measured, make_rows, run_measured
from harness import publish

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Make the rows, report them, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the rows here, and use those that are here already")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="report-rows-"))
    page = folder / "report.html"
    try:
        if not (folder / "rows").exists():
            make_rows(folder / "rows", options.rows)
        program = [sys.executable, str(ROOT / "jobs" / "report.py"), "--report.thumbnails", "false", "--json"]
        command = [*program, "--input.manifest", str(folder / "rows"), "--output.path", str(page)]
        report(run_measured(command, options.cores), page.stat().st_size, options.rows)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def report(run: Measured, size: int, rows: int) -> None:
    """Print the table."""
    row = [
        f"{rows:,}",
        f"{run.seconds:.1f}",
        f"{rows / run.seconds:,.0f}",
        f"{run.cpu_s:.1f}",
        f"{run.peak_mb:,.0f}",
        f"{size / 1e6:.2f}",
    ]
    figures = {"rows": rows, **run._asdict(), "page_bytes": size}
    publish("report", ["rows", "seconds", "rows/s", "CPU seconds", "peak MB", "page MB"], [row], figures)


if __name__ == "__main__":
    main()
