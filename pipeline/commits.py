"""Commits of shards, in Ray tasks of their own beside the stream.

Knows nothing of what a commit does (`output`), or of when a shard is ready for one (`run`).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import output as out
from pipeline.dataflow import own_error
from pipeline.manifest import Manifest, Shard
from pipeline.output import Committed, MissingRowsError, Output

log = logging.getLogger(__name__)

COMMIT_DEATHS = 3  # how often a commit is given to another process after the one that had it died


@ray.remote(num_cpus=0, max_retries=COMMIT_DEATHS)
def _commit(output: Output, shard: Shard, url_column: str | None) -> Committed:
    return out.commit(output, shard, url_column)


def _beside_no_driver() -> NodeAffinitySchedulingStrategy | str:
    """A node that has CPUs: a task that asks for none goes to the driver's own otherwise, a head too small for four commits.

    One without a GPU where there is one, as for the other tasks.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]  # type: ignore[no-untyped-call]
    nodes = [node for node in nodes if not node["Resources"].get("GPU")] or nodes
    return NodeAffinitySchedulingStrategy(random.choice(nodes)["NodeID"], soft=True) if nodes else "DEFAULT"


class Committer:
    """Commits shards in tasks of their own while the stream goes on, a few at a time.

    What has ended comes by index, with None where rows turned out to be missing, and nothing was committed.
    """

    def __init__(self, output: Output, manifest: Manifest, most: int = 4) -> None:
        self._output = output
        self._manifest = manifest
        self._most = most
        self._running: dict[Any, int] = {}

    def __len__(self) -> int:
        """How many run now."""
        return len(self._running)

    def submit(self, *indices: int) -> Iterator[tuple[int, Committed | None]]:
        """Start to commit shards; waits where too many run. Yields those that have ended meanwhile, by index."""
        for index in indices:
            while len(self._running) >= self._most:
                yield from self.ended(timeout_s=1.0)
            shard, url_column = self._manifest.shards[index], self._manifest.columns.url
            task = _commit.options(scheduling_strategy=_beside_no_driver())
            self._running[task.remote(self._output, shard, url_column)] = index
        yield from self.ended(timeout_s=0)

    def ended(self, timeout_s: float) -> Iterator[tuple[int, Committed | None]]:
        """All commits that have ended; waits up to the time given for a first one."""
        if not self._running:
            return
        ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        done, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        for reference in done:
            index = self._running.pop(reference)
            try:
                committed: Committed | None = ray.get(reference)
            except ray.exceptions.RayError as error:
                failure = own_error(error)
                if not isinstance(failure, MissingRowsError):
                    raise failure from None
                log.warning("%s: %s", self._manifest.shards[index].name, failure)
                committed = None
            yield index, committed

    def drain(self) -> Iterator[tuple[int, Committed | None]]:
        """Wait for all that run."""
        while self._running:
            yield from self.ended(timeout_s=1.0)
