"""Faults inside a run, on a real Ray cluster: replicas that die, disks that fill, inputs that change, and second chances."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cluster, dataflow, run
from pipeline.commandline import load
from pipeline.config import Config
from pipeline.errors import ClusterError, ConfigError, OutputError, StorageError
from pipeline.progress import Summary
from pipeline.schema import Captions, Scores
from pipeline.verify import verify
from tests.echo import EchoScorer
from tests.greys import png
from tests.listeners import Silent

pytestmark = pytest.mark.slow


class FaultyScorer(EchoScorer):
    """Fails in a given way, the first so many times that any process of the run scores."""

    def __init__(self, folder: Path, how: str, times: int) -> None:
        self.folder, self.how, self.times = folder, how, times

    def score(self, pixels: npt.NDArray[np.uint8], captions: Captions) -> Scores:
        failures = len(list(self.folder.iterdir()))
        if failures < self.times:
            (self.folder / f"{failures}-{os.getpid()}").touch()
            if self.how == "exit":
                os._exit(1)
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "disk":
                raise StorageError("no space left")
            raise RuntimeError("CUDA error: device-side assert triggered")
        return super().score(pixels, captions)


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    with cluster.joined(Config()):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest of 60 images beside it, of which every fifth is not there yet."""
    (tmp_path / "in").mkdir()
    for number in range(60):
        if number % 5:
            (tmp_path / "in" / f"{number}.png").write_bytes(png(4 * number))
    table = pa.table({"url": [f"{number}.png" for number in range(60)], "caption": ["x" * (n + 1) for n in range(60)]})
    pq.write_table(table, tmp_path / "in" / "m.parquet")
    return tmp_path


def config_of(folder: Path, checkpoint: str, **output: object) -> Config:
    return load(
        None,
        {
            "input": {"manifest": str(folder / "in")},
            "output": {"path": str(folder / "out"), "rows_per_output_file": 20, **output},
            "model": {"checkpoint": checkpoint},
            "compute": {"chunk_rows": 20, "block_rows": 8, "worker_deaths": 2},
        },
    )


def score(config: Config, make_scorer: dataflow.MakeScorer = EchoScorer) -> Summary:
    return run.score(config, Silent(), make_scorer)


def scores_of(folder: Path) -> list[float | None]:
    values: list[float | None] = []
    for path in sorted((folder / "out").glob("*.parquet")):
        values += pq.read_table(path, partitioning=None)["itc_similarity"].to_pylist()
    return values


def expected(*missing: int) -> list[object]:
    return [None if n in missing else pytest.approx((n + 1) / 1000) for n in range(60)]


DEAD = tuple(range(0, 60, 5))


@pytest.mark.parametrize("how", ["exit", "kill", "cuda"])
def test_a_replica_that_dies_is_replaced_and_its_batch_redone(how: str, folder: Path, checkpoint: str) -> None:
    (folder / "failures").mkdir()
    config = config_of(folder, checkpoint)
    score(config, functools.partial(FaultyScorer, folder / "failures", how, 2))
    processes = {path.name.partition("-")[2] for path in (folder / "failures").iterdir()}
    assert len(processes) == 2, "a process whose device failed is not used again"
    assert scores_of(folder) == expected(*DEAD)
    assert verify(str(folder / "out"), Config()).faults == []


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    disk = folder / "out"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "none", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(small_disk: Path, folder: Path, checkpoint: str) -> None:
    with pytest.raises(StorageError, match="no space left to write"):
        score(config_of(folder, checkpoint, rows_per_output_file=100))
    held = len(list(small_disk.rglob("_staging/*/*.parquet")))
    assert held > 0
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    summary = score(config_of(folder, checkpoint, rows_per_output_file=100))
    assert 0 < summary.rows_scored < 60, "what was staged is kept"
    assert scores_of(folder) == expected(*DEAD)


def test_rows_that_failed_get_a_second_chance_and_others_are_left_alone(folder: Path, checkpoint: str) -> None:
    score(config_of(folder, checkpoint))
    for number in (0, 45):  # in the first and in the last of three shards
        (folder / "in" / f"{number}.png").write_bytes(png(4 * number))
    before = {path.name: path.read_bytes() for path in (folder / "out").glob("*.parquet")}
    nothing = score(config_of(folder, checkpoint, retry=["failed_to_download:timeout", "failed_to_decode"]))
    assert nothing.rows_scored == 0
    assert {path.name: path.read_bytes() for path in (folder / "out").glob("*.parquet")} == before
    summary = score(config_of(folder, checkpoint, retry="failed_to_download:not found"))
    assert summary.rows_scored == len(DEAD)
    assert scores_of(folder) == expected(*(set(DEAD) - {0, 45}))
    assert verify(str(folder / "out"), Config()).faults == []
    assert json.loads((folder / "out" / "_SUCCESS").read_text())["status"] == {"failed_to_download": 10, "success": 50}


def test_a_second_chance_that_dies_leaves_an_output_and_goes_on(folder: Path, checkpoint: str) -> None:
    score(config_of(folder, checkpoint))
    for number in DEAD:
        (folder / "in" / f"{number}.png").write_bytes(png(4 * number))
    (folder / "failures").mkdir()
    retry = config_of(folder, checkpoint, retry="failed_to_download")
    with pytest.raises(StorageError, match="no space left"):
        score(retry, functools.partial(FaultyScorer, folder / "failures", "disk", 1000))
    values = scores_of(folder)
    assert [value for number, value in enumerate(values) if number not in DEAD] == [
        value for number, value in enumerate(expected()) if number not in DEAD
    ]
    assert not (folder / "out" / "_SUCCESS").exists()
    score(retry)
    assert scores_of(folder) == expected()
    assert verify(str(folder / "out"), Config()).faults == []


def test_a_second_chance_and_a_new_beginning_exclude_each_other(folder: Path, checkpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"--output\.overwrite deletes what --output\.retry"):
        score(config_of(folder, checkpoint, retry="failed_to_download", overwrite=True))
    with pytest.raises(ConfigError, match="success is no status of failed rows"):
        config_of(folder, checkpoint, retry="success")


def test_a_manifest_that_changed_is_refused_with_the_difference(folder: Path, checkpoint: str) -> None:
    config = config_of(folder, checkpoint)
    score(config)
    table = pq.read_table(folder / "in" / "m.parquet")
    pq.write_table(table.take(list(range(60))[::-1]), folder / "in" / "m.parquet")
    with pytest.raises(OutputError, match=r"m\.parquet has changed since rows of it were scored \(.*version was"):
        score(config)
    assert score(config_of(folder, checkpoint, overwrite=True)).rows_scored == 60
    assert score(config).rows_scored == 0


def test_parts_of_a_manifest_that_changed_are_refused_as_well(folder: Path, checkpoint: str) -> None:
    (folder / "failures").mkdir()
    config = config_of(folder, checkpoint, rows_per_output_file=100)
    score(config)
    (folder / "out" / "m-00000.parquet").unlink()
    job = run.begin(run.check(config, Silent()))
    from pipeline.progress import plan_chunks

    chunk = plan_chunks(job.tracker, 100)[0]._replace(ranges=((0, 30),))
    stream = dataflow.build(
        config, job.manifest, [chunk], EchoScorer, job.output,
        resources=cluster.plan_resources(config, run.work_of(job)), image_size=job.model.image_size,
    )  # fmt: skip
    list(dataflow.receipts(stream))
    pq.write_table(pq.read_table(folder / "in" / "m.parquet").slice(1), folder / "in" / "m.parquet")
    with pytest.raises(OutputError, match=r"rows was 60, now 59"):
        score(config)


def test_a_replica_that_always_dies_ends_the_run(folder: Path, checkpoint: str) -> None:
    (folder / "failures").mkdir()
    with pytest.raises(ClusterError, match="workers kept dying at the same rows"):
        score(config_of(folder, checkpoint), functools.partial(FaultyScorer, folder / "failures", "exit", 1000))
    assert [path.name for path in (folder / "out").iterdir() if path.is_file()] == ["_run.json"], "and the lease is gone"


def no_device() -> EchoScorer:
    raise RuntimeError("CUDA driver version is insufficient")


def test_a_replica_that_cannot_start_says_why(folder: Path, checkpoint: str) -> None:
    with pytest.raises(ClusterError, match="no replica can start: RuntimeError: CUDA driver version is insufficient"):
        score(config_of(folder, checkpoint), no_device)
