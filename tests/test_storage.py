"""Storage on real parts: this machine's file system and a real S3 server; every failure is one clear line, in seconds."""

from __future__ import annotations

import errno
import json
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.errors import StorageError
from pipeline.local_s3 import LocalS3
from pipeline.storage_failures import public_url
from tests.servers import serving

CONFIG = StorageConfig()


@pytest.fixture(params=["local", "s3", "other"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder on each sort of store that is written to in a way of its own."""
    if request.param == "s3":
        return str(request.getfixturevalue("bucket"))
    return str(tmp_path / "new" / "folder") if request.param == "local" else f"memory://{tmp_path.name}"


def urls(folder: str) -> list[str]:
    return [file.url for file in storage.list_files(folder, CONFIG)]


# ------------------------------------------------------------------ behaviour, the same on every store


@pytest.mark.parametrize("name", ["a.bin", "deep/er/a.bin", "date=2026-01-01/ä 漢*[x]?%41#.bin"])
def test_what_is_written_is_read(folder: str, name: str) -> None:
    if folder.startswith("memory:"):
        name = name.replace("*[x]?", "")  # fsspec's rename in memory takes these for patterns
    url = f"{folder}/{name}"
    assert not storage.exists(url, CONFIG)
    storage.write_bytes(url, b"first", CONFIG)
    storage.write_bytes(url, b"second one", CONFIG)
    assert storage.read_bytes(url, CONFIG) == b"second one"
    assert storage.exists(url, CONFIG)
    assert urls(folder) == [url]
    storage.delete_files([url], CONFIG)
    assert urls(folder) == []


def test_listing_is_recursive_and_sorted_and_knows_sizes_and_versions(folder: str) -> None:
    for name, data in {"b": b"22", "a/c": b"1", "a/b/c": b""}.items():
        storage.write_bytes(f"{folder}/{name}", data, CONFIG)
    files = storage.list_files(folder, CONFIG)
    assert [(file.url, file.size) for file in files] == [(f"{folder}/a/b/c", 0), (f"{folder}/a/c", 1), (f"{folder}/b", 2)]
    assert all(file.version for file in files)
    assert storage.find_file(f"{folder}/b", CONFIG) == files[-1]
    assert storage.list_files(f"{folder}/b", CONFIG) == files[-1:]


def test_a_changed_file_has_another_version(folder: str) -> None:
    storage.write_bytes(f"{folder}/a", b"1", CONFIG)
    before = storage.find_file(f"{folder}/a", CONFIG)
    time.sleep(0.02)  # file systems keep time in steps
    storage.write_bytes(f"{folder}/a", b"2", CONFIG)
    assert storage.find_file(f"{folder}/a", CONFIG) != before


def test_listings_are_never_stale(folder: str) -> None:
    storage.write_bytes(f"{folder}/a", b"", CONFIG)
    assert len(urls(folder)) == 1
    ours = storage.open_filesystem(folder, CONFIG)
    other = StorageConfig(timeout_s=CONFIG.timeout_s + 1)  # another instance, as another process has
    storage.write_bytes(f"{folder}/b", b"", other)
    assert len(ours.fs.find(ours.path)) == 2


def test_folders_that_are_not_there_are_empty_and_no_files(folder: str) -> None:
    assert urls(f"{folder}/nothing") == []
    storage.write_bytes(f"{folder}/sub/a", b"", CONFIG)
    assert not storage.exists(f"{folder}/sub", CONFIG)
    with pytest.raises(StorageError, match=r"not found: .*/nothing"):
        storage.read_bytes(f"{folder}/nothing", CONFIG)


def test_deleting_many_and_what_is_gone(folder: str) -> None:
    names = [f"{folder}/many/{index}" for index in range(30)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda url: storage.write_bytes(url, b"x", CONFIG), names))
    storage.delete_files([*names[:20], f"{folder}/never"], CONFIG)
    assert len(urls(folder)) == 10
    storage.delete_folder(folder, CONFIG)
    storage.delete_folder(folder, CONFIG)
    assert urls(folder) == []
    storage.delete_files([], CONFIG)


def test_globs(folder: str) -> None:
    for name in ("a/1.x", "a/2.y", "b/1.x"):
        storage.write_bytes(f"{folder}/{name}", b"", CONFIG)
    found = [file.url.removeprefix(folder) for file in storage.glob_files(f"{folder}/*/*.x", CONFIG)]
    assert found == ["/a/1.x", "/b/1.x"]


def test_a_location_can_be_pickled_and_threads_share_it(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/a", b"hello", CONFIG)
    location = pickle.loads(pickle.dumps(storage.open_filesystem(f"{bucket}/a", CONFIG)))
    assert location.fs.cat_file(location.path) == b"hello"
    with ThreadPoolExecutor(8) as pool:
        assert len({id(storage.open_filesystem(bucket, CONFIG).fs) for _ in pool.map(time.sleep, [0.01] * 8)}) == 1
        assert set(pool.map(lambda _: storage.read_bytes(f"{bucket}/a", CONFIG), range(50))) == {b"hello"}


# ------------------------------------------------------------------ local writes


def test_a_local_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=f"no space left to write {tmp_path}/a"):
        storage.write_bytes(str(tmp_path / "a"), b"new", CONFIG)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    sizes: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            sizes.update(file.size for file in storage.list_files(str(tmp_path), CONFIG))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for size in (1_000, 3_000_000, 2_000):
            storage.write_bytes(str(path), b"x" * size, CONFIG)
    finally:
        done.set()
        watcher.join()
    assert sizes <= {1_000, 3_000_000, 2_000}


def test_unreadable_folders_are_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:  # permissions do not bind root, who runs tests in containers
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match="access denied"):
        storage.list_files(str(tmp_path), CONFIG)


def test_file_urls_are_paths(tmp_path: Path) -> None:
    storage.write_bytes(f"file://{tmp_path}/a", b"1", CONFIG)
    assert urls(f"file://{tmp_path}") == [f"{tmp_path}/a"]


# ------------------------------------------------------------------ failures: (what is wrong, what the line says)

OPERATIONS: dict[str, Callable[[str, StorageConfig], object]] = {
    "read": storage.read_bytes,
    "write": lambda url, config: storage.write_bytes(url, b"x", config),
    "list": storage.list_files,
    "find": storage.find_file,
    "delete": lambda url, config: storage.delete_files([url], config),
    "probe": storage.probe,
}


def failure(operation: str, url: str, config: StorageConfig = CONFIG, *, within_s: float = 6) -> str:
    """The one line of a failing operation, which must come soon."""
    begin = time.monotonic()
    with pytest.raises(StorageError) as caught:
        OPERATIONS[operation](url, config)
    assert time.monotonic() - begin < within_s
    line = str(caught.value)
    assert "\n" not in line
    assert public_url(url) in line or operation == "delete"
    return line


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_such_bucket(s3_env: LocalS3, operation: str) -> None:
    assert "no such bucket: not-there" in failure(operation, "s3://not-there/a/b")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(bucket: str, operation: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "wrong")
    line = failure(operation, f"{bucket}/a")
    assert "credentials" in line
    assert "AWS_SECRET_ACCESS_KEY" in line
    assert "wrong" not in line.partition("s3://")[2].partition(" ")[0]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_credentials(s3: LocalS3, operation: str, clean_env: pytest.MonkeyPatch) -> None:
    clean_env.setenv("AWS_ENDPOINT_URL", s3.endpoint_url)
    assert "no credentials for s3://capsieve-tests/a" in failure(operation, "s3://capsieve-tests/a")


@pytest.mark.parametrize("operation", ["write", "delete"])
def test_a_key_that_may_only_read(bucket: str, s3: LocalS3, operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(f"{bucket}/a", b"1", CONFIG)
    for name, value in s3.env(read_only=True).items():
        monkeypatch.setenv(name, value)
    assert storage.read_bytes(f"{bucket}/a", CONFIG) == b"1"
    storage.probe(bucket, CONFIG)
    assert "denied" in failure(operation, f"{bucket}/a").lower()


@pytest.mark.parametrize("operation", ["read", "probe"])
def test_a_closed_port(operation: str, s3_env: LocalS3) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
    line = failure(operation, "s3://some-bucket/a", StorageConfig(endpoint_url=endpoint))
    assert f"cannot reach s3://some-bucket/a: no answer from {endpoint}" in line
    assert "--storage.endpoint_url" in line


def test_a_server_that_never_answers(s3_env: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PROBE_TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        line = failure("probe", "s3://some-bucket/a", StorageConfig(endpoint_url=endpoint, timeout_s=2.5))
    assert "no answer in time" in line


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://", "no bucket in s3://"),
        ("s3://A B/c", "not a valid bucket or object name"),
        ("foo://a/b", "unknown protocol foo://"),
        ("abfs://a/b", "pip install adlfs"),
        ("gs://some-bucket/a", "no credentials for gs://some-bucket/a: set GOOGLE_APPLICATION_CREDENTIALS"),
        ("/etc/hostname/a", "a part of the path is a file"),
        ("/nowhere/at/all", "not found: /nowhere/at/all"),
        ("/etc", "it is a folder, not a file"),
        ("http://127.0.0.1:9/a?signature=secret", "cannot reach http://127.0.0.1:9/a: "),
    ],
)
def test_urls_that_cannot_be_read(url: str, says: str, s3_env: LocalS3, clean_env: pytest.MonkeyPatch) -> None:
    clean_env.setenv("NO_GCE_CHECK", "true")  # no search for a metadata server
    line = failure("read", url)
    assert says in line
    assert "secret" not in line


@pytest.mark.parametrize("says", ["Invalid endpoint: localhost:9000", "http://"])
def test_an_endpoint_that_is_no_url(says: str, s3_env: LocalS3) -> None:
    with pytest.raises(StorageError, match=says):
        storage.list_files("s3://some-bucket", StorageConfig(endpoint_url="localhost:9000"))


def test_a_public_bucket_needs_no_credentials(s3: LocalS3, s3_env: LocalS3, clean_env: pytest.MonkeyPatch) -> None:
    storage.write_bytes("s3://public/a", b"1", CONFIG)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        clean_env.delenv(name)
    assert storage.read_bytes("s3://public/a", StorageConfig(anonymous=True)) == b"1"


def test_errors_that_are_not_about_storage_pass() -> None:
    for error in (ValueError("mine"), KeyError("a"), ImportError("b")):
        with pytest.raises(type(error)), storage.storage_errors("s3://a/b"):
            raise error


def test_storage_errors_decorates() -> None:
    @storage.storage_errors("/some/file")
    def fail() -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(StorageError, match="cannot write /some/file: the file system is read-only"):
        fail()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@host/a?X-Amz-Signature=1", "https://host/a"),
        ("https://host/a@b", "https://host/a@b"),
        ("s3://bucket/a?b", "s3://bucket/a?b"),
        ("/path/a?b", "/path/a?b"),
    ],
)
def test_secrets_are_not_shown(url: str, shown: str) -> None:
    assert public_url(url) == shown


# ------------------------------------------------------------------ Google Cloud Storage, as far as a stub of its API goes


class GoogleStub(BaseHTTPRequestHandler):
    """Answers listings of a bucket as its name says: `status-404`."""

    def do_GET(self) -> None:
        status = int(self.path.partition("/b/status-")[2][:3])
        body = json.dumps({"error": {"code": status, "message": "the reason"}} if status != 200 else {"items": []}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def google(clean_env: pytest.MonkeyPatch) -> Iterator[None]:
    with serving(GoogleStub) as url:
        clean_env.setenv("STORAGE_EMULATOR_HOST", url)
        yield


@pytest.mark.parametrize(
    ("operation", "status", "says"),
    [
        ("probe", 404, "no such bucket: status-404"),
        ("probe", 401, "access denied to gs://status-401/a"),
        ("list", 403, "access denied to gs://status-403/a: the credentials are wrong, or do not allow it; set GOOGLE_APP"),
        ("read", 404, "not found: gs://status-404/a"),
    ],
)
def test_what_google_refuses(google: None, operation: str, status: int, says: str) -> None:
    assert says in failure(operation, f"gs://status-{status}/a", StorageConfig(anonymous=True))


def test_a_probe_of_google_does_not_need_the_right_to_list(google: None) -> None:
    storage.probe("gs://status-200/a", StorageConfig(anonymous=True))
    storage.probe("gs://status-403/a", StorageConfig(anonymous=True))
