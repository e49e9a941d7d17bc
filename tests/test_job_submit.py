"""`ray job submit` as a user gives it, on a cluster that has this project's dependencies and not this project.

One cluster for all: a head without CPUs on loopback, and workers of two kinds that come when a job asks for them (one has a GPU
in number only). Its job API wants a token.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import pyarrow.parquet as pq
import pytest
from ray._private.runtime_env.packaging import create_package
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from tests.greys import grey_manifest
from tests.venvs import bare_venv

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
LIMIT_S = 180.0
ROWS = 6_000


class Running(NamedTuple):
    """A cluster, and what a client of it needs."""

    address: str
    python: Path
    token: str
    folder: Path

    def environment(self) -> dict[str, str]:
        """Of a shell on a machine that knows the token."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_", "PYTHON"))}
        return clean | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "AWS_EC2_METADATA_DISABLED": "true"}

    def client(self) -> JobSubmissionClient:
        return JobSubmissionClient(self.address, headers={"Authorization": f"Bearer {self.token}"})

    def state(self, kind: str) -> list[dict[str, Any]]:
        """What Ray's state API knows of all nodes, tasks or actors."""
        request = urllib.request.Request(f"{self.address}/api/v0/{kind}?limit=10000&detail=1")
        request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=30) as response:
            found = json.load(response)["data"]["result"]["result"]
        assert isinstance(found, list)
        return found

    def submit(self, entrypoint: str, *modules: Path) -> str:
        """Submit as `ray job submit --no-wait` does; returns the job's id. The head's agent may not be there yet."""
        environment: dict[str, Any] = {"working_dir": str(ROOT)}
        if modules:
            environment["py_modules"] = list(map(str, modules))
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                return self.client().submit_job(entrypoint=entrypoint, runtime_env=environment)
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise

    def wait_for(self, job: str, *statuses: JobStatus) -> JobDetails:
        client, deadline = self.client(), time.monotonic() + LIMIT_S
        while client.get_job_status(job) not in statuses:
            assert time.monotonic() < deadline, client.get_job_logs(job)
            time.sleep(0.2)
        return client.get_job_info(job)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="js-") as scratch:  # a short path: sockets have 108 characters
        folder = Path(scratch)
        running = Running("", bare_venv(folder / "venv"), secrets.token_hex(32), folder)
        command = [str(running.python), str(ROOT / "tests" / "cluster" / "growing.py"), scratch]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=running.environment(),
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            address = next((line for line in process.stdout if line.startswith("http")), "").strip()
            assert address, "the cluster did not start"
            yield running._replace(address=address)
            process.stdin.close()
            process.wait(timeout=60)


@pytest.fixture(scope="module")
def manifest(cluster: Running) -> str:
    """Path of a manifest of `ROWS` rows."""
    return grey_manifest(cluster.folder, ROWS)


@pytest.fixture(scope="module")
def settings(cluster: Running, manifest: str, checkpoint: str) -> str:
    """Path of a config file that scores the manifest: some ten seconds of work."""
    config = {
        "input": {"manifest": manifest},
        "output": {"path": str(cluster.folder / "scored"), "rows_per_output_file": ROWS // 2},
        "model": {"checkpoint": checkpoint, "device": "cpu"},
        "compute": {"wait_for_cpus": 2, "chunk_rows": 500, "block_rows": 50},
    }
    path = cluster.folder / "score.yaml"
    path.write_text(json.dumps(config))  # which is YAML
    return str(path)


def test_a_stopped_job_goes_on_when_it_is_submitted_again(cluster: Running, settings: str) -> None:
    job = cluster.submit(f"python jobs/score.py --config {settings}")
    staging = cluster.folder / "scored" / "_staging"
    deadline = time.monotonic() + LIMIT_S
    while not any(staging.rglob("*.parquet")):
        assert time.monotonic() < deadline, cluster.client().get_job_logs(job)
        time.sleep(0.1)
    cluster.client().stop_job(job)
    cluster.wait_for(job, JobStatus.STOPPED)
    assert "stopped by SIGTERM; what is staged is kept: run the same command to go on" in cluster.client().get_job_logs(job)
    assert not (cluster.folder / "scored" / "_lease.json").exists(), "whoever stops lets go"

    command = [cluster.python, "-m", "ray.scripts.scripts", "job", "submit", f"--address={cluster.address}", "--working-dir=."]
    entrypoint = ["python", "jobs/score.py", "--config", settings]
    done = subprocess.run(
        [*command, "--", *entrypoint],
        cwd=ROOT,
        env=cluster.environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # of all jobs: what the command follows a log by may miss lines of it on a busy machine
    logs = "".join(cluster.client().get_job_logs(job.submission_id) for job in cluster.client().list_jobs())
    assert "of them done by an earlier run" in logs
    assert f"{ROWS:,} rows in 2 files below {cluster.folder}/scored" in logs
    verified = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "verify.py"), str(cluster.folder / "scored")],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "all is well" in verified.stdout


def test_a_mistake_ends_a_job_with_its_line_and_its_exit_code(cluster: Running, settings: str) -> None:
    job = cluster.submit(f"python jobs/score.py --config {settings} --input.manifest nowhere/")
    details = cluster.wait_for(job, JobStatus.FAILED)
    assert details.driver_exit_code == 2
    assert "score: error: " in cluster.client().get_job_logs(job)


@pytest.mark.parametrize(("headers", "status"), [({}, 401), ({"Authorization": "Bearer wrong"}, 403)])
def test_nobody_sees_jobs_without_the_token(cluster: Running, headers: dict[str, str], status: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{cluster.address}/api/jobs/", headers=headers), timeout=30)
    assert refused.value.code == status
    refused.value.close()


def where_it_ran(cluster: Running, manifest: str, checkpoint: str, name: str, **compute: float) -> dict[str, set[str]]:
    """Score the manifest on a full cluster, by the echo scorer of the chaos runs, because a GPU that only Ray believes in runs
    no model; which kinds of nodes each stage was on."""
    settings = {
        "input": {"manifest": manifest},
        "output": {"path": str(cluster.folder / name)},
        "model": {"checkpoint": checkpoint},
        "compute": {"wait_for_gpus": 1, "wait_for_cpus": 4, **compute},
    }
    path = cluster.folder / f"{name}.yaml"
    path.write_text(json.dumps(settings))
    driver = f"python -m tests.chaos.driver {path} {cluster.folder}/{name}.tally 0.2"
    job = cluster.submit(f"PYTHONPATH=jobs:$PYTHONPATH {driver}", ROOT / "tests")
    details = cluster.wait_for(job, JobStatus.SUCCEEDED, JobStatus.FAILED)
    assert details.status == JobStatus.SUCCEEDED, cluster.client().get_job_logs(job)
    # a machine that idles goes, and what it had is done again: scored at least once, written exactly once
    rows = pq.read_metadata(manifest).num_rows
    assert sum(map(int, (cluster.folder / f"{name}.tally").read_text().split())) >= rows
    assert pq.read_table(cluster.folder / name).num_rows == rows
    kinds = {node["node_id"]: kind_of(node["resources_total"]) for node in cluster.state("nodes")}
    tasks = [task for task in cluster.state("tasks") if task["job_id"] == details.job_id and task["node_id"]]
    stages = ("Replica", "fetch", "stage", "_commit")
    return {stage: {kinds[task["node_id"]] for task in tasks if stage in task["name"]} for stage in stages}


def kind_of(resources: dict[str, float]) -> str:
    return "gpu" if resources.get("GPU") else "cpu" if resources.get("CPU") else "head"


def test_the_cluster_grows_for_a_run_and_spare_cores_beside_gpus_are_used(cluster: Running, checkpoint: str) -> None:
    # Images that take long to decode, so that the replica waits for fetch tasks: Ray would start no more of them otherwise than
    # keep it busy. There is room for five, on the node without a GPU for four.
    manifest = grey_manifest(cluster.folder / "large", 1_200, 1_500, 1_500)
    where = where_it_ran(cluster, manifest, checkpoint, "many", chunk_rows=200, block_rows=50)
    assert where["Replica"] == {"gpu"}
    assert where["fetch"] == {"cpu", "gpu"}
    assert "head" not in where["stage"] | where["_commit"]
    assert where["stage"]


def test_what_fits_beside_no_gpu_does_not_go_to_one(cluster: Running, manifest: str, checkpoint: str) -> None:
    half = ROWS // 2  # two fetch tasks, for which one node has room
    where = where_it_ran(cluster, manifest, checkpoint, "few", chunk_rows=half, block_rows=half)
    assert where["Replica"] == {"gpu"}
    assert where["fetch"] == {"cpu"}


def test_machines_that_nobody_needs_go_again(cluster: Running) -> None:
    deadline = time.monotonic() + LIMIT_S
    while (alive := [kind_of(node["resources_total"]) for node in cluster.state("nodes") if node["state"] == "ALIVE"]) != [
        "head"
    ]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.5)
    gone = {kind_of(node["resources_total"]) for node in cluster.state("nodes") if node["state"] == "DEAD"}
    assert gone == {"cpu", "gpu"}


def packed(folder: Path, target: Path) -> dict[str, int]:
    """Files that Ray packs of a folder, and their sizes in the package."""
    create_package(str(folder), target, include_gitignore=True)
    with ZipFile(target) as package:
        return {entry.filename: entry.compress_size for entry in package.infolist()}


def test_what_is_packed_is_small_and_all_that_a_run_needs(tmp_path: Path) -> None:
    files = packed(ROOT, tmp_path / "package.zip")
    needed = {
        str(path.relative_to(ROOT))
        for folder in ("pipeline", "jobs", "configs")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert needed <= files.keys()
    assert not {"tests", "docs", "benchmarks", ".git", ".venv"} & {Path(name).parts[0] for name in files}
    assert sum(size for name, size in files.items() if name in needed) < 10 * 1024**2


def test_what_lies_about_is_not_packed(tmp_path: Path) -> None:
    clutter = [
        "demo-output/scored/m.parquet",
        "scored.parquet",
        "blip.pth",
        "dist/c.whl",
        "pipeline/__pycache__/a.pyc",
        ".venv/x",
    ]
    for name in [*clutter, "my.yaml", "pipeline/model/demo/model.safetensors", "jobs/mine.py"]:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text("x")
    (tmp_path / "tree" / ".rayignore").write_text((ROOT / ".rayignore").read_text())
    files = packed(tmp_path / "tree", tmp_path / "package.zip")
    assert files.keys() == {".rayignore", "my.yaml", "pipeline/model/demo/model.safetensors", "jobs/mine.py"}
