"""Is memory flat? Peaks of the driver, a worker and the object store at 2,000, 20,000 and 200,000 rows.

    python benchmarks/memory.py [--rows N ...]

The real graph with pixels made on the fly (64 px) and a scorer of zeros, each size in a process and a cluster of its own, and
blocks of 128 images, a quarter of what a GPU gets. What counts is the third against the second: the second has filled every
queue. Of processes, anonymous memory is counted: their own, without libraries and the object store's pages; the object store
says itself what it holds.
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
import ray
from harness import publish
from ray._private.internal_api import get_memory_info_reply, get_state_from_address  # the only way without a dashboard

from pipeline import cluster
from pipeline.commandline import load

ROWS = (2_000, 20_000, 200_000)
SIDE = 64
INTERVAL_S = 1.0
MIB = 1024 * 1024
PARTS = ("driver", "largest worker", "object store")


class Peaks(threading.Thread):
    """Samples until told to stop; peaks in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = dict.fromkeys(PARTS, 0)
        self.ended = threading.Event()

    def run(self) -> None:
        """Sample once a second."""
        while not self.ended.wait(INTERVAL_S):
            for name, value in sample().items():
                self.bytes[name] = max(self.bytes[name], value)


def sample() -> dict[str, int]:
    """Bytes now: this process, the largest of Ray's worker processes, what the object store holds."""
    own = Path("/proc/self/status").read_text()
    largest = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        if text.startswith("Name:\tray::"):
            largest = max(largest, field(text, "RssAnon"))
    store = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address)).store_stats
    return {"driver": field(own, "RssAnon"), "largest worker": largest, "object store": store.object_store_bytes_used}


def field(status: str, name: str) -> int:
    """Bytes of a field of /proc/PID/status; 0 where a process has none any more."""
    line = next((line for line in status.splitlines() if line.startswith(name + ":")), f"{name}: 0 kB")
    return int(line.split()[1]) * 1024


def measure(rows: int) -> dict[str, Any]:
    """One stream in this process."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = flow.write_manifest(Path(folder) / "manifest", [f"{number}.jpg" for number in range(rows)])
        config = load(
            None,
            {
                "input": {"manifest": manifest},
                "output": {"path": f"{folder}/out"},
                "model": {"image_size": SIDE},
                "compute": {"block_rows": 128},
            },
        )
        with cluster.joined(config):
            peaks = Peaks()
            peaks.start()
            found = flow.stream(config, flow.ZeroScorer, flow.make_blocks)
            peaks.ended.set()
            peaks.join()
    return {"rows": rows, "blocks": found.blocks + 1, "rows_per_s": found.rows_per_s, **peaks.bytes}


def main(argv: list[str]) -> int:
    """Run the benchmark: itself, once a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        print(json.dumps(measure(options.one)))
        return 0
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    found = []
    for rows in options.rows:
        command = [sys.executable, __file__, "--one", str(rows)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=600)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    table = [
        [f"{one['rows']:,}", str(one["blocks"]), *(f"{one[name] / MIB:,.0f} MiB" for name in PARTS), growth(found, index)]
        for index, one in enumerate(found)
    ]
    publish("memory", ["rows", "blocks", *PARTS, "driver, worker against the size before"], table, {"sizes": found})
    return 0


def growth(found: list[dict[str, Any]], index: int) -> str:
    """More of driver and worker than at the size before."""
    if not index:
        return ""
    now, before = found[index], found[index - 1]
    return ", ".join(f"{now[name] / before[name] - 1:+.0%}" for name in PARTS[:2])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
