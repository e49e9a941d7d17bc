"""A few rows of a sample through the real graph: how long workers, replicas and commits take here, whatever the rows are.

Its parts go to a folder of this machine, and nowhere else. Knows nothing of Ray, which `dataflow` asks, or of what is made of
the seconds.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from typing import NamedTuple

from pipeline import dataflow
from pipeline.commits import Committer
from pipeline.config import Config
from pipeline.dataflow import MakeScorer
from pipeline.manifest import Manifest
from pipeline.output import Output, Staged
from pipeline.planning.sample import head
from pipeline.progress import Tracker, plan_chunks
from pipeline.sizing import Resources

ROWS = 4  # in as many places: one a block, so that the first is scored as soon as there is a replica
_PROGRAM = "import pipeline.run, pipeline.commandline, rich.console"


class Pilot(NamedTuple):
    """Seconds of the parts of a run that take no longer with more rows."""

    first_s: float  # from the stream's start to its first staged part
    end_s: float  # from its last staged part to the last commit


def fly(
    config: Config, sample: Manifest, output: Output, resources: Resources, image_size: int, make_scorer: MakeScorer
) -> Pilot:
    """Score the first rows of some places, on the cluster that was joined, and commit them. `output`: a folder of ours.

    Raises what a run raises.
    """
    few = head(sample, ROWS, ROWS)
    tracker = Tracker(few, Staged({}, {}))
    committer = Committer(output, few)
    small = resources._replace(block_rows=1, chunk_rows=1, block_bytes=resources.block_bytes // resources.block_rows)
    began, arrivals = time.monotonic(), [0.0]
    stream = dataflow.build(config, few, plan_chunks(tracker, 1), make_scorer, output, resources=small, image_size=image_size)
    with contextlib.closing(dataflow.receipts(stream)) as receipts:
        for receipt in receipts:
            arrivals.append(time.monotonic() - began)
            if tracker.add(receipt) and resources.nodes == 1:  # else no other node can read the parts
                for _ in committer.submit(receipt.shard):
                    pass
    for _ in committer.drain():
        pass
    ended = time.monotonic() - began
    return Pilot(arrivals[min(1, len(arrivals) - 1)], ended - arrivals[-1])


def program_s() -> float:
    """Seconds of a Python that imports what a run's driver does, and ends."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", _PROGRAM], env=environment, check=True, stdin=subprocess.DEVNULL)
    return time.monotonic() - began
