"""A real run on a real cluster, watched: its metrics as Prometheus gets them, its log, its record, its warnings."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from pipeline import run
from pipeline.bottleneck import Cause
from pipeline.commandline import load
from pipeline.config import Config
from pipeline.progress import Progress
from pipeline.schema import Captions, Scores
from pipeline.verify import verify
from pipeline.watching.measures import MEASURES
from tests.echo import EchoScorer
from tests.greys import png
from tests.listeners import Silent
from tests.servers import serving
from tests.tiny import tiny_checkpoint

pytestmark = pytest.mark.slow

SECRET = "X-Amz-Signature=0123abcd"
CAPTION = "nobody may read this"
ROWS = 60


class DyingScorer(EchoScorer):
    """Takes its process with it, the first time that any scores."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def score(self, pixels: npt.NDArray[np.uint8], captions: Captions) -> Scores:
        if not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os._exit(1)
        return super().score(pixels, captions)


class Watched(NamedTuple):
    """What a run left behind."""

    folder: Path
    samples: dict[str, dict[str, float]]  # name -> labels as text -> value; of our metrics alone
    kinds: dict[str, str]
    said: list[str]  # warnings

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def value(self, name: str, *labels: str) -> float:
        """Of the one sample whose labels have all of these."""
        (found,) = [value for text, value in self.samples[name].items() if all(label in text for label in labels)]
        return found

    def events(self) -> list[dict[str, Any]]:
        (path,) = (self.out / "_log").glob("*.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]

    def history(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.out / "_log" / "run.json").read_text())["runs"]
        return found


def config_of(folder: Path, *, address: str, output: dict[str, Any] | None = None) -> Config:
    return load(
        None,
        {
            "input": {"manifest": str(folder / "in")},
            "output": {"path": str(folder / "out"), "rows_per_output_file": 30, **(output or {})},
            "model": {"checkpoint": str(folder / "tiny.pth")},
            "compute": {"chunk_rows": 20, "block_rows": 8, "address": address},
            "fetch": {"allowed_networks": ["127.0.0.0/8"], "backoff_s": 0.01},
        },
    )


def write_input(folder: Path, server: str) -> None:
    """Images in rows, one of them broken; one behind a URL that carries a signature; one row without a caption."""
    (folder / "in").mkdir()
    Path(tiny_checkpoint(folder)).rename(folder / "tiny.pth")
    images = [png(4 * n) for n in range(ROWS)]
    table = pa.table(
        {
            "url": [f"{server}/{n}.png?{SECRET}" for n in range(ROWS)],
            "image": [b"junk" if n == 7 else None if n == 9 else image for n, image in enumerate(images)],
            "caption": [None if n == 11 else f"{CAPTION} {n}" for n in range(ROWS)],
        }
    )
    pq.write_table(table, folder / "in" / "m.parquet")


def scrape(address: str, port: int) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    with urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    samples: dict[str, dict[str, float]] = {}
    kinds = {}
    for line in lines:
        if line.startswith("# TYPE ray_capsieve"):
            _, _, name, kind = line.split()
            kinds[name.removeprefix("ray_")] = kind
        found = re.fullmatch(r"ray_(capsieve\w+)\{(.*)\} (\S+)", line)
        if found:
            samples.setdefault(found[1], {})[found[2]] = float(found[3])
    return samples, kinds


class _Busy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(503)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def busy_server() -> Iterator[str]:
    """URL of a server that asks everybody to come back later."""
    with serving(_Busy) as url:
        yield url


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A cluster that stays when a run leaves it, for all runs of this file."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, busy_server: str, nodes: Cluster) -> Watched:
    """A run in which a replica dies, and its metrics: a driver hands its last figures over when it leaves."""
    folder = tmp_path_factory.mktemp("watched")
    write_input(folder, busy_server)
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("pipeline.watching")
    logger.addHandler(handler)
    try:
        run.score(config_of(folder, address=nodes.address), Silent(), functools.partial(DyingScorer, folder))
    finally:
        logger.removeHandler(handler)
    head = nodes.head_node
    samples, kinds = scrape(head.node_ip_address, head.metrics_export_port)
    return Watched(folder, samples, kinds, said)


def test_every_metric_is_exported_under_its_name_and_with_its_labels(watched: Watched) -> None:
    assert set(watched.samples) == set(MEASURES)
    assert watched.kinds == {name: measure.kind for name, measure in MEASURES.items()}
    for name, measure in MEASURES.items():
        for labels in watched.samples[name]:
            assert all(f'{label}="' in labels for label in ("run", *measure.labels)), labels


def test_what_the_metrics_say_is_what_the_run_did(watched: Watched) -> None:
    assert watched.value("capsieve_rows_done") == watched.value("capsieve_manifest_rows") == ROWS
    assert watched.value("capsieve_rows_total", 'status="success"') == ROWS - 3
    assert watched.value("capsieve_failed_rows_total", 'reason="not an image"') == 1
    assert watched.value("capsieve_failed_rows_total", 'reason="http 503"') == 1
    assert watched.value("capsieve_download_retries_total") == pytest.approx(1)
    assert watched.value("capsieve_commits_total") == watched.value("capsieve_shards_done") == 2
    assert watched.value("capsieve_replica_restarts_total") == 1
    assert watched.value("capsieve_warnings_total", 'kind="deaths"') == 1
    assert watched.value("capsieve_run_active") == 0
    assert watched.value("capsieve_stage_seconds_total", 'stage="score"') > 0


def test_the_log_has_a_line_an_event_and_no_secrets(watched: Watched) -> None:
    events = watched.events()
    assert [one["event"] for one in events if one["event"] not in ("warning", "shard_committed")] == [
        *("planned", "pass_began", "pass_ended", "ended")
    ]
    assert sum(one["rows"] for one in events if one["event"] == "shard_committed") == ROWS
    assert [one["kind"] for one in events if one["event"] == "warning"] == ["deaths"]
    (run_of_all,) = {one["run"] for one in events}
    assert f'run="{run_of_all}"' in next(iter(watched.samples["capsieve_rows_done"]))
    for path in (watched.out / "_log").iterdir():
        assert "Signature" not in path.read_text()
        assert CAPTION not in path.read_text()
    (warning,) = watched.said
    assert warning.startswith("once a replica died and was started again")


def test_the_record_of_a_run_has_what_success_has_not(watched: Watched) -> None:
    (record,) = watched.history()
    assert (record["outcome"], record["rows"], record["rows_before"], record["rows_scored"]) == ("done", ROWS, 0, ROWS)
    assert (record["passes"], record["shards_committed"], record["replica_restarts"]) == (1, 2, 1)
    assert record["warnings"] == {"deaths": 1}
    assert record["started"] < record["ended"]
    assert [(kind["count"], kind["cpus"]) for kind in record["nodes"]] == [(1, 3)]
    assert record["resources"]["replicas"] == 1
    assert set(record["stage_s"]) == {"fetch", "decode", "score", "write", "make", "held", "starved"}
    assert record["held_back_by"] in set(Cause)
    success = json.loads((watched.out / "_SUCCESS").read_text())
    assert success["status"] == {"success": ROWS - 3, "failed_to_download": 1, "failed_to_decode": 1, "invalid_row": 1}
    assert {name for name in success.keys() & record.keys() if success[name] == record[name]} == {"output", "rows", "shards"}
    assert verify(str(watched.out), Config()).faults == []


class SlowScorer(EchoScorer):
    """Takes its time for each block."""

    def score(self, pixels: npt.NDArray[np.uint8], captions: Captions) -> Scores:
        time.sleep(0.5)
        return super().score(pixels, captions)


class Stopped(BaseException):
    """Somebody pressed Ctrl-C."""


class Stopping(Silent):
    """Ends a run at its first receipt."""

    def progressed(self, progress: Progress) -> None:
        raise Stopped


def test_a_run_that_was_stopped_and_went_on_is_in_the_record_and_one_that_found_nothing_to_do_is_not(
    tmp_path: Path, busy_server: str, nodes: Cluster
) -> None:
    write_input(tmp_path, busy_server)
    config = config_of(tmp_path, address=nodes.address)
    with pytest.raises(Stopped):
        run.score(config, Stopping(), SlowScorer)
    (log,) = (tmp_path / "out" / "_log").iterdir()
    lines = log.read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["outcome"] == "interrupted"
    (log.parent / "20010101T000000Z-killed.jsonl").write_text("".join(lines[:-1]).replace(log.stem, "20010101T000000Z-killed"))
    (log.parent / "of-somebody-else.jsonl").write_text("no JSON")

    run.score(config, Silent(), EchoScorer)
    watched = Watched(tmp_path, {}, {}, [])
    lost, stopped, done = watched.history()
    assert [one["outcome"] for one in (lost, stopped, done)] == ["lost", "interrupted", "done"]
    assert (lost["run"], stopped["run"]) == ("20010101T000000Z-killed", log.stem)
    assert 0 < stopped["rows_scored"] <= done["rows_before"] < ROWS, "what was staged after the stop counts for the next one"
    assert done["rows_before"] + done["rows_scored"] == ROWS

    samples, _ = scrape(nodes.head_node.node_ip_address, nodes.head_node.metrics_export_port)
    assert any(done["run"] in labels for labels in samples["capsieve_rows_done"]), "a second run of one process is seen as well"

    left = {path.name: path.read_text() for path in (tmp_path / "out" / "_log").iterdir()}
    assert run.score(config, Silent(), EchoScorer).rows_scored == 0
    assert {path.name: path.read_text() for path in (tmp_path / "out" / "_log").iterdir()} == left
    run.begin(run.check(config_of(tmp_path, address=nodes.address, output={"overwrite": True}), Silent()))
    assert not list((tmp_path / "out" / "_log").glob("*")), "what was deleted has no history"
