"""The nightly job killed in the middle of every step of a night, and run again: the same nights as if nothing had happened."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from pipeline import cluster
from pipeline.commandline import load
from pipeline.config import Config
from pipeline.verify import verify
from tests.pictures import saved

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LIMIT_S = 200
NIGHTS = ("date=2026-01-01", "date=2026-01-02")
ROWS = 60
KILLED_AT = (
    f"_filtered/{NIGHTS[0]}/m-",
    f"_nightly/{NIGHTS[0]}/report.html",
    f"_nightly/{NIGHTS[0]}/drift.json",  # scored, filtered, reported and judged
    f"/out/{NIGHTS[1]}/_SUCCESS",  # at the end of scoring
)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a cluster of this machine that outlives its drivers."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with cluster.joined(Config()):
        yield ray.get_runtime_context().gcs_address


def write_nights(folder: Path) -> None:
    for number, name in enumerate(NIGHTS):
        pictures = [saved(Image.new("RGB", (20, 10), (4 * row, 250 - 4 * row, 100 * number)), "PNG") for row in range(ROWS)]
        images = [b"junk" if row % 9 == 0 else picture for row, picture in enumerate(pictures)]
        (folder / name).mkdir(parents=True)
        table = pa.table({"image": images, "caption": [f"{'word ' * (row % 7)}end" for row in range(ROWS)]})
        pq.write_table(table, folder / name / "m.parquet")


def start(folder: Path, address: str, out: str, killed_at: str = "") -> subprocess.Popen[str]:
    arguments = [
        "--input.manifest", str(folder / "in"), "--output.path", str(folder / out), "--compute.address", address,
        "--filter.top_fraction", "0.5", "--compute.chunk_rows", "20", "--compute.block_rows", "5",
    ]  # fmt: skip
    command = [sys.executable, "-m", "tests.nightly.killed", killed_at, *arguments]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def contents(out: Path) -> dict[str, Any]:
    """Every table of the nights, and every record but for the name that its scores have."""
    tables = {
        str(path.relative_to(out)): pq.read_table(path, partitioning=None).replace_schema_metadata(None).to_pylist()
        for path in out.rglob("*.parquet")
    }
    records = {str(path.relative_to(out)): json.loads(path.read_text()) for path in out.rglob("drift.json")}
    for record in records.values():
        del record["scored"]
    return tables | records


def test_nights_whose_job_was_killed_everywhere_are_as_undisturbed_ones(address: str, tmp_path: Path) -> None:
    write_nights(tmp_path / "in")
    undisturbed = start(tmp_path, address, "undisturbed")
    _, stderr = undisturbed.communicate(timeout=LIMIT_S)
    assert undisturbed.returncode == 0, stderr

    scoring = start(tmp_path, address, "out")
    deadline = time.monotonic() + LIMIT_S
    while not any(path.is_file() for path in (tmp_path / "out" / NIGHTS[0] / "_staging").rglob("*.parquet")):
        assert scoring.poll() is None, scoring.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    scoring.kill()
    scoring.communicate()
    assert not (tmp_path / "out" / NIGHTS[0] / "_SUCCESS").exists()

    for place in KILLED_AT:
        job = start(tmp_path, address, "out", place)
        _, stderr = job.communicate(timeout=LIMIT_S)
        assert job.returncode == -signal.SIGKILL, stderr
    last = start(tmp_path, address, "out")
    _, stderr = last.communicate(timeout=LIMIT_S)
    assert last.returncode == 0, stderr

    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
    for name in NIGHTS:
        assert verify(str(tmp_path / "out" / name), load()).faults == []
        assert (tmp_path / "out" / "_nightly" / name / "report.html").read_text().rstrip().endswith("</html>")
    assert not any((tmp_path / "out").rglob("_lease.json")), "whoever ends lets go"
