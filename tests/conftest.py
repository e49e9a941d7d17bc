"""Fixtures that several test files share: a real S3 server, buckets of one's own, manifests on any store."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import StorageConfig
from pipeline.local_s3 import LocalS3
from pipeline.storage import write_bytes
from tests.demo import Demo, FinishedDemo
from tests.tiny import tiny_checkpoint

WriteManifest = Callable[..., str]


@pytest.fixture(scope="session")
def s3() -> Iterator[LocalS3]:
    """One S3 server for all tests; bucket `public` may be read without credentials. Starts in a second."""
    with LocalS3(buckets=["capsieve-tests"], public_buckets=["public"]) as server:
        yield server


@pytest.fixture
def s3_env(s3: LocalS3, clean_env: pytest.MonkeyPatch) -> LocalS3:
    """The server, with the environment set so that everything that speaks S3 speaks to it."""
    for name, value in s3.env().items():
        clean_env.setenv(name, value)
    return s3


@pytest.fixture
def bucket(s3_env: LocalS3) -> str:
    """URL of an empty folder in a bucket."""
    return f"s3://capsieve-tests/{uuid.uuid4().hex[:8]}"


@pytest.fixture(params=["local", "s3"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder on this machine, and then one in a bucket."""
    return str(request.getfixturevalue("bucket")) if request.param == "s3" else str(tmp_path)


@pytest.fixture
def clean_env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No cloud credentials of whoever runs the tests, and none to be had from a cloud machine."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "GCE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent/config")
    return monkeypatch


@pytest.fixture
def write_manifest() -> WriteManifest:
    """Writes a table, or a dict of columns, as Parquet to a local path or URL, and returns that."""

    def write(url: str | Path, table: pa.Table | dict[str, Any], **options: Any) -> str:
        buffer = io.BytesIO()
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), buffer, **options)
        write_bytes(str(url), buffer.getvalue(), StorageConfig())
        return str(url)

    return write


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a model that takes no time: random weights."""
    return tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory: pytest.TempPathFactory) -> FinishedDemo:
    """A demo of 24 scenes that ended well: a real run's output, without the bucket. Random weights: what scores mean is not
    asked here. Takes some 15 seconds."""
    folder = tmp_path_factory.mktemp("demo")
    checkpoint = tiny_checkpoint(folder)
    demo = Demo(folder, "--scenes", "24", "--model.checkpoint", checkpoint)
    code, log = demo.wait(), demo.log.read_text()
    assert code == 0, log
    demo.assert_nothing_runs()
    return FinishedDemo(folder, log, checkpoint)
