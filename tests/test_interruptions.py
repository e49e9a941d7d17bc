"""jobs/score.py as it dies: killed, refused beside another, with credentials that are taken away. Real processes, real S3."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.local_s3 import LocalS3
from tests.greys import grey_manifest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
STORE = StorageConfig()
LIMIT_S = 200
ROWS = 8_000


@pytest.fixture
def server(clean_env: pytest.MonkeyPatch) -> Iterator[LocalS3]:
    """A server of this test's own, whose key it may change."""
    with LocalS3(buckets=["outputs"]) as server:
        for name, value in server.env().items():
            clean_env.setenv(name, value)
        clean_env.delenv("RAY_ADDRESS", raising=False)
        yield server


@pytest.fixture
def command(tmp_path: Path, checkpoint: str) -> list[str]:
    """Scores `ROWS` rows onto the server: some ten seconds or more."""
    settings = {
        "input.manifest": grey_manifest(tmp_path, ROWS),
        "output.path": "s3://outputs/scored",
        "model.checkpoint": checkpoint,
        "compute.chunk_rows": 500,
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [sys.executable, str(ROOT / "jobs" / "score.py"), *flags, "--json"]


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start it, and return once something is staged."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + LIMIT_S
    while process.poll() is None and not storage.list_files("s3://outputs/scored/_staging", STORE):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


def finish(command: list[str]) -> int:
    """Run it to its end; how many rows it scored."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    captions = pq.read_table(io.BytesIO(storage.read_bytes("s3://outputs/scored/m-00000.parquet", STORE)))["caption"]
    assert captions.to_pylist() == [f"c{n}" for n in range(ROWS)]
    return int(json.loads(done.stdout)["rows_scored"])


def test_a_second_run_is_refused_and_a_killed_one_goes_on(server: LocalS3, command: list[str]) -> None:
    first = start(command)
    try:
        second = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert second.returncode == 2
        assert f"being written by another run ({os.uname().nodename}, process {first.pid}" in second.stderr
        assert len(second.stderr.splitlines()) == 1
        assert first.poll() is None, "the first one is not disturbed"
    finally:
        first.kill()
        first.communicate()
    assert 0 < finish(command) < ROWS


def test_credentials_that_are_taken_away_end_the_run_with_one_line(server: LocalS3, command: list[str]) -> None:
    process = start(command)
    secret = server.secret_key
    server.secret_key = "changed"
    server.restart(kill=True)
    _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2, stderr
    assert "wrong credentials for s3://outputs/scored" in stderr.splitlines()[-1]
    server.secret_key = secret
    server.restart(kill=True)
    assert 0 < finish(command) < ROWS
