"""Every metric: its fixed name, kind, labels and meaning, and its value at a moment.

Ray puts `ray_` before each name; docs/watching.md, the dashboard and the alert rules use what stands here, which a test holds
them to. Base units, as Prometheus has them. Pure; knows nothing of Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from pipeline.bottleneck import Cause, cause_of
from pipeline.progress import Plan
from pipeline.schema import Status
from pipeline.watching.journal import scrubbed
from pipeline.watching.rules import Kind as WarningKind
from pipeline.watching.samples import Recent, Sample


class Kind(StrEnum):
    """Of a metric, in Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"


class Measure(NamedTuple):
    """A metric. All have the label `run` besides their own."""

    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()


STAGES = {
    "fetch": "fetch_s",
    "decode": "decode_s",
    "score": "score_s",
    "write": "write_s",
    "make": "make_s",
    "held": "held_s",
    "starved": "starved_s",
}
"""Values of label `stage`, and the cost that each is."""

_C, _G = Kind.COUNTER, Kind.GAUGE
MEASURES: Mapping[str, Measure] = {
    "capsieve_run_info": Measure(_G, "1; its labels say which run this is", ("output", "model", "device")),
    "capsieve_run_active": Measure(_G, "1 while the run goes on, 0 once it has ended"),
    "capsieve_run_start_timestamp_seconds": Measure(_G, "Unix time of the run's start"),
    "capsieve_manifest_rows": Measure(_G, "rows of the manifest"),
    "capsieve_rows_done": Measure(_G, "rows that are staged or committed, by earlier runs as well, each once"),
    "capsieve_rows_per_second": Measure(_G, "rows staged a second, over the last minute"),
    "capsieve_time_left_seconds": Measure(_G, "estimate: rows left, at that rate; not there while the rate is 0"),
    "capsieve_rows_total": Measure(_C, "rows staged by this run; what died and was scored again counts again", ("status",)),
    "capsieve_failed_rows_total": Measure(_C, "of them, those without scores, by `error_message`", ("reason",)),
    "capsieve_repeated_rows_total": Measure(_C, "of them, those that were staged before: work lost with its process"),
    "capsieve_blocks_total": Measure(_C, "blocks that came out of the stream; one part of a shard each"),
    "capsieve_read_bytes_total": Measure(_C, "bytes of images"),
    "capsieve_download_retries_total": Measure(_C, "further attempts of downloads"),
    "capsieve_stage_seconds_total": Measure(
        _C, "seconds of each stage, summed over rows (fetch: many downloads at a time) or over tasks and replicas", ("stage",)
    ),
    "capsieve_replicas": Measure(_G, "replicas that the run planned"),
    "capsieve_fetch_tasks": Measure(_G, "fetch tasks that there is room for"),
    "capsieve_replica_busy_ratio": Measure(_G, "share of the replicas' time in the model, over the last five minutes"),
    "capsieve_replica_starved_ratio": Measure(_G, "share of the replicas' time without a block, over the last five minutes"),
    "capsieve_fetch_held_ratio": Measure(_G, "share of the fetch tasks' time waiting for room, over the last five minutes"),
    "capsieve_held_back_by": Measure(
        _G, "1 for what held the replicas back over the last five minutes, 0 for the others", ("cause",)
    ),
    "capsieve_replica_restarts_total": Measure(_C, "replicas that died, were started again and have scored since"),
    "capsieve_chunks": Measure(_G, "chunks of this pass that wait for a fetch task, or are at work", ("state",)),
    "capsieve_shards": Measure(_G, "shards of the manifest"),
    "capsieve_shards_done": Measure(_G, "shards with a final file, of earlier runs as well"),
    "capsieve_commits_total": Measure(_C, "shards committed by this run"),
    "capsieve_commits_running": Measure(_G, "commits under way"),
    "capsieve_passes_total": Measure(_C, "passes begun"),
    "capsieve_last_progress_timestamp_seconds": Measure(_G, "Unix time of the last receipt or commit"),
    "capsieve_nodes": Measure(_G, "machines of the cluster"),
    "capsieve_nodes_lost_total": Measure(_C, "machines that were there during the run and are not any more"),
    "capsieve_warnings_total": Measure(_C, "warnings given", ("kind",)),
}


class Reading(NamedTuple):
    """A metric's value; of a counter, its sum since the run's start."""

    name: str
    value: float
    labels: tuple[str, ...] = ()  # values, in the order of the measure's


class Window(NamedTuple):
    """What happened lately."""

    minute: Recent | None = None
    five_minutes: Recent | None = None


def readings(
    plan: Plan, sample: Sample, window: Window, warned: Mapping[WarningKind, int], *, active: bool
) -> Iterator[Reading]:
    """All metrics at one moment. What tells of now is 0 once the run has ended."""
    resources = plan.resources
    yield Reading("capsieve_run_info", 1, (scrubbed(plan.output), scrubbed(plan.model), resources.device))
    yield Reading("capsieve_run_active", float(active))
    yield from _of_rows(sample)
    yield from _of_work(sample)
    yield Reading("capsieve_replicas", resources.replicas if active else 0)
    yield Reading("capsieve_fetch_tasks", resources.fetch_tasks if active else 0)
    yield from _of_late(sample, window if active else Window())
    for state, chunks in (("waiting", sample.chunks.waiting), ("begun", sample.chunks.begun)):
        yield Reading("capsieve_chunks", chunks if active else 0, (state,))
    yield Reading("capsieve_commits_running", sample.commits_running if active else 0)
    for kind in WarningKind:
        yield Reading("capsieve_warnings_total", warned.get(kind, 0), (kind.value,))


def _of_rows(sample: Sample) -> Iterator[Reading]:
    yield Reading("capsieve_manifest_rows", sample.rows_total)
    yield Reading("capsieve_rows_done", sample.rows_done)
    for status in Status:
        rows = sum(n for (own, _), n in sample.counts.items() if own == status)
        yield Reading("capsieve_rows_total", rows, (status.value,))
    for (name, reason), rows in sample.counts.items():
        if name != Status.SUCCESS:
            yield Reading("capsieve_failed_rows_total", rows, (reason or name,))
    yield Reading("capsieve_repeated_rows_total", sample.rows_repeated)
    yield Reading("capsieve_blocks_total", sample.blocks)


def _of_work(sample: Sample) -> Iterator[Reading]:
    costs = sample.costs
    yield Reading("capsieve_read_bytes_total", costs.get("bytes_read", 0))
    yield Reading("capsieve_download_retries_total", costs.get("retries", 0))
    for stage, cost in STAGES.items():
        yield Reading("capsieve_stage_seconds_total", costs.get(cost, 0.0), (stage,))
    yield Reading("capsieve_replica_restarts_total", costs.get("replica_restarts", 0))
    yield Reading("capsieve_shards", sample.shards_total)
    yield Reading("capsieve_shards_done", sample.shards_committed)
    yield Reading("capsieve_commits_total", sample.commits)
    yield Reading("capsieve_passes_total", sample.passes)
    yield Reading("capsieve_run_start_timestamp_seconds", sample.began_time_s)
    yield Reading("capsieve_last_progress_timestamp_seconds", sample.time_s - (sample.at_s - sample.progress_s))
    yield Reading("capsieve_nodes", sample.nodes.alive)
    yield Reading("capsieve_nodes_lost_total", len(sample.nodes.lost))


def _of_late(sample: Sample, window: Window) -> Iterator[Reading]:
    rate = window.minute.rows_per_s if window.minute is not None else 0.0
    yield Reading("capsieve_rows_per_second", rate)
    if rate > 0:
        yield Reading("capsieve_time_left_seconds", sample.rows_left / rate)
    elif sample.rows_left == 0:
        yield Reading("capsieve_time_left_seconds", 0)
    found = window.five_minutes.shares if window.five_minutes is not None else None
    yield Reading("capsieve_replica_busy_ratio", found.busy if found else 0.0)
    yield Reading("capsieve_replica_starved_ratio", found.starved if found else 0.0)
    yield Reading("capsieve_fetch_held_ratio", found.held if found else 0.0)
    cause = cause_of(found) if found else None
    for one in Cause:
        yield Reading("capsieve_held_back_by", float(one is cause), (one.value,))
