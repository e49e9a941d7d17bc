"""Whole runs on a real Ray cluster with images that kill, hang or bloat their decoder, and with decoders that are killed."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cluster, dataflow, run
from pipeline.commandline import load
from pipeline.config import MIB, Config
from pipeline.stages import image_blocks
from tests.echo import EchoScorer
from tests.greys import png
from tests.listeners import Silent
from tests.poison import FAULTS
from tests.tiny import tiny_checkpoint

pytestmark = pytest.mark.slow

POISON = "tests.poison:decode"


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    with cluster.joined(Config()):
        yield


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fetch stage as it is, with a decoder that has faults."""
    make_blocks = functools.partial(image_blocks, decode=POISON)
    monkeypatch.setattr(dataflow, "build", functools.partial(dataflow.build, make_blocks=make_blocks))


def scored(tmp_path: Path, images: list[bytes], **settings: Any) -> list[dict[str, Any]]:
    """Run all of it over these images; returns the output's rows."""
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": images, "caption": ["a caption"] * len(images)}), tmp_path / "in" / "m.parquet")
    config = load(
        None,
        {
            "input": {"manifest": str(tmp_path / "in")},
            "output": {"path": str(tmp_path / "out")},
            "model": {"checkpoint": tiny_checkpoint(tmp_path)},
            "compute": {"chunk_rows": 100, "block_rows": 16},
            "images": settings,
        },
    )
    run.score(config, Silent(), EchoScorer)
    return pq.read_table(tmp_path / "out" / "m-00000.parquet").to_pylist()


@pytest.mark.usefixtures("poisoned")
def test_images_that_kill_their_decoder_cost_their_own_rows(tmp_path: Path) -> None:
    images = [png(number % 256) for number in range(300)]
    bad = {30: b"SEGFAULT", 31: b"ABORT", 150: b"SPIN", 220: b"CSWALLOW", 299: b"SWALLOW"}
    for number, fault in bad.items():
        images[number] = fault
    rows = scored(tmp_path, images, timeout_s=1.0, max_memory_bytes=128 * MIB)
    assert len(rows) == 300
    for number, row in enumerate(rows):
        if number in bad:
            assert (row["status"], row["error_message"]) == ("failed_to_decode", FAULTS[bad[number]][1])
            assert row["itm_score"] is None
        else:
            assert row["status"] == "success"
            assert row["itm_logit"] == pytest.approx(number % 256 / 255, abs=1e-6)


def test_decoders_that_are_killed_from_outside_cost_no_row(tmp_path: Path) -> None:
    """What the machine's out-of-memory killer does: first to a fork server, then to decoder processes again and again."""
    done = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        while not done.wait(0.1 if not killed else 1.5):  # slowly: an image that is hit twice has failed
            found = processes()
            victims = found.decoders if killed else found.servers[:1]
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    chaos = threading.Thread(target=kill)
    chaos.start()
    try:
        rows = scored(tmp_path, [png(number % 256, 2000, 1500) for number in range(200)])
    finally:
        done.set()
        chaos.join()
    assert killed
    assert [row["status"] for row in rows] == ["success"] * 200
    for number, row in enumerate(rows):
        assert row["itm_logit"] == pytest.approx(number % 256 / 255, abs=1e-6)


class Processes(NamedTuple):
    servers: list[int]
    decoders: list[int]


def processes() -> Processes:
    """Fork servers and decoder processes below this process."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue

    def ours(pid: int) -> bool:
        return pid == os.getpid() or (parents.get(pid, 0) > 1 and ours(parents[pid]))

    found = {pid for pid, name in names.items() if b"pipeline.isolation.fork_server" in name and ours(pid)}
    return Processes([p for p in found if parents[p] not in found], [p for p in found if parents[p] in found])
