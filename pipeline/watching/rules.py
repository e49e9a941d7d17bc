"""What is worth a warning while a run goes on: from samples to sentences, each said once as long as it lasts.

Pure: time comes with the samples. What each kind means and what to do is in docs/watching.md. Knows nothing of who reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from pipeline.bottleneck import MIN_WALL_S, sentence
from pipeline.schema import Status
from pipeline.sizing import Resources
from pipeline.watching.chunks import Late
from pipeline.watching.samples import Past, Sample, between, counts_between

MOST_NAMED = 3


class Kind(StrEnum):
    """What a warning is about: label `kind` of its metric."""

    NO_PROGRESS = "no_progress"
    STARVED = "starved"
    STRAGGLER = "straggler"
    FAILURES = "failures"
    DEATHS = "deaths"
    REPEATS = "repeats"
    NODES = "nodes_lost"


class Warned(NamedTuple):
    """A warning: one line."""

    kind: Kind
    text: str


class Limits(NamedTuple):
    """From where on something is worth a warning."""

    silence_s: float = 120.0  # without a receipt or a commit
    start_s: float = 600.0  # the same before the first receipt of a pass: machines start, models are fetched
    starved: float = 0.3  # of the replicas' time over `window_s`
    window_s: float = 300.0
    late: float = 5.0  # times the median of the chunks that ended
    late_s: float = 60.0  # and at least so long
    late_chunks: int = 8  # of which there are so many: a median of fewer says little
    jump: float = 0.2  # of the rows: the share of failed ones grew by so much, and doubled
    jump_rows: int = 2_000  # in each of the two shares that are compared
    jump_s: float = 60.0  # the newer of the two covers at least so long
    repeats: float = 0.05  # of the rows
    repeats_rows: int = 1_000
    calm_s: float = 300.0  # what was over for so long is said again when it comes back


class _Found(NamedTuple):
    kind: Kind
    level: int  # what has become much worse is said once more
    text: str


class Watch:
    """The rules, and what they have said."""

    def __init__(self, shards: Sequence[str], resources: Resources, limits: Limits | None = None) -> None:
        self._shards = shards
        self._resources = resources
        self._limits = limits or Limits()
        self._past = Past()
        self._seen: dict[tuple[Kind, int], float] = {}  # when it last held

    def look(self, now: Sample) -> list[Warned]:
        """What is new at this moment."""
        self._past.add(now)
        new = []
        for found in self._found(now):
            seen_s = self._seen.get((found.kind, found.level))
            self._seen[found.kind, found.level] = now.at_s
            if seen_s is None or now.at_s - seen_s > self._limits.calm_s:
                new.append(Warned(found.kind, found.text))
        return new

    def _found(self, now: Sample) -> Iterator[_Found]:
        yield from self._silence(now)
        yield from self._starved(now)
        yield from self._stragglers(now)
        yield from self._failures(now)
        yield from self._deaths(now)
        yield from self._repeats(now)
        yield from self._nodes(now)

    def _silence(self, now: Sample) -> Iterator[_Found]:
        limit_s = self._limits.silence_s if now.first_receipt else self._limits.start_s
        silent_s = now.at_s - now.progress_s
        if now.passes == 0 or silent_s < limit_s:
            return
        level = int(math.log(silent_s / limit_s, 4))  # said again when it lasts four times as long
        if now.rows_left == 0:
            left = now.shards_total - now.shards_committed
            text = f"all rows are staged, but no shard was committed for {silent_s:.0f} s: {left} are left; is the store slow?"
        else:
            what = "nothing was staged" if now.first_receipt else "no replica has scored anything"
            chunks = now.chunks
            text = (
                f"{what} for {silent_s:.0f} s: {chunks.begun} chunks are at work and {chunks.waiting} wait, "
                f"{now.rows_left:,} rows are left{self._in_shards(chunks.oldest)}; `ray status` says if machines are missing"
            )
        yield _Found(Kind.NO_PROGRESS, level, text)

    def _in_shards(self, late: Sequence[Late]) -> str:
        names = list(dict.fromkeys(self._shards[one.chunk.shard] for one in late))
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        return f", at work of {', '.join(names[:MOST_NAMED])}{more}" if names else ""

    def _starved(self, now: Sample) -> Iterator[_Found]:
        before = self._past.before(self._limits.window_s)
        if before is None or not now.first_receipt or before.passes != now.passes:
            return
        recent = between(before, now, self._resources)
        if recent.seconds >= max(self._limits.window_s, MIN_WALL_S) and recent.shares.starved >= self._limits.starved:
            text = f"replicas starved {recent.shares.starved:.0%} of the last {recent.seconds:.0f} s: {sentence(recent.shares)}"
            yield _Found(Kind.STARVED, 0, text)

    def _stragglers(self, now: Sample) -> Iterator[_Found]:
        limits, chunks = self._limits, now.chunks
        if chunks.ended < limits.late_chunks:
            return
        late = [one for one in chunks.oldest if one.age_s >= max(limits.late_s, limits.late * chunks.median_s)]
        if late:
            worst = late[0]
            (first, _), (_, stop) = worst.chunk.ranges[0], worst.chunk.ranges[-1]
            others = f"; so {_others(len(late) - 1)}" if len(late) > 1 else ""
            yield _Found(
                Kind.STRAGGLER,
                0,
                f"rows {first} to {stop - 1} of {self._shards[worst.chunk.shard]} take {worst.age_s:.0f} s, where half of the "
                f"chunks took no more than {chunks.median_s:.0f} s: {worst.rows_left:,} of {worst.rows:,} are left{others}",
            )

    def _failures(self, now: Sample) -> Iterator[_Found]:
        limits = self._limits
        before = next(
            (
                sample
                for sample in reversed(self._past.samples)
                if now.at_s - sample.at_s >= limits.jump_s and now.rows - sample.rows >= limits.jump_rows
            ),
            None,
        )
        if before is None or before.rows < limits.jump_rows:
            return
        earlier = before.failed / before.rows
        counts = counts_between(before, now)
        failures = {reason or status: rows for (status, reason), rows in counts.items() if status != Status.SUCCESS}
        share = sum(failures.values()) / max(1, counts.total())
        if share >= earlier + limits.jump and share >= 2 * earlier:
            reason, rows = max(failures.items(), key=lambda item: item[1])
            latest = f"{share:.0%} of the last {counts.total():,} rows failed, {earlier:.0%} of those before"
            yield _Found(Kind.FAILURES, 0, f"{latest}: mostly {reason} ({rows:,})")

    def _deaths(self, now: Sample) -> Iterator[_Found]:
        deaths = int(now.costs.get("replica_restarts", 0.0))
        if deaths > 0:
            text = (
                f"{_times(deaths)} a replica died and was started again (memory, a driver, a lost machine); what it had is "
                "scored again; Ray's log of its node says why"
            )
            yield _Found(Kind.DEATHS, deaths.bit_length(), text)

    def _repeats(self, now: Sample) -> Iterator[_Found]:
        if now.rows_repeated >= max(self._limits.repeats_rows, self._limits.repeats * now.rows):
            text = f"{now.rows_repeated:,} of {now.rows:,} rows were scored more than once: work goes with processes that die"
            yield _Found(Kind.REPEATS, now.rows_repeated.bit_length() // 2, text)

    def _nodes(self, now: Sample) -> Iterator[_Found]:
        if now.nodes.lost:
            names = ", ".join(now.nodes.lost[:MOST_NAMED])
            more = f" and {len(now.nodes.lost) - MOST_NAMED} more" if len(now.nodes.lost) > MOST_NAMED else ""
            text = f"{len(now.nodes.lost)} nodes of the cluster are gone ({names}{more}), {now.nodes.alive} are there"
            yield _Found(Kind.NODES, len(now.nodes.lost).bit_length(), text)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _others(count: int) -> str:
    return "does 1 other chunk" if count == 1 else f"do {count} other chunks"
