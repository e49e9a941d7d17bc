"""From what a row costs to rates, what binds, hours and dollars. Pure arithmetic: every figure can be checked by hand.

A stream is as fast as the slowest of five things would be alone; on machines without GPUs scoring shares the cores with all
else, so that these are what binds unless a replica has too few threads. Knows nothing of how costs were measured, or of files.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

from pipeline.output import Counts
from pipeline.schema import Status
from pipeline.sizing import Resources

# Measured with benchmarks/stream.py and memory.py, see docs/performance.md:
DRIVER_BLOCK_S = 0.020  # of one core of the driver: a block scheduled, its receipt taken
HAND_OVER_S = 0.4e-3 / (3 * 384 * 384)  # of one core for a byte of pixels: into a block, and into the object store
GPU_HOST_CPUS = 1.0  # of a replica on a GPU: Python and transfers. Assumed


class Costs(NamedTuple):
    """What a row of the manifest costs, failed ones included: means over the sample."""

    rows: int  # fetched and decoded
    rows_scored: int  # given to the scorer, in the time that there was
    counts: Counts  # rows by (status, reason)
    bytes_read: float
    stored_share: float  # of the rows: images in an object store, each read by a request
    fetch_core_s: float  # of one core: reading the manifest, requests, hashing, filling blocks
    decode_core_s: float  # of one core
    score_s: float  # of a replica, by the clock
    score_core_s: float  # of one core: all of the replica's threads together
    write_core_s: float  # of one core
    wait_s: float  # from a request to its last byte, slow ones left out
    slow_share: float  # of the rows: those whose download takes longer than SLOW_S
    slow_s: float  # mean of these
    load_s: float  # of a process's start as a replica: torch and the model. Not a row's

    @property
    def success_share(self) -> float:
        """Share of rows that get scores."""
        return sum(rows for (status, _), rows in self.counts.items() if status == Status.SUCCESS) / max(1, self.rows)


class Binds(StrEnum):
    """What a stream's rate hangs on."""

    NETWORK = "network"
    DOWNLOADS = "downloads"
    CPU = "cpu"
    SCORE = "score"
    DRIVER = "driver"


class Rates(NamedTuple):
    """Rows a second that each would allow if the others were without limit."""

    network: float
    downloads: float  # fetch tasks at a time, and how long hosts let them wait
    cpu: float
    score: float  # replicas
    driver: float

    @property
    def rows_per_s(self) -> float:
        """Of the whole stream."""
        return min(self)

    @property
    def binds(self) -> Binds:
        """The smallest; of equal ones the first."""
        return Binds(self._fields[self.index(min(self))])


class Starts(NamedTuple):
    """Seconds that a run takes whatever its rows are."""

    program_s: float  # Python and imports, manifest and checkpoint looked at
    ray_s: float  # started or joined
    stream_s: float  # workers and replicas, until the first row is scored
    load_s: float  # part of stream_s: the model; fetch tasks are at work meanwhile
    end_s: float  # last commits, Ray stopped, Python ended
    measured: bool

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.program_s + self.ray_s + self.stream_s + self.end_s


class Machine(NamedTuple):
    """What a run has, as `sizing.plan` spreads it."""

    resources: Resources
    score_s: float  # of one replica, a row
    network_bytes_s: float = math.inf


class Estimate(NamedTuple):
    """What a run takes on a machine."""

    rates: Rates
    wall_s: float
    gpu_hours: float  # paid for, busy or not; 0 without GPUs
    cores_a_replica: float  # that keep one replica busy, its own threads not counted
    cpu_s: dict[str, float]  # core-seconds a row, by what they go into


def cpu_costs(costs: Costs, resources: Resources, image_bytes: int) -> dict[str, float]:
    """Core-seconds a row, by what they go into. Scoring is among them where it is done on CPUs."""
    found = {
        "fetch": costs.fetch_core_s,
        "decode": costs.decode_core_s,
        "hand over": HAND_OVER_S * image_bytes * costs.success_share,
        "write": costs.write_core_s,
        "driver": DRIVER_BLOCK_S / resources.block_rows,
    }
    return found | ({"score": costs.score_core_s} if resources.device == "cpu" else {})


def rates(costs: Costs, machine: Machine, *, image_bytes: int, in_flight: int) -> Rates:
    """What each resource would allow. `in_flight`: downloads at a time in one fetch task."""
    resources = machine.resources
    hosts = GPU_HOST_CPUS * resources.replicas if resources.device == "cuda" else 0.0
    cores = max(resources.cpus - hosts, 0.1)
    return Rates(
        network=_over(machine.network_bytes_s, costs.bytes_read),
        downloads=_over(resources.fetch_tasks * resources.chunk_rows, chunk_s(costs, resources.chunk_rows, in_flight)),
        cpu=_over(cores, sum(cpu_costs(costs, resources, image_bytes).values())),
        score=_over(resources.replicas, machine.score_s),
        driver=resources.block_rows / DRIVER_BLOCK_S,
    )


def chunk_s(costs: Costs, rows: int, in_flight: int) -> float:
    """Seconds of one fetch task for so many rows: its own work or its waiting, whichever is longer, and the slow tail."""
    work_s = rows * max(costs.fetch_core_s, costs.decode_core_s)
    wait_s = rows * costs.wait_s / max(1, min(in_flight, rows))
    return max(work_s, wait_s) + _chance(costs.slow_share, rows) * costs.slow_s


def estimate(costs: Costs, machine: Machine, starts: Starts, *, rows: int, image_bytes: int, in_flight: int) -> Estimate:
    """Time and what it is made of, for so many rows."""
    resources = machine.resources
    found = rates(costs, machine, image_bytes=image_bytes, in_flight=in_flight)
    per_row = cpu_costs(costs, resources, image_bytes)
    # Fetch tasks begin while replicas load the model: what they wait for then is waited for anyway.
    waves = math.ceil(rows / (resources.chunk_rows * resources.fetch_tasks))
    waited_s = max(waves * chunk_s(costs, min(rows, resources.chunk_rows), in_flight), _over(rows, found.network))
    last_block_s = min(rows, resources.block_rows) * machine.score_s
    fetched_s = starts.stream_s - starts.load_s + waited_s + last_block_s
    worked_s = starts.stream_s + rows / min(found.cpu, found.score, found.driver)
    stream_s = max(worked_s, fetched_s) if rows else 0.0
    wall_s = starts.program_s + starts.ray_s + stream_s + starts.end_s
    gpus = resources.replicas if resources.device == "cuda" else 0
    others_s = sum(seconds for name, seconds in per_row.items() if name != "score")
    return Estimate(found, wall_s, gpus * wall_s / 3600, _over(others_s, machine.score_s), per_row)


def _over(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.inf


def _chance(share: float, rows: int) -> float:
    """That one of so many rows is of a kind with this share."""
    return 1.0 - (1.0 - min(share, 1.0)) ** rows
