"""Beside the driver's loop: looks at the run every few seconds, and tells the metrics, the log and, in words, the person.

The loop only reports what it does anyway; looking, judging, exporting and writing happen in a thread of its own, which nothing
waits for. Knows nothing of how metrics are exported, of what the rules say, or of how a log is written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence, Sized
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from pipeline import cluster
from pipeline.errors import CapsieveError
from pipeline.output import Committed, Output
from pipeline.progress import Plan, Progress, Tracker
from pipeline.records import Chunk
from pipeline.watching import facts
from pipeline.watching.chunks import Chunks, ChunkStates
from pipeline.watching.export import Exporter
from pipeline.watching.journal import Journal, record_of, write_history
from pipeline.watching.measures import Window, readings
from pipeline.watching.rules import Kind, Watch
from pipeline.watching.samples import Nodes, Past, Sample, between

log = logging.getLogger(__name__)

SHOW_S = 0.5  # between two calls of the listener
LOOK_S = 5.0
NODES_S = 30.0
PROGRESS_S = 300.0  # between two `progress` events of the log
CLOSE_S = 5.0  # at the end nobody waits longer for a store that does not answer


class Observer:
    """Watches one run, for a `with` block. Its methods are the driver's, and cost it next to nothing."""

    def __init__(self, output: Output, tracker: Tracker, plan: Plan, show: Callable[[Progress], None], began_s: float) -> None:
        self.run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{output.run[:8] or 'alone'}"
        self.commits: Sized = ()  # those under way
        self._output, self._tracker, self._plan, self._show = output, tracker, plan, show
        self._began_s, self._began_time_s = began_s, time.time() - (time.monotonic() - began_s)
        self._journal = Journal(output.url, output.storage, self.run)
        self._nothing_to_do = len(tracker.committed) == len(plan.manifest.shards)
        self._exporter = Exporter(self.run)
        self._watch = Watch([shard.name for shard in plan.manifest.shards], plan.resources)
        self._past = Past()
        self._warned: Counter[Kind] = Counter()
        self._chunks: Chunks | None = None
        self._passes, self._commits, self._pass_began_s, self._progress_s = 0, 0, began_s, began_s
        self._pass_blocks = 0  # of the passes before
        self._shown_s = self._logged_s = began_s
        self._machines: dict[str, cluster.Machine] = {}  # all that were there
        self._nodes, self._nodes_s = Nodes(), 0.0
        self._failing = False
        self._error: BaseException | None = None
        self._looking = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch_on, name="observer", daemon=True)

    def __enter__(self) -> Self:
        self._look_at_nodes()
        self._journal.note("planned", **facts.of_plan(self._plan, list(self._machines.values())))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._error = error
        self._stop.set()
        self._thread.join(CLOSE_S)

    # ------------------------------------------------------------------ what the driver reports

    def begin_pass(self, chunks: Sequence[Chunk]) -> None:
        """A stream over these chunks is about to start."""
        with self._looking:
            self._passes += 1
            self._pass_began_s = self._progress_s = time.monotonic()
            self._pass_blocks = self._tracker.blocks
            self._chunks = Chunks(chunks, self._plan.resources.fetch_tasks)
        rows = sum(stop - start for chunk in chunks for start, stop in chunk.ranges)
        self._journal.note("pass_began", number=self._passes, chunks=len(chunks), rows=rows)

    def end_pass(self, error: CapsieveError | None) -> None:
        """The stream has ended, perhaps by an error that the run survives."""
        what = {"error": str(error)} if error is not None else {}
        self._journal.note("pass_ended", number=self._passes, rows_done=self._tracker.rows_done, **what)

    def received(self) -> None:
        """A receipt was noted: tells the listener, twice a second."""
        now = self._progress_s = time.monotonic()
        if now - self._shown_s >= SHOW_S:
            self._shown_s = now
            self._show(self._tracker.progress(self._plan.resources, now - self._began_s))

    def committed(self, index: int, committed: Committed | None) -> None:
        """A shard has its final file; or None, rows of it turned out to be missing."""
        self._progress_s = time.monotonic()
        shard = self._plan.manifest.shards[index]
        if committed is None:
            self._journal.note("shard_reopened", shard=shard.name)
            return
        self._commits += 1
        by_status: Counter[str] = Counter()
        for (status, _), rows in committed.counts.items():
            by_status[status] += rows
        self._journal.note("shard_committed", shard=shard.name, rows=shard.rows, status=dict(by_status))

    def finish(self) -> None:
        """Write `run.json`, before `_SUCCESS` is. A run that found nothing to do leaves it as it is."""
        if self._nothing_to_do:
            return
        self._look()
        ended = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": "ended",
            **self._figures(),
            "outcome": "done",
        }
        try:
            write_history(self._output.url, self._output.storage, self._journal, record_of([*self._journal.events(), ended]))
        except CapsieveError as error:
            log.warning("cannot write run.json: %s", error)

    # ------------------------------------------------------------------ the thread

    def _watch_on(self) -> None:
        going_on = True
        while going_on:
            going_on = not self._stop.wait(LOOK_S if self._past.samples else 0)
            try:
                self._tick(active=going_on)
            except Exception as error:  # noqa: BLE001 a run that nobody watches is a run
                if not self._failing:
                    log.warning("the run cannot be watched: %s: %s", type(error).__name__, error)
                self._failing = True

    def _tick(self, *, active: bool) -> None:
        if active and time.monotonic() - self._nodes_s >= NODES_S:
            self._look_at_nodes()
        sample, window = self._look()
        self._exporter.show(readings(self._plan, sample, window, self._warned, active=active))
        if self._nothing_to_do:
            return
        if not active:
            self._journal.note("ended", **self._figures(), **facts.of_end(self._error))
        elif time.monotonic() - self._logged_s >= PROGRESS_S:
            self._logged_s = time.monotonic()
            self._journal.note("progress", **self._figures())
        self._journal.flush(at_once=not active, quiet=self._error is not None)

    def _look(self) -> tuple[Sample, Window]:
        """Judge the run as it is now; asks nobody, so that the driver may do it as well."""
        with self._looking:
            sample = self._sample()
            self._past.add(sample)
            for warned in self._watch.look(sample):
                self._warned[warned.kind] += 1
                self._journal.note("warning", kind=warned.kind, text=warned.text)
                log.warning("%s", warned.text)
            spans = [self._past.before(seconds) for seconds in (60.0, 300.0)]
        recent = [between(before, sample, self._plan.resources) if before is not None else None for before in spans]
        return sample, Window(*recent)

    def _sample(self) -> Sample:
        tracker, now_s = self._tracker, time.monotonic()
        return Sample(
            at_s=now_s,
            time_s=time.time(),
            rows_total=self._plan.manifest.rows,
            rows_done=tracker.rows_done,
            rows=tracker.receipt_rows,
            rows_repeated=tracker.receipt_rows - tracker.rows,
            blocks=tracker.blocks,
            counts=tracker.receipt_counts.copy(),
            costs=dict(tracker.costs),
            passes=self._passes,
            began_time_s=self._began_time_s,
            progress_s=self._progress_s,
            first_receipt=tracker.blocks > self._pass_blocks,
            shards_total=len(self._plan.manifest.shards),
            shards_committed=len(tracker.committed),
            commits=self._commits,
            commits_running=len(self.commits),
            chunks=self._chunks.look(tracker, now_s) if self._chunks is not None else ChunkStates(),
            nodes=self._nodes,
        )

    def _look_at_nodes(self) -> None:
        self._nodes_s = time.monotonic()
        with suppress(Exception):  # Ray's head does not answer: whoever needs it says so
            alive = {machine.node_id: machine for machine in cluster.machines()}
            self._machines |= alive
            lost = [machine.name for node_id, machine in self._machines.items() if node_id not in alive]
            self._nodes = Nodes(len(alive), tuple(lost))

    def _figures(self) -> dict[str, Any]:
        return facts.of_progress(self._tracker, self._plan.resources, self._past.samples[-1], self._warned)
