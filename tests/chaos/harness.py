"""Real parts to be killed: a Ray cluster of several nodes on this machine, an S3 server, a driver of its own process.

A `Chaos` owns them all and ends them all. A `run` starts a driver, kills one thing at a moment, resumes until the output is
done, and compares it row by row with that of an undisturbed run.
"""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from ray.cluster_utils import Cluster

from pipeline import storage
from pipeline.commandline import load
from pipeline.config import StorageConfig
from pipeline.local_s3 import LocalS3
from pipeline.verify import verify
from tests.greys import png
from tests.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[2]
STORE = StorageConfig()
KILLS = ("driver", "replica", "worker", "node", "store")
FILES, ROWS_PER_FILE = 4, 600
BLOCK_ROWS, REPLICAS = 16, 2
DELAY_S = 0.1  # of one block: the stream takes some ten seconds
NODES = 2
NODE_CPUS = 2
LIMIT_S = 240.0  # of one driver, on a machine that has other things to do
MOST_RESUMES = 8


class Outcome(NamedTuple):
    """What became of a run."""

    kill: str
    after_s: float  # from the first staged part to the kill
    resumes: int  # how often the command had to be given again
    rework: int  # images that were scored and had to be scored again
    errors: list[str]  # last lines of drivers that ended with an error
    faults: list[str]  # of `verify`
    identical: bool  # to the undisturbed output, row by row
    seconds: float

    @property
    def good(self) -> bool:
        """Whether the output is what it should be."""
        return self.identical and not self.faults


class Chaos:
    """Cluster, S3 server, manifest and the undisturbed output, for a `with` block."""

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="chaos-")
        self.folder = Path(self._scratch.name)
        self.s3 = LocalS3(buckets=["chaos"])
        self.cluster: Cluster | None = None
        self.nodes: list[Any] = []
        self.reference: pa.Table | None = None
        self._driver: subprocess.Popen[str] | None = None
        self._environment = dict(os.environ)

    def __enter__(self) -> Self:
        try:
            self.s3.start()
            os.environ.update(self.s3.env() | {"PYTHONPATH": str(ROOT)})
            self.checkpoint = tiny_checkpoint(self.folder)
            write_manifest("s3://chaos/in")
            self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
            for _ in range(NODES):
                self.add_node()
            done = self.start_driver("reference")
            if done.wait(LIMIT_S):
                raise RuntimeError(f"the undisturbed run failed: {_last_line(done)}")
            done.communicate()
            self.reference = read_output("s3://chaos/reference")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End everything."""
        if self._driver is not None and self._driver.poll() is None:
            self._driver.kill()
            self._driver.communicate()
        if self.cluster is not None:
            self.cluster.shutdown()
            self.cluster = None
        self.s3.stop()
        os.environ.clear()
        os.environ.update(self._environment)
        self._scratch.cleanup()

    def add_node(self) -> None:
        """One more node."""
        assert self.cluster is not None
        self.nodes.append(self.cluster.add_node(num_cpus=NODE_CPUS, include_dashboard=False))

    def replace_dead_nodes(self) -> None:
        """What an earlier run's kill took along in the end, on a machine that was too busy to give signs of life."""
        assert self.cluster is not None
        for node in list(self.nodes):
            if any(info.process.poll() is not None for info in node.all_processes.get("raylet", [])):
                self.cluster.remove_node(node, allow_graceful=False)
                self.nodes.remove(node)
        while len(self.nodes) < NODES:
            self.add_node()
        self.cluster.wait_for_nodes(timeout=LIMIT_S)

    def start_driver(self, name: str) -> subprocess.Popen[str]:
        """A driver that writes to the output of this name."""
        assert self.cluster is not None
        settings = {
            "input": {"manifest": "s3://chaos/in"},
            "output": {"path": f"s3://chaos/{name}", "rows_per_output_file": ROWS_PER_FILE // 2},
            "model": {"checkpoint": self.checkpoint},
            "compute": {"address": self.cluster.address, "replicas": REPLICAS, "chunk_rows": 100, "block_rows": BLOCK_ROWS},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "tests.chaos.driver", str(path), str(self.folder / f"{name}.tally"), str(DELAY_S)]
        self._driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        return self._driver

    def run(self, name: str, kill: str, after_s: float) -> Outcome:
        """One run with one kill, resumed until it is done."""
        assert self.reference is not None
        began = time.monotonic()
        errors: list[str] = []
        resumes = 0
        self.replace_dead_nodes()
        driver = self.start_driver(name)
        self.wait_for_parts(driver, f"s3://chaos/{name}")
        time.sleep(after_s)
        self.kill(kill, driver)
        while driver.wait(LIMIT_S):
            errors.append(_last_line(driver))
            resumes += 1
            if resumes > MOST_RESUMES:
                break
            driver = self.start_driver(name)
        driver.communicate()
        table = read_output(f"s3://chaos/{name}")
        identical = table.equals(self.reference)
        rework = self.scored(name) - self.scored("reference")
        report = verify(f"s3://chaos/{name}", load())
        return Outcome(kill, after_s, resumes, rework, errors, report.faults, identical, time.monotonic() - began)

    def scored(self, name: str) -> int:
        """Images that the replicas of a run scored, all drivers together."""
        return sum(map(int, (self.folder / f"{name}.tally").read_text().split()))

    def wait_for_parts(self, driver: subprocess.Popen[str], output: str) -> None:
        """Until something is staged: from then on there is something to lose."""
        deadline = time.monotonic() + LIMIT_S
        while driver.poll() is None and time.monotonic() < deadline:
            if any(file.url.endswith(".parquet") for file in storage.list_files(output, STORE)):
                return
            time.sleep(0.1)
        raise RuntimeError(f"nothing was staged: {_last_line(driver)}")

    def kill(self, what: str, driver: subprocess.Popen[str]) -> None:
        """Kill one thing, without a warning."""
        assert self.cluster is not None
        if what == "driver":
            driver.kill()
        elif what == "node":
            self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)
            self.add_node()
        elif what == "store":
            self.s3.restart(kill=True)
        else:
            title = "ray::MapWorker(MapBatches(Replica)" if what == "replica" else "ray::MapBatches("
            victims = list(self.workers(title)) or list(self.workers("ray::"))
            with suppress(ProcessLookupError):
                os.kill(random.choice(victims), signal.SIGKILL)

    def workers(self, title: str) -> Iterator[int]:
        """Process ids of this cluster's workers whose title begins so."""
        raylets = {info.process.pid for node in self.nodes for info in node.all_processes.get("raylet", [])}
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent in raylets and (entry / "cmdline").read_text().startswith(title):
                    yield int(entry.name)


def _last_line(driver: subprocess.Popen[str]) -> str:
    """Exit code and last line of a driver that has ended."""
    _, stderr = driver.communicate()
    return f"exit {driver.returncode}: {(stderr.strip().splitlines() or [''])[-1][:300]}"


def write_manifest(url: str) -> None:
    """Greys and caption lengths that no two neighbours share; every seventh image is junk, every eleventh caption missing."""
    for number in range(FILES):
        rows = range(number * ROWS_PER_FILE, (number + 1) * ROWS_PER_FILE)
        table = pa.table(
            {
                "key": [f"k{n}" for n in rows],
                "image": [b"junk" if n % 7 == 0 else png(n % 256) for n in rows],
                "caption": [None if n % 11 == 0 else "x" * (n % 50 + 1) for n in rows],
            }
        )
        sink = io.BytesIO()
        pq.write_table(table, sink)
        storage.write_bytes(f"{url}/{number}.parquet", sink.getvalue(), STORE)


def read_output(url: str) -> pa.Table:
    """All rows of an output, by file and row."""
    tables = [
        pq.read_table(io.BytesIO(storage.read_bytes(file.url, STORE)))
        for file in storage.list_files(url, STORE)
        if file.url.endswith(".parquet") and "/_staging/" not in file.url
    ]
    table = pa.concat_tables(tables).replace_schema_metadata(None)
    index = table.schema.get_field_index("status")
    return table.set_column(index, "status", table["status"].cast(pa.string())).combine_chunks()
