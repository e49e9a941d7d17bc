"""A million rows through the whole stream: how soon a resumed run begins, what the driver's memory does, what staging leaves.

    python benchmarks/million.py [ROWS]

Tiny images in the rows and a scorer that returns zeros: what is left is the machinery. The first driver is killed half way, the
second one resumes; the table gives both.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.commandline import load
from pipeline.progress import Plan, Progress
from pipeline.run import score
from pipeline.schema import CaptionLengths, Captions, Scores

ROOT = Path(__file__).parents[1]
ROWS_PER_FILE = 100_000


class ZeroScorer:
    """Scores nothing."""

    def score(self, pixels: npt.NDArray[np.uint8], captions: Captions) -> Scores:
        count = sum(1 if isinstance(own, str) else len(own) for own in captions)
        return Scores(np.zeros((count, 2), np.float32), np.full(count, 0.5, np.float32), np.zeros(count, np.float32))

    def caption_lengths(self, captions: Any) -> CaptionLengths:
        return CaptionLengths(np.ones(len(captions), np.int16), np.zeros(len(captions), np.bool_))


class Watch:
    """Prints a JSON line for each thing that the driver tells."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def starting(self, what: str) -> None:
        pass

    def planned(self, plan: Plan) -> None:
        self._say("planned", plan.rows_done)

    def progressed(self, progress: Progress) -> None:
        self._say("progress", progress.rows)

    def _say(self, what: str, rows: int) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        seconds = time.monotonic() - self.began
        memory_mb = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        print(json.dumps({"what": what, "rows": rows, "s": round(seconds, 1), "driver_mb": round(memory_mb)}), flush=True)


def drive(folder: Path) -> None:
    """The driver's process."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.million import ZeroScorer as Importable  # workers import it by this name

    settings = {
        "input": {"manifest": str(folder / "in")},
        "output": {"path": str(folder / "out"), "rows_per_output_file": ROWS_PER_FILE},
        "model": {"checkpoint": str(folder / "tiny-0.safetensors")},
        "compute": {"replicas": 1, "block_rows": 4_096, "chunk_rows": 8_192},
    }
    print(json.dumps({"what": "done", "rows": score(load(None, settings), Watch(), Importable).rows}), flush=True)


def write_manifest(folder: Path, rows: int) -> None:
    """Files of `ROWS_PER_FILE` rows: one of 256 greys of 8 x 8 pixels in each."""
    folder.mkdir()
    images = []
    for grey in range(256):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (grey, grey, grey)).save(buffer, "JPEG")
        images.append(buffer.getvalue())
    for start in range(0, rows, ROWS_PER_FILE):
        numbers = range(start, min(rows, start + ROWS_PER_FILE))
        table = pa.table({"image": [images[n % 256] for n in numbers], "caption": [f"caption {n}" for n in numbers]})
        pq.write_table(table, folder / f"{start:08}.parquet")


def run_until(folder: Path, rows: int | None) -> list[dict[str, Any]]:
    """Start a driver, and kill it once it has staged so many rows."""
    command = [sys.executable, str(Path(__file__).absolute()), "drive", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    lines: list[dict[str, Any]] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(json.loads(line))
        if rows is not None and lines[-1]["what"] == "progress" and lines[-1]["rows"] >= rows:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    return lines


def main(rows: int) -> None:
    """Run both drivers and print the table."""
    with tempfile.TemporaryDirectory(prefix="million-") as name:
        folder = Path(name)
        write_manifest(folder / "in", rows)
        sys.path.insert(0, str(ROOT))
        from tests.tiny import tiny_checkpoint

        tiny_checkpoint(folder)
        print(f"{rows:,} rows\n\n| | killed half way | resumed |\n|---|---|---|")
        first, second = run_until(folder, rows // 2), run_until(folder, None)
        runs = [[line for line in run if line["what"] == "progress"] for run in (first, second)]
        planned = [next(line for line in run if line["what"] == "planned") for run in (first, second)]
        show("rows found done", [f"{line['rows']:,}" for line in planned])
        show("start to plan, s", [str(line["s"]) for line in planned])
        show("start to first receipt, s", [str(run[0]["s"]) for run in runs])
        show("rows staged", [f"{run[-1]['rows']:,}" for run in runs])
        show("driver's memory at the first receipt, MB", [str(run[0]["driver_mb"]) for run in runs])
        show("driver's memory at the last, MB", [str(run[-1]["driver_mb"]) for run in runs])
        show("whole run, s", [str(run[-1]["s"]) for run in runs])
        left = [path for path in (folder / "out").rglob("*") if path.is_file() and "_staging" in path.parts]
        finals = sum(pq.read_metadata(path).num_rows for path in (folder / "out").glob("*.parquet"))
        print(f"\n{finals:,} rows in final files, {len(left)} parts left in staging")


def show(label: str, values: list[str]) -> None:
    """One row of the table."""
    print(f"| {label} | {' | '.join(values)} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["drive"]:
        drive(Path(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
