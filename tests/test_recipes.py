"""The recipes of docs/operations.md that no other test tries: what is damaged or changed is deleted, and the run goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cluster, dataflow, run
from pipeline.commandline import load
from pipeline.config import Config
from pipeline.errors import OutputError, StorageError
from pipeline.progress import Summary
from pipeline.schema import Captions, Scores
from pipeline.verify import verify
from tests.echo import EchoScorer
from tests.greys import png
from tests.listeners import Silent

pytestmark = pytest.mark.slow

ROWS = 40  # of each of two files


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    with cluster.joined(Config()):
        yield


def write_file(folder: Path, name: str, caption: str = "a caption") -> None:
    images = [png(6 * row) for row in range(ROWS)]
    table = pa.table({"image": images, "caption": [f"{caption} {row}" for row in range(ROWS)]})
    (folder / "in").mkdir(exist_ok=True)
    pq.write_table(table, folder / "in" / f"{name}.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest of two files."""
    write_file(tmp_path, "a")
    write_file(tmp_path, "b")
    return tmp_path


def score(folder: Path, checkpoint: str, make_scorer: dataflow.MakeScorer = EchoScorer) -> Summary:
    settings = {
        "input": {"manifest": str(folder / "in")},
        "output": {"path": str(folder / "out")},
        "model": {"checkpoint": checkpoint},
        "compute": {"chunk_rows": 40, "block_rows": 8},
    }
    return run.score(load(None, settings), Silent(), make_scorer)


def faults(folder: Path) -> list[str]:
    return verify(str(folder / "out"), load()).faults


def test_final_files_that_are_gone_or_damaged_are_made_again(folder: Path, checkpoint: str) -> None:
    score(folder, checkpoint)
    first, second = (folder / "out" / f"{name}-00000.parquet" for name in "ab")
    first.unlink()
    whole = second.read_bytes()
    second.write_bytes(whole[:100] + bytes(100) + whole[200:])  # its footer is as it was
    named = faults(folder)
    assert "a-00000.parquet: there is no such file, of 40 rows" in named
    assert any(fault.startswith("b-00000.parquet: ") for fault in named)
    assert score(folder, checkpoint).rows_scored == ROWS, "only what is gone"

    second.write_bytes(whole[:-500])
    with pytest.raises(OutputError, match=r"b-00000\.parquet is damaged, or not a file of capsieve's: delete it"):
        score(folder, checkpoint)
    second.unlink()
    assert score(folder, checkpoint).rows_scored == ROWS
    assert faults(folder) == []


def test_an_input_file_that_changed_is_scored_again_once_its_output_is_deleted(folder: Path, checkpoint: str) -> None:
    score(folder, checkpoint)
    write_file(folder, "a", "another caption")
    with pytest.raises(OutputError, match=r"in/a\.parquet has changed since .* delete its files in .*/out, and its rows are"):
        score(folder, checkpoint)
    (folder / "out" / "a-00000.parquet").unlink()
    assert score(folder, checkpoint).rows_scored == ROWS
    assert faults(folder) == []


class FullDisk(EchoScorer):
    """Fails as soon as something is staged, as a disk does that fills."""

    def __init__(self, staging: Path) -> None:
        self.staging = staging
        self.blocks = 0

    def score(self, pixels: npt.NDArray[np.uint8], captions: Captions) -> Scores:
        self.blocks += 1
        if self.blocks > 2:
            deadline = time.monotonic() + 60
            while not parts_in(self.staging) and time.monotonic() < deadline:
                time.sleep(0.05)
            raise StorageError("no space left")
        return super().score(pixels, captions)


def parts_in(staging: Path) -> list[Path]:
    return sorted(path for path in staging.rglob("*.parquet") if path.is_file())


def test_a_damaged_part_costs_its_own_rows(folder: Path, checkpoint: str) -> None:
    staging = folder / "out" / "_staging"
    with pytest.raises(StorageError, match="no space left"):
        score(folder, checkpoint, partial(FullDisk, staging))
    held = {part: pq.read_metadata(part).num_rows for part in parts_in(staging)}
    damaged = next(iter(held))
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert score(folder, checkpoint).rows_scored == 2 * ROWS - sum(held.values()) + held[damaged]
    assert faults(folder) == []
