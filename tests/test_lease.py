"""One run at a time writes to an output: on disk and on a real S3 server, with real processes that hold the lease and die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import conditional, storage
from pipeline.config import StorageConfig
from pipeline.errors import OutputError
from pipeline.lease import LEASE_FILE, Lease, holder_of

STORE = StorageConfig()
ROOT = Path(__file__).parents[1]
HOLD = """
import sys, time
real, shift_s = time.time, float(sys.argv[3])
time.time = lambda: real() + shift_s
from pipeline.config import StorageConfig
from pipeline.lease import Lease
with Lease(sys.argv[1], StorageConfig(), float(sys.argv[2])):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "local" else str(request.getfixturevalue("bucket"))


def hold_elsewhere(output: str, lease_s: float = 60, shift_s: float = 0) -> subprocess.Popen[str]:
    """Another process that holds the lease, with a clock that is wrong by so much."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, output, str(lease_s), str(shift_s)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=60)


def forge(output: str, **changes: object) -> None:
    """Rewrite the lease as another machine's run would have left it."""
    fields = json.loads(storage.read_bytes(f"{output}/{LEASE_FILE}", STORE)) | changes
    storage.write_bytes(f"{output}/{LEASE_FILE}", json.dumps(fields).encode(), STORE)


def test_a_file_is_swapped_only_where_nobody_changed_it(output: str) -> None:
    url = f"{output}/file"
    assert conditional.read(url, STORE) is None
    first = conditional.swap(url, b"one", STORE, version=None)
    assert first is not None
    assert conditional.swap(url, b"two", STORE, version=None) is None
    second = conditional.swap(url, b"three", STORE, version=first)
    assert conditional.swap(url, b"four", STORE, version=first) is None
    assert conditional.read(url, STORE) == conditional.Stored(b"three", second)
    assert conditional.swap(url, b"three", STORE, version=first) == second, "a repeated request of one's own is no refusal"
    storage.delete_files([url], STORE)
    assert conditional.swap(url, b"five", STORE, version=second) is None


def test_a_store_without_conditions_does_what_it_can() -> None:
    url = f"memory://{os.getpid()}/file"
    first = conditional.swap(url, b"one", STORE, version=None)
    assert conditional.swap(url, b"two", STORE, version=None) is None
    assert conditional.swap(url, b"two", STORE, version=first) is not None


def test_a_second_run_is_told_who_is_there_and_the_lease_goes_with_the_run(output: str) -> None:
    with Lease(output, STORE, 60) as lease:
        assert holder_of(output, STORE) == lease.run
        with pytest.raises(OutputError, match=rf"being written by another run \(.*, process {os.getpid()}, since .*\)"):
            Lease(output, STORE, 60).__enter__()
        lease.check()
    assert holder_of(output, STORE) is None
    assert storage.list_files(output, STORE) == []


def test_a_living_process_is_refused_and_a_killed_one_s_lease_taken_over_at_once(output: str) -> None:
    process = hold_elsewhere(output)
    try:
        with pytest.raises(OutputError, match=f"process {process.pid}"):
            Lease(output, STORE, 60).__enter__()
        process.kill()
        while not process.poll():
            time.sleep(0.01)
        with Lease(output, STORE, 60) as lease:
            assert holder_of(output, STORE) == lease.run
    finally:
        end(process)


def test_a_stale_lease_of_another_machine_is_taken_over_and_a_fresh_one_is_not(output: str) -> None:
    process = hold_elsewhere(output)
    end(process)
    forge(output, machine="another", renewed=time.time())
    with pytest.raises(OutputError, match="keeps its lease for 60 s"):
        Lease(output, STORE, 60).__enter__()
    forge(output, machine="another", renewed=time.time() - 100, lease_s=2)
    with Lease(output, STORE, 60) as lease:
        assert holder_of(output, STORE) == lease.run


@pytest.mark.parametrize("shift_s", [-86_400.0, 86_400.0])
def test_a_living_run_whose_clock_is_wrong_is_refused(output: str, shift_s: float) -> None:
    """Its sign of life looks a day old, or a day ahead, but it comes again before our eyes."""
    process = hold_elsewhere(output, lease_s=4, shift_s=shift_s)
    try:
        with pytest.raises(OutputError, match=f"process {process.pid}"):
            Lease(output, STORE, 60).__enter__()
    finally:
        end(process)


def check_until_lost(lease: Lease) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lease.check()
        time.sleep(0.05)


def test_a_run_whose_lease_was_taken_learns_it(output: str) -> None:
    with Lease(output, STORE, 1) as lease:
        forge(output, run="another", renewed=time.time())
        with pytest.raises(OutputError, match="taken over by another run"):
            check_until_lost(lease)
    assert holder_of(output, STORE) == "another", "what is not ours is not removed"


def test_a_damaged_lease_does_not_lock_anybody_out(output: str) -> None:
    storage.write_bytes(f"{output}/{LEASE_FILE}", b"{", STORE)
    with Lease(output, STORE, 60) as lease:
        assert holder_of(output, STORE) == lease.run
