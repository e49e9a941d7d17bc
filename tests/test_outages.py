"""A store that is down for longer than `storage.retry_s`: what the run says, what is kept, and the same run afterwards."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import cluster, run, storage
from pipeline.commandline import load
from pipeline.config import Config, StorageConfig
from pipeline.local_s3 import LocalS3
from pipeline.progress import Summary
from pipeline.verify import verify
from tests.echo import EchoScorer
from tests.greys import grey_manifest
from tests.listeners import Silent
from tests.tripwire import Tripwire, tripwire

pytestmark = pytest.mark.slow

JOBS = Path(__file__).parents[1] / "jobs"
STORE = StorageConfig()
ROWS = 320


@pytest.fixture(scope="module")
def wire() -> Iterator[Tripwire]:
    """A server of this file's own and the wire before it, which everything here and on the cluster speaks to."""
    with pytest.MonkeyPatch.context() as environment, LocalS3(buckets=["outputs"]) as server, tripwire(server) as wire:
        for name, value in {**server.env(), "AWS_ENDPOINT_URL": wire.url}.items():
            environment.setenv(name, value)
        with cluster.joined(Config()):
            yield wire


@pytest.fixture
def config(tmp_path: Path, checkpoint: str) -> Config:
    """Of a run onto the wire's server that soon loses patience, and whose lease ends soon: its process lives on, as a test."""
    return load(
        None,
        {
            "input": {"manifest": grey_manifest(tmp_path, ROWS)},
            "output": {"path": f"s3://outputs/{tmp_path.name}", "lease_s": 1},
            "model": {"checkpoint": checkpoint},
            "compute": {"chunk_rows": 80, "block_rows": 20},
            "storage": {"retry_s": 1},
        },
    )


def score(config: Config) -> Summary:
    from console import report_errors  # what jobs/score.py makes of errors

    with report_errors("score"):
        return run.score(config, Silent(), EchoScorer)


def staged(config: Config) -> set[str]:
    return {file.url for file in storage.list_files(f"{config.output.path}/_staging", STORE)}


@pytest.mark.parametrize(
    ("request_path", "skip", "parts"),
    [("_staging/", 4, range(1, 5)), ("m-00000.parquet", 0, range(16, 17))],
    ids=["while it stages", "while it commits"],
)
def test_an_outage_that_outlasts_patience_ends_the_run_and_keeps_what_is_staged(
    request_path: str,
    skip: int,
    parts: range,
    wire: Tripwire,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(JOBS))
    output = config.output.path
    wire.arm(f"PUT {output.removeprefix('s3:/')}/{request_path}", skip)
    with pytest.raises(SystemExit) as ended:
        score(config)
    assert wire.tripped
    assert ended.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"score: error: cannot reach {output}/")

    wire.server.restart(kill=True)
    wire.disarm()
    kept = staged(config)
    assert len(kept) in parts
    summary = score(config)
    held = sum(int(Path(url).name.split("-")[1]) for url in kept)
    assert summary.rows_scored == ROWS - held, "what was staged is not scored again"
    table = pq.read_table(io.BytesIO(storage.read_bytes(f"{output}/m-00000.parquet", STORE)))
    assert table["caption"].to_pylist() == [f"c{n}" for n in range(ROWS)]
    assert verify(output, config).faults == []
