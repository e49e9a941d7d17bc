"""Images in object stores, read from a real S3 server."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterable

import pytest

from pipeline.config import FetchConfig, StorageConfig
from pipeline.fetch import Fetcher, FetchRequest
from pipeline.local_s3 import LocalS3
from pipeline.schema import Reason
from pipeline.storage import write_bytes

LIMITS = FetchConfig(max_bytes=100_000, retries=0, timeout_s=5)
STRANGE_KEY = "ü b/c?d=e#f%20+g&[h]'.jpg"


def fetch(urls: Iterable[str], storage: StorageConfig, base: str | None = None) -> list[bytes | str | None]:
    """Bytes or reason of each URL."""
    with Fetcher(LIMITS, storage) as fetcher:
        requests = [FetchRequest(index, url) for index, url in enumerate(urls)]
        results = sorted(fetcher.fetch(requests, base), key=lambda result: result.index)
    return [result.data if result.error is None else result.error.reason for result in results]


@pytest.fixture
def images(bucket: str) -> str:
    """A folder with some objects."""
    for key, data in {"a.jpg": b"image a", "sub/b.jpg": b"image b", STRANGE_KEY: b"strange", "empty": b""}.items():
        write_bytes(f"{bucket}/{key}", data, StorageConfig())
    write_bytes(f"{bucket}/large", b"x" * 100_001, StorageConfig())
    return bucket


def test_objects(images: str) -> None:
    urls = [f"{images}/{key}" for key in ("a.jpg", STRANGE_KEY, "empty", "missing", "large")]
    urls += ["s3://no-such-bucket/a.jpg", "sub/b.jpg", "../a.jpg"]
    expected = [b"image a", b"strange", b"", Reason.NOT_FOUND, Reason.TOO_LARGE, Reason.NOT_FOUND, b"image b", Reason.NOT_FOUND]
    assert fetch(urls, StorageConfig(), images) == expected


def test_the_endpoint_of_the_settings(images: str, s3: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_REGION")
    assert fetch([f"{images}/a.jpg"], StorageConfig(endpoint_url=s3.endpoint_url)) == [b"image a"]


def test_a_wrong_key(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert fetch([f"{images}/a.jpg"], StorageConfig()) == [Reason.ACCESS_DENIED]


def test_anonymous(images: str, s3_env: LocalS3) -> None:
    public = f"s3://public/{uuid.uuid4().hex}"
    write_bytes(public, b"for all", StorageConfig())
    assert fetch([public, f"{images}/a.jpg"], StorageConfig(anonymous=True)) == [b"for all", Reason.ACCESS_DENIED]


def test_many(images: str) -> None:
    for number in range(5):
        write_bytes(f"{images}/{number}", b"%d" % number, StorageConfig())
    assert fetch([f"{images}/{n % 5}" for n in range(500)], StorageConfig()) == [b"%d" % (n % 5) for n in range(500)]


def test_a_store_that_is_not_there(clean_env: pytest.MonkeyPatch) -> None:
    storage = StorageConfig(endpoint_url="http://127.0.0.1:9", anonymous=True)
    assert fetch(["s3://bucket/a.jpg"], storage) == [Reason.STORAGE_ERROR]


def test_a_store_that_hangs(clean_env: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        reasons = fetch(["s3://bucket/a.jpg"] * 3, StorageConfig(endpoint_url=endpoint, anonymous=True, timeout_s=0.5))
    assert reasons == [Reason.TIMEOUT] * 3
    assert time.monotonic() - started < 20
