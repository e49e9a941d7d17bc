"""What the driver knows of a run at one moment, and what happened between two: plain numbers, whoever wants them."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.bottleneck import Shares, shares
from pipeline.provenance import Counts
from pipeline.schema import COSTS, Status
from pipeline.sizing import Resources
from pipeline.watching.chunks import ChunkStates

KEPT_S = 900.0


class Nodes(NamedTuple):
    """The cluster's machines."""

    alive: int = 0
    lost: tuple[str, ...] = ()  # names of those that were there and are not


class Sample(NamedTuple):
    """A run at one moment. Sums are since its start, repeated work included."""

    at_s: float  # time.monotonic()
    time_s: float  # Unix time
    rows_total: int  # of the manifest
    rows_done: int  # staged or committed, by earlier runs as well
    rows: int  # of receipts
    rows_repeated: int  # of them, those that had been staged before
    blocks: int
    counts: Counts  # of receipts
    costs: dict[str, float]  # by the names of schema.COSTS
    passes: int
    began_time_s: float  # Unix time of the run's start
    progress_s: float  # at_s of the last receipt or commit of the pass; that of its begin before there is one
    first_receipt: bool  # whether the pass has had one
    shards_total: int
    shards_committed: int
    commits: int  # by this run
    commits_running: int
    chunks: ChunkStates = ChunkStates()
    nodes: Nodes = Nodes()

    @property
    def rows_left(self) -> int:
        """Rows that nothing holds yet."""
        return self.rows_total - self.rows_done

    @property
    def failed(self) -> int:
        """Rows of receipts that have no scores."""
        return self.counts.total() - self.counts[Status.SUCCESS, None]


class Recent(NamedTuple):
    """What happened between two samples."""

    seconds: float
    rows: int
    shares: Shares

    @property
    def rows_per_s(self) -> float:
        """Rows of receipts a second."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0


def between(before: Sample, now: Sample, resources: Resources) -> Recent:
    """What happened from one sample to the next."""
    seconds = now.at_s - before.at_s
    costs = {name: now.costs.get(name, 0.0) - before.costs.get(name, 0.0) for name in COSTS.names}
    found = shares(costs, wall_s=seconds, replicas=resources.replicas, fetch_tasks=resources.fetch_tasks)
    return Recent(seconds, now.rows - before.rows, found)


def counts_between(before: Sample, now: Sample) -> Counts:
    """Rows of receipts from one sample to the next, by status and reason."""
    return Counter({key: rows - before.counts[key] for key, rows in now.counts.items() if rows > before.counts[key]})


@dataclass
class Past:
    """The samples of the last quarter of an hour, oldest first."""

    samples: deque[Sample] = field(default_factory=deque)

    def add(self, sample: Sample) -> None:
        """Note a sample, and forget what is too old; one as old as the span stays."""
        self.samples.append(sample)
        while len(self.samples) > 2 and self.samples[1].at_s <= sample.at_s - KEPT_S:
            self.samples.popleft()

    def before(self, seconds: float) -> Sample | None:
        """The newest sample that is so many seconds older than the last, else the oldest; None if there is only one."""
        if len(self.samples) < 2:
            return None
        limit_s = self.samples[-1].at_s - seconds
        for sample in reversed(self.samples):
            if sample.at_s <= limit_s:
                return sample
        return self.samples[0]
