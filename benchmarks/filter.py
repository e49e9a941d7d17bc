"""Filtering ten million rows: time and peak memory of `jobs/filter.py` beside DuckDB and Polars doing the same.

    python benchmarks/filter.py --python /tmp/others/bin/python     # with duckdb and polars; neither is a dependency

The rule: scored rows with itm_score >= 0.5, of each image the row with the highest itm_logit, of these the top 30 % by
itc_similarity; the rows that stay are written with all columns as zstd Parquet. Each program runs in a process of its own, held
to `--cores` cores; the rows are made by this program, in a folder that is removed at the end. All have to keep the same rows.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
from harness import publish

ROOT = Path(__file__).parents[1]
FILE_ROWS = 100_000
WORDS = pa.array(["a", "red", "blue", "old", "photo", "of", "two", "dogs", "cat", "street", "in", "the", "rain", "night"])

DUCKDB = """
import duckdb, os, sys
source, target = sys.argv[1:]
db = duckdb.connect(config={"threads": len(os.sched_getaffinity(0)), "temp_directory": target + "/spill"})
db.sql(f'''
    COPY (
        WITH best AS (
            SELECT uid, number, itc_similarity FROM read_parquet('{source}/*.parquet')
            WHERE status = 'success' AND itm_score >= 0.5
            QUALIFY row_number() OVER (PARTITION BY image_sha256 ORDER BY itm_logit DESC, number) = 1
        ), chosen AS (
            SELECT uid FROM best ORDER BY itc_similarity DESC, number LIMIT (SELECT count(*) * 3 // 10 FROM best)
        )
        SELECT * FROM read_parquet('{source}/*.parquet') WHERE uid IN (SELECT uid FROM chosen)
    ) TO '{target}/kept.parquet' (FORMAT parquet, COMPRESSION zstd)
''')
"""
POLARS = """
import sys
import polars as pl
source, target = sys.argv[1:]
best = (
    pl.scan_parquet(source + "/*.parquet")
    .filter((pl.col("status") == "success") & (pl.col("itm_score") >= 0.5))
    .sort("itm_logit", descending=True, maintain_order=True)
    .unique("image_sha256", keep="first")
    .collect(engine="streaming")
)
chosen = best.top_k(best.height * 3 // 10, by=["itc_similarity", "number"], reverse=[False, True])
chosen.write_parquet(target + "/kept.parquet", compression="zstd")
"""


class Measured(NamedTuple):
    """What one run of one program cost."""

    seconds: float
    cpu_s: float  # of all cores
    peak_mb: float


class Run(NamedTuple):
    """One run of one program that filters."""

    seconds: float
    cpu_s: float  # of all cores: says more than `seconds` on a machine that does other things as well
    peak_mb: float
    kept: str  # digest of the numbers of the rows that were kept
    kept_rows: int


def main() -> None:
    """Make the rows, run each program in turn, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="an interpreter that has duckdb and polars")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the rows here, and use those that are here already")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="filter-rows-"))
    try:
        if not (folder / "rows").exists():
            make_rows(folder / "rows", options.rows)
        results = compare(folder, options)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    report(results, options)


# ------------------------------------------------------------------ rows


def make_rows(folder: Path, rows: int) -> None:
    """Rows as scoring writes them: a tenth failed, a fifth of the images seen before, many scores near 0 and 1."""
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, rows, FILE_ROWS)):
        rng = np.random.default_rng(number)
        count = min(FILE_ROWS, rows - start)
        failed = rng.random(count) < 0.1
        images = rng.integers(0, rows, count, dtype=np.uint64)
        logit = rng.normal(0, 3, count).astype(np.float32)
        table = {
            "number": np.arange(start, start + count),
            "uid": hex_texts(np.arange(start, start + count, dtype=np.uint64), 2),
            "url": pc.binary_join_element_wise("https://images.example.org", hex_texts(images, 1), "photo.jpg", "/"),
            "text": captions(rng, count),
            "language": pa.array(rng.choice(["en", "de", "zh", "es"], count)),
            "itm_score": pa.array((1 / (1 + np.exp(-logit))).astype(np.float32), mask=failed),
            "itm_logit": pa.array(logit, mask=failed),
            "itc_similarity": pa.array(rng.normal(0.3, 0.1, count).astype(np.float32), mask=failed),
            "status": pa.array(np.where(failed, "failed_to_download", "success")).dictionary_encode(),
            "error_message": pa.array(np.where(failed, "http 404", ""), mask=~failed),
            "original_width": rng.integers(64, 2000, count, dtype=np.int32),
            "original_height": rng.integers(64, 2000, count, dtype=np.int32),
            "image_sha256": pc.if_else(pa.array(failed), None, hex_texts(images, 4)),
        }
        pq.write_table(pa.table(table), folder / f"{number:05d}.parquet", compression="zstd", row_group_size=65_536)


def hex_texts(numbers: npt.NDArray[np.uint64], words: int) -> pa.Array:
    """(n,) texts of 16 * words hexadecimal digits that look random and depend on the number alone."""
    mixed = numbers[:, None] + np.arange(1, words + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    digits = (mixed ^ (mixed >> np.uint64(31))).tobytes().hex().encode()
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * 16 * words
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(digits))


def captions(rng: np.random.Generator, count: int) -> pa.Array:
    """(n,) texts of nine words."""
    words = [WORDS.take(pa.array(rng.integers(0, len(WORDS), count))) for _ in range(9)]
    return pc.binary_join_element_wise(*words, " ")


# ------------------------------------------------------------------ runs


def compare(folder: Path, options: argparse.Namespace) -> dict[str, list[Run]]:
    """Each program once a round."""
    rules = ["--filter.min_itm", "0.5", "--filter.unique", "--filter.rules", '{"top_fraction": 0.3, "by": "itc_similarity"}']
    ours = [sys.executable, str(ROOT / "jobs" / "filter.py"), "--input.manifest", str(folder / "rows"), "--output.path"]
    programs = {
        "capsieve": ([*ours, "{target}/kept", *rules, "--filter.write", "manifest", "--json"], "kept"),
        "DuckDB": ([options.python, "-c", DUCKDB, str(folder / "rows"), "{target}"], "kept.parquet"),
        "Polars": ([options.python, "-c", POLARS, str(folder / "rows"), "{target}"], "kept.parquet"),
        "capsieve, rejected rows written too": ([*ours, "{target}/kept", *rules, "--json"], "kept"),
    }
    results: dict[str, list[Run]] = {name: [] for name in programs}
    for _ in range(options.rounds):
        for name, (command, kept) in programs.items():
            target = folder / "out"
            target.mkdir()
            results[name].append(measure([part.replace("{target}", str(target)) for part in command], target / kept, options))
            shutil.rmtree(target)
            print(f"{name}: {results[name][-1].seconds:.1f} s, {results[name][-1].cpu_s:.1f} of CPU", file=sys.stderr)
    return results


def measure(command: list[str], kept: Path, options: argparse.Namespace) -> Run:
    """Run a program on the first cores; its seconds, its peak memory and what it kept."""
    measured = run_measured(command, options.cores)
    numbers = np.sort(pa.dataset.dataset(kept).to_table(columns=["number"])["number"].to_numpy())
    return Run(*measured, hashlib.sha256(numbers.tobytes()).hexdigest(), len(numbers))


def run_measured(command: list[str], n_cores: int) -> Measured:
    """Run a program on the first cores."""
    cores = set(sorted(os.sched_getaffinity(0))[:n_cores])
    env = {**os.environ, "POLARS_MAX_THREADS": str(n_cores), "OMP_NUM_THREADS": str(n_cores)}
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed with {process.returncode}: {command[:2]}")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000)


def report(results: dict[str, list[Run]], options: argparse.Namespace) -> None:
    """Print the table; fail where programs disagree."""
    kept = {run.kept for runs in results.values() for run in runs}
    figures: dict[str, Any] = {}
    rows = []
    fastest = {name: min(run.seconds for run in runs) for name, runs in results.items()}
    for name, runs in results.items():
        peak = max(run.peak_mb for run in runs)
        ratio = fastest[name] / fastest["capsieve"]
        cpu = min(run.cpu_s for run in runs)
        figures[name] = {"seconds": [run.seconds for run in runs], "cpu_s": [run.cpu_s for run in runs], "peak_mb": peak}
        rate = f"{options.rows / fastest[name]:,.0f}"
        rows.append([name, f"{fastest[name]:.1f}", rate, f"{ratio:.2f}", f"{cpu:.1f}", f"{peak:,.0f}"])
    publish("filter", ["program", "seconds", "rows/s", "time / capsieve's", "CPU seconds", "peak MB"], rows, figures)
    if len(kept) != 1:
        counts = {name: runs[0].kept_rows for name, runs in results.items()}
        raise SystemExit(f"the programs kept different rows: {counts}")


if __name__ == "__main__":
    main()
