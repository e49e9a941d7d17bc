"""What jobs/plan.py predicts against what jobs/score.py then takes, start and end included, on this machine.

    python benchmarks/plan.py demo [--rounds N]                the 500 pictures of jobs/demo.py, from a local S3
    python benchmarks/plan.py base [--rows N] [--rounds N]     base at 384 px with random weights, images in a local S3

Both programs as processes of their own, by the clock. A plan sees a sample only, and measures while nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import publish
from stream import BUCKET, bucket_of

from pipeline.local_s3 import LocalS3, die_with_us
from pipeline.model import BLIP_ITM, save_checkpoint

JOBS = Path(__file__).resolve().parents[1] / "jobs"
HEADER = [
    "run",
    "rows",
    "predicted",
    "measured",
    "predicted / measured",
    "spread",
    "of which start and end",
    "rows/s predicted, measured",
]


@contextmanager
def demo_run() -> Iterator[tuple[str, list[str]]]:
    """The demo's bucket; yields the output's folder and the flags of a run."""
    sys.path.insert(0, str(JOBS))
    import demo_bucket as demo

    with LocalS3(public_buckets=[demo.BUCKET]) as server, socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        os.environ.update(server.env())
        host, port = silent.getsockname()
        addresses = demo.Addresses(server.endpoint_url, f"{host}:{port}")
        manifest = demo.upload(demo.make_contents(addresses, 500), addresses)
        yield addresses.s3("out"), ["--config", str(JOBS.parent / "configs/demo.yaml"), "--input.manifest", manifest]


@contextmanager
def base_run(rows: int) -> Iterator[tuple[str, list[str]]]:
    """JPEGs of 640x480 and a base model; yields the output's folder and the flags of a run."""
    with tempfile.TemporaryDirectory() as folder, bucket_of(rows, Path(folder)) as manifest:
        checkpoint = f"{folder}/base.safetensors"
        save_checkpoint(BLIP_ITM(), Path(checkpoint))
        yield f"s3://{BUCKET}/out", ["--input.manifest", manifest, "--model.checkpoint", checkpoint]


def program(name: str, *flags: str) -> tuple[dict[str, Any], float]:
    """Run a program; returns what it says as JSON, and its seconds."""
    began = time.monotonic()
    command = die_with_us([sys.executable, str(JOBS / name), *flags, "--json"])
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout), time.monotonic() - began


def compare(output: str, flags: list[str], number: int) -> dict[str, Any]:
    """One plan, and one run."""
    plan, planning_s = program("plan.py", *flags)
    run, run_s = program("score.py", *flags, "--output.path", f"{output}{number}")
    return {"predicted_s": plan["here"]["wall_s"], "measured_s": run_s, "planning_s": planning_s, "plan": plan, "run": run}


def main(argv: list[str]) -> int:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["demo", "base"])
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(argv)
    with demo_run() if options.which == "demo" else base_run(options.rows) as (output, flags):
        found = [compare(output, flags, number) for number in range(options.rounds)]
    ratios = [one["predicted_s"] / one["measured_s"] for one in found]
    last = found[-1]
    starts = last["plan"]["here"]["starts"]
    fixed_s = sum(starts[name] for name in ("program_s", "ray_s", "stream_s", "end_s"))
    row = [
        "demo" if options.which == "demo" else "base at 384 px",
        f"{last['run']['rows']}",
        f"{statistics.median(one['predicted_s'] for one in found):.1f} s",
        f"{statistics.median(one['measured_s'] for one in found):.1f} s",
        f"{statistics.median(ratios):.2f}",
        f"{min(ratios):.2f} to {max(ratios):.2f}",
        f"{fixed_s:.1f} s",
        f"{last['plan']['here']['rows_per_s']:.2f}, {last['run']['rows_per_s']:.2f}",
    ]
    publish(f"plan-{options.which}", HEADER, [row], {"rounds": found})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
