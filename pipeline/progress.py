"""What a driver knows of a run: its plan, how far it is, which rows are staged, what came of it.

Sees receipts and counts, never rows. Knows nothing of Ray, of stores, or of how anything is printed.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.bottleneck import Shares, cause_of, shares
from pipeline.manifest import Manifest
from pipeline.output import Committed, Counts, Staged
from pipeline.records import Chunk
from pipeline.schema import Receipt, Status
from pipeline.sizing import Resources
from pipeline.tallies import Placeholder, Tallies, WorstHost


class Plan(NamedTuple):
    """What a run is about to do."""

    manifest: Manifest
    rows_done: int  # committed or staged by an earlier run
    shards_done: int
    model: str
    image_size: int
    advice: str  # what a newcomer should know of the model; empty for a model of the user's own
    output: str
    resources: Resources


class Progress(NamedTuple):
    """How far a run is."""

    rows: int  # staged in this run
    rows_left: int
    success_share: float  # of the rows staged in this run
    rows_per_s: float
    busy_share: float  # of the replicas' time between their first work and their last
    shards_committed: int
    elapsed_s: float

    @property
    def left_s(self) -> float | None:
        """Estimate of the time left; None before there is a rate."""
        return self.rows_left / self.rows_per_s if self.rows_per_s > 0 else None


class Summary(NamedTuple):
    """What a run made."""

    rows: int  # in the whole output
    rows_scored: int  # by this run
    counts: Counts
    shards: int
    elapsed_s: float
    rows_per_s: float
    shares: Shares
    stage_s: dict[str, float]  # summed over rows: of downloads (many at a time), of decoding, scoring and writing
    bytes_read: int
    output: str
    placeholders: Sequence[Placeholder] = ()  # the same bytes under many URLs
    worst_hosts: Sequence[WorstHost] = ()

    @property
    def failed_share(self) -> float:
        """Share of the output's rows whose status is not success."""
        failed = sum(rows for (status, _), rows in self.counts.items() if status != Status.SUCCESS)
        return failed / self.rows if self.rows else 0.0

    def of_output(self) -> dict[str, Any]:
        """For `_SUCCESS`: what the output is, whichever runs made it."""
        by_status: Counter[str] = Counter()
        reasons: dict[str, dict[str, int]] = {}
        for (status, reason), rows in sorted(self.counts.items(), key=str):
            by_status[status] += rows
            if reason is not None:
                reasons.setdefault(status, {})[reason] = rows
        return {
            "output": self.output,
            "rows": self.rows,
            "shards": self.shards,
            "failed_share": round(self.failed_share, 4),
            "status": dict(by_status),
            "reasons": reasons,
            "placeholders": [placeholder._asdict() for placeholder in self.placeholders],
            "worst_hosts": [host._asdict() for host in self.worst_hosts],
        }

    def as_json(self) -> dict[str, Any]:
        """For machines: what the output is, and what this run did for it."""
        numbers = {"elapsed_s": self.elapsed_s, "rows_per_s": self.rows_per_s, "busy_share": self.shares.busy}
        return {
            **self.of_output(),
            "rows_scored": self.rows_scored,
            **{name: round(number, 3) for name, number in numbers.items()},
            "held_back_by": cause_of(self.shares),
            "shares": {name: round(share, 3) for name, share in self.shares._asdict().items()},
            "stage_s": {name: round(seconds, 3) for name, seconds in self.stage_s.items()},
            "bytes_read": self.bytes_read,
        }


@dataclass
class Tracker:
    """Which rows are staged, by shard, and what they cost. Holds a bitmap only of shards in progress."""

    manifest: Manifest
    staged: Staged
    counts: Counts = field(default_factory=Counter)
    tallies: Tallies = field(default_factory=Tallies)
    rows: int = 0
    rows_before: int = 0  # committed or staged by an earlier run
    succeeded: int = 0
    blocks: int = 0
    receipt_rows: int = 0  # those staged again included
    receipt_counts: Counts = field(default_factory=Counter)  # of the same rows
    costs: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    committed: set[str] = field(default_factory=set)
    first_work_s: float | None = None  # time.monotonic() when a replica first had a block
    last_work_s: float = 0.0
    missing: dict[int, npt.NDArray[np.bool_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for committed in self.staged.done.values():
            self._count(committed)
        self.committed |= self.staged.done.keys()
        self.rows_before = self.counts.total() + sum(map(len, self.staged.rows.values()))
        for index, shard in enumerate(self.manifest.shards):
            if shard.name in self.staged.rows:
                self._bitmap(index)[self.staged.rows[shard.name]] = False

    def _bitmap(self, index: int) -> npt.NDArray[np.bool_]:
        return self.missing.setdefault(index, np.ones(self.manifest.shards[index].rows, dtype=bool))

    def add(self, receipt: Receipt) -> bool:
        """Note a staged part; True where it completes its shard. Rows that a repeated task staged again count once."""
        self.last_work_s = time.monotonic()
        if self.first_work_s is None:
            self.first_work_s = self.last_work_s - receipt.costs["score_s"]
        for name, cost in receipt.costs.items():
            # fetch tasks that worked and waited while the replicas still started say nothing of what holds these back
            self.costs[name] += min(cost, self.working_s) if name in ("make_s", "held_s") else cost
        self.blocks += 1
        self.receipt_rows += len(receipt.rows)
        self.receipt_counts += receipt.counts
        if self.manifest.shards[receipt.shard].name in self.committed:
            return False
        missing = self._bitmap(receipt.shard)
        new = int(missing[receipt.rows].sum())
        missing[receipt.rows] = False
        self.rows += new
        self.succeeded += min(receipt.succeeded, new)
        return new > 0 and not missing.any()

    def commit(self, index: int, committed: Committed) -> None:
        """Note a committed shard, and forget its bitmap."""
        self._count(committed)
        self.committed.add(self.manifest.shards[index].name)
        self.missing.pop(index, None)

    def reopen(self, index: int, staged: npt.NDArray[np.int64]) -> None:
        """Note that parts hold only these rows of a shard, whatever was said before."""
        self.missing.pop(index, None)
        self._bitmap(index)[staged] = False

    def _count(self, committed: Committed) -> None:
        self.counts += committed.counts
        self.tallies |= committed.tallies

    @property
    def rows_done(self) -> int:
        """Rows that are staged or committed, by an earlier run or by this one."""
        return self.rows_before + self.rows

    @property
    def working_s(self) -> float:
        """Seconds between the replicas' first work and their last."""
        return self.last_work_s - self.first_work_s if self.first_work_s is not None else 0.0

    def shares(self, resources: Resources) -> Shares:
        """Where the stages' time went."""
        return shares(self.costs, wall_s=self.working_s, replicas=resources.replicas, fetch_tasks=resources.fetch_tasks)

    def progress(self, resources: Resources, elapsed_s: float) -> Progress:
        """How far the run is now."""
        return Progress(
            rows=self.rows,
            rows_left=self.manifest.rows - self.rows_done,
            success_share=self.succeeded / self.rows if self.rows else 0.0,
            rows_per_s=self.rows / self.working_s if self.working_s > 0 else 0.0,
            busy_share=self.shares(resources).busy,
            shards_committed=len(self.committed),
            elapsed_s=elapsed_s,
        )

    def open_shards(self) -> Iterator[tuple[int, npt.NDArray[np.bool_] | None]]:
        """Shards that are not committed, with the bitmap of their missing rows (None: all of them)."""
        for index, shard in enumerate(self.manifest.shards):
            if shard.name not in self.committed:
                yield index, self.missing.get(index)


def plan_chunks(tracker: Tracker, chunk_rows: int, most: int | None = None) -> list[Chunk]:
    """The missing rows, cut into chunks of one shard each; the first `most` of them."""
    chunks: list[Chunk] = []
    for index, missing in tracker.open_shards():
        rows = tracker.manifest.shards[index].rows
        numbers = np.arange(rows) if missing is None else missing.nonzero()[0]
        starts = range(0, len(numbers), chunk_rows)
        chunks += [Chunk(index, _ranges(numbers[start : start + chunk_rows])) for start in starts]
        if most is not None and len(chunks) >= most:  # of a billion rows all would take a minute
            return chunks[:most]
    return chunks


def _ranges(numbers: npt.NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Ascending row numbers as half-open ranges."""
    breaks = (np.diff(numbers) != 1).nonzero()[0] + 1
    return tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(numbers, breaks))
