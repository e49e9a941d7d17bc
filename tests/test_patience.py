"""Waiting for a store: one that is down for a while, one that throttles, and errors that no waiting heals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.errors import StorageError
from pipeline.local_s3 import LocalS3
from pipeline.patience import patiently
from tests.servers import serving

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Throttling(BaseHTTPRequestHandler):
    """Refuses the first `refusals` requests as S3 does that has too many, then takes everything."""

    protocol_version = "HTTP/1.1"  # clients expect "100 Continue" before they send a body
    refusals = 0
    seen = 0

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        kind = type(self)
        kind.seen += 1
        refused = kind.seen <= kind.refusals
        body = SLOW_DOWN if refused else b""
        self.send_response(503 if refused else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"e"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def throttling(clean_env: pytest.MonkeyPatch) -> Iterator[str]:
    Throttling.seen = 0
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        clean_env.setenv(name, "any")
    clean_env.setenv("AWS_REGION", "us-east-1")
    with serving(Throttling) as url:
        yield url


def test_throttling_is_waited_for(throttling: str) -> None:
    Throttling.refusals = 2 * storage.SDK_ATTEMPTS * storage.S3FS_ATTEMPTS + 1  # more than one request gives up after
    config = StorageConfig(endpoint_url=throttling, retry_s=60)
    patiently(lambda: storage.write_bytes("s3://bucket/file", b"data", config), config)
    assert Throttling.seen == Throttling.refusals + 1


def test_patience_ends(throttling: str) -> None:
    Throttling.refusals = 1_000_000
    config = StorageConfig(endpoint_url=throttling, retry_s=0)
    with pytest.raises(StorageError) as caught:
        patiently(lambda: storage.write_bytes("s3://bucket/file", b"data", config), config)
    assert caught.value.passing


def test_a_server_that_is_killed_and_comes_back_is_waited_for(clean_env: pytest.MonkeyPatch) -> None:
    config = StorageConfig(retry_s=60)
    with LocalS3(buckets=["patience"]) as server:
        for name, value in server.env().items():
            clean_env.setenv(name, value)

        def write() -> None:
            for number in range(20):
                url, data = f"s3://patience/{number}", str(number).encode()
                patiently(lambda: storage.write_bytes(url, data, config), config)  # noqa: B023 called at once
                time.sleep(0.05)

        with ThreadPoolExecutor(1) as pool:  # not the other way round: the server ends with the thread that started it
            writing = pool.submit(write)
            server.restart(kill=True)
            writing.result()
        assert len(storage.list_files("s3://patience", config)) == 20


def test_what_waiting_does_not_heal_comes_at_once(s3_env: LocalS3, clean_env: pytest.MonkeyPatch) -> None:
    config = StorageConfig()
    calls = 0

    def write(url: str) -> None:
        nonlocal calls
        calls += 1
        storage.write_bytes(url, b"x", config)

    for name, value in s3_env.env(read_only=True).items():
        clean_env.setenv(name, value)
    for url in ("s3://capsieve-tests/denied", "s3://no-such-bucket-at-all/x", "/proc/nowhere/x"):
        with pytest.raises(StorageError):
            patiently(lambda url=url: write(url), config)  # type: ignore[misc]
    assert calls == 3
