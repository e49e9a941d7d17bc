"""What benchmarks/fetch.py runs and times: each client in a process of its own, by wall clock and by its CPU time.

Knows nothing of which variants are compared, or of how results are shown.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import Config, FetchConfig, StorageConfig
from pipeline.fetch import FetchRequest, process_fetcher
from pipeline.local_s3 import LocalS3, die_with_us, free_ports

HERE = Path(__file__).parent
FETCH = FetchConfig(allowed_networks=["127.0.0.0/8"], timeout_s=10, read_timeout_s=10)


class Measured(NamedTuple):
    """One run of a client."""

    images: int
    wall_s: float  # until the last good image came
    cpu_s: float  # of the client, all its threads
    all_s: float = 0.0  # until the last row was decided, failed ones among them


def in_own_process(function: Callable[..., Measured], *arguments: Any) -> Measured:
    """Run a client in a fresh interpreter; what it imports is not measured."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def fetch_urls(urls: Sequence[str], config: FetchConfig = FETCH, side: int = 0, enough: int | None = None) -> Measured:
    """Our fetcher, and with a side our decoder to side x side, as a fetch task runs them; until there are enough images."""
    import torch

    from pipeline.images import decode

    torch.set_num_threads(1)
    requests = [FetchRequest(index, url) for index, url in enumerate(urls)]
    images, last = 0, 0.0
    fetcher = process_fetcher(config, StorageConfig())
    began, began_cpu = time.perf_counter(), time.process_time()
    for result in fetcher.fetch(requests):
        if result.data is not None:
            images += 1
            if side:
                decode(result.data, side)
            last = time.perf_counter()
            if images == enough:
                return Measured(images, last - began, time.process_time() - began_cpu)
    ended = time.perf_counter()
    return Measured(images, last - began, time.process_time() - began_cpu, ended - began)


def s3fs_cat(keys: Sequence[str]) -> Measured:
    """Plain s3fs, its own concurrency."""
    import s3fs

    store = s3fs.S3FileSystem()
    store.cat(keys[0])  # a connection, and what botocore loads at first use
    began, began_cpu = time.perf_counter(), time.process_time()
    images = len(store.cat(sorted(set(keys))))
    return Measured(images, time.perf_counter() - began, time.process_time() - began_cpu)


def img2dataset(python: str, urls: Sequence[str], side: int) -> Measured:
    """img2dataset in its own environment, less what a list of one URL costs it: start, imports, processes."""
    whole, start = (_img2dataset_run(python, some, side) for some in (urls, urls[:1]))
    return Measured(whole["images"], whole["wall_s"] - start["wall_s"], whole["cpu_s"] - start["cpu_s"])


def _img2dataset_run(python: str, urls: Sequence[str], side: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "urls.txt")
        listed.write_text("\n".join(urls) + "\n")
        command = [python, str(HERE / "fetch_peers.py"), str(listed), str(Path(folder, "out")), str(side)]
        environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONPATH": ""}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise SystemExit(f"img2dataset failed: {done.stderr[-500:]}")
        measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return measured


def run_chunks(manifest: str, chunk_rows: int, tasks: int) -> Measured:
    """A manifest through `stages.image_blocks`, chunk after chunk, in as many processes as Ray would run fetch tasks here."""
    rows = json.loads(Path(f"{manifest}.json").read_text())
    chunks = [(manifest, start, min(start + chunk_rows, rows)) for start in range(0, rows, chunk_rows)]
    with multiprocessing.get_context("spawn").Pool(tasks) as pool:
        pool.map(_warm_up, range(tasks * 4), chunksize=1)
        began = time.perf_counter()
        done = list(pool.imap_unordered(_run_chunk, chunks, chunksize=1))
        ended = time.perf_counter()
    return Measured(sum(one.images for one in done), ended - began, sum(one.cpu_s for one in done), ended - began)


def _warm_up(_: int) -> None:
    import torch

    import pipeline.images  # noqa: F401

    torch.set_num_threads(1)
    time.sleep(0.5)  # so that each process gets one


def _run_chunk(chunk: tuple[str, int, int]) -> Measured:
    from pipeline.manifest import find_manifest
    from pipeline.records import Chunk
    from pipeline.stages import image_blocks

    url, start, stop = chunk
    config = Config(fetch=FETCH)
    config = config.model_copy(update={"input": config.input.model_copy(update={"manifest": [url]})})
    manifest = find_manifest(config.input, config.storage, 10_000_000)
    began = time.process_time()
    blocks = image_blocks(Chunk(0, ((start, stop),)), manifest, config, 384)
    images = sum(len(block) - block["pixels"].null_count for block in blocks)
    return Measured(images, 0.0, time.process_time() - began)


class Server(NamedTuple):
    """A server that runs."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """CPU time it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(folder: Path, delay_ms: int, *hosts: str) -> Iterator[Server]:
    """`fetch_server.py` as a process, on a free port."""
    (port,) = free_ports(1)
    command = [sys.executable, str(HERE / "fetch_server.py"), str(folder), str(port), str(delay_ms), *hosts]
    with subprocess.Popen(die_with_us(command), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"ready\n":
                raise SystemExit("the benchmark's server does not start")
            yield Server(port, process.pid)
        finally:
            process.terminate()


@contextmanager
def hostile_serving() -> Iterator[int]:
    """The tests' hostile server in a process of its own; yields its port."""
    script = (
        "import sys; from tests.fetch.hostile import HostileServer\n"
        "with HostileServer() as server: print(server.port, flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def s3_objects(folder: Path, copies: int) -> Iterator[list[str]]:
    """Files in a real S3 server, so many copies of each; yields their URLs. The environment has its credentials meanwhile."""
    from pipeline.storage import write_bytes

    with LocalS3(buckets=["bench"]) as server:
        before = dict(os.environ)
        os.environ.update(server.env())
        try:
            files = sorted(folder.glob("*.jpg"))
            urls = [f"s3://bench/{copy}/{path.name}" for copy in range(copies) for path in files]
            for copy in range(copies):
                for path in files:
                    write_bytes(f"s3://bench/{copy}/{path.name}", path.read_bytes(), StorageConfig())
            yield urls
        finally:
            os.environ.clear()
            os.environ.update(before)
