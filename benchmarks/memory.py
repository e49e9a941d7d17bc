"""Is memory flat? Peaks of the driver, a worker and the object store at 2,000, 20,000 and 200,000 rows.

    python benchmarks/memory.py [--rows N ...] [--block-rows N]

The real graph with pixels made on the fly (64 px) and a scorer of zeros, each size in a process and a cluster of its own, with
the blocks that a run chooses, or smaller ones: the driver's memory goes by blocks. What counts is the third against the second:
the second has filled every queue. Of processes, anonymous memory is counted: their own, without libraries and the object
store's pages; of the object store, what the machine's shared memory grew by.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import flow
from harness import publish

from pipeline import cluster
from pipeline.commandline import load

ROWS = (2_000, 20_000, 200_000)
SIDE = 64
INTERVAL_S = 1.0
MIB = 1024 * 1024
PARTS = ("driver", "largest worker", "object store")


class Watch(threading.Thread):
    """Samples a driver and what it started until told to stop; peaks in bytes.

    From outside: asking Ray costs the asking process memory, and so does making a manifest.
    """

    def __init__(self, driver: int) -> None:
        super().__init__(daemon=True)
        self.bytes = dict.fromkeys(PARTS, 0)
        self.ended = threading.Event()
        self._driver = driver
        self._shared_before = shared_memory()

    def run(self) -> None:
        """Sample once a second."""
        while not self.ended.wait(INTERVAL_S):
            for name, value in self._sample().items():
                self.bytes[name] = max(self.bytes[name], value)

    def _sample(self) -> dict[str, int]:
        """Bytes now: the driver, its largest worker, what the machine's shared memory has grown by."""
        workers = [text for text in descendants(self._driver) if text.startswith("Name:\tray::")]
        return {
            "driver": field(status(self._driver), "RssAnon"),
            "largest worker": max((field(text, "RssAnon") for text in workers), default=0),
            "object store": shared_memory() - self._shared_before,
        }


def descendants(process: int) -> list[str]:
    """/proc/PID/status of all that a process started, directly or not."""
    texts = [status(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    family, found = {process}, list[str]()
    while children := [text for text in texts if field(text, "PPid", 1) in family and field(text, "Pid", 1) not in family]:
        found += children
        family |= {field(text, "Pid", 1) for text in children}
    return found


def shared_memory() -> int:
    """Bytes of shared memory on this machine."""
    return field(Path("/proc/meminfo").read_text(), "Shmem")


def status(process: int | str) -> str:
    """/proc/PID/status; empty once the process has ended."""
    try:
        return Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def field(text: str, name: str, unit: int = 1024) -> int:
    """Bytes of a field of /proc/PID/status, or a number without `unit`; 0 where a process has none any more."""
    line = next((line for line in text.splitlines() if line.startswith(name + ":")), f"{name}: 0 kB")
    return int(line.split()[1]) * unit


def drive(folder: str, block_rows: int | None) -> None:
    """One stream in this process; tells what came of it."""
    config = load(
        None,
        {
            "input": {"manifest": f"{folder}/manifest"},
            "output": {"path": f"{folder}/out"},
            "model": {"image_size": SIDE},
            "compute": {"block_rows": block_rows},
        },
    )
    with cluster.joined(config):
        found = flow.stream(config, flow.ZeroScorer, flow.make_blocks)
        print(json.dumps({"blocks": found.blocks + 1, "rows_per_s": found.rows_per_s}), flush=True)


def measure(rows: int, block_rows: int | None) -> dict[str, Any]:
    """One stream in a process of its own, watched by this one."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as folder:
        flow.write_manifest(Path(folder) / "manifest", [f"{number}.jpg" for number in range(rows)])
        command = [sys.executable, __file__, "--drive", folder, *(["--block-rows", str(block_rows)] if block_rows else [])]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as driver:
            assert driver.stdout is not None
            watch = Watch(driver.pid)
            watch.start()
            found = json.loads(driver.stdout.readline())
            watch.ended.set()
            watch.join()
    return {"rows": rows, **found, **watch.bytes}


def main(argv: list[str]) -> int:
    """Run the benchmark: itself, once a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--block-rows", type=int)
    parser.add_argument("--drive", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.drive:
        drive(options.drive, options.block_rows)
        return 0
    found = [measure(rows, options.block_rows) for rows in options.rows]
    table = [
        [f"{one['rows']:,}", str(one["blocks"]), *(f"{one[name] / MIB:,.0f} MiB" for name in PARTS), growth(found, index)]
        for index, one in enumerate(found)
    ]
    name = f"memory-{options.block_rows}" if options.block_rows else "memory"
    publish(name, ["rows", "blocks", *PARTS, "driver, worker against the size before"], table, {"sizes": found})
    return 0


def growth(found: list[dict[str, Any]], index: int) -> str:
    """More of driver and worker than at the size before."""
    if not index:
        return ""
    now, before = found[index], found[index - 1]
    return ", ".join(f"{now[name] / before[name] - 1:+.0%}" for name in PARTS[:2])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
