"""What the log and `run.json` say of a run: what it planned, how far it is, how it ended. Pure; no captions, no rows."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.bottleneck import cause_of
from pipeline.cluster import Machine
from pipeline.progress import Plan, Tracker
from pipeline.sizing import Resources
from pipeline.watching.measures import STAGES
from pipeline.watching.rules import Kind
from pipeline.watching.samples import Sample


def of_plan(plan: Plan, machines: Sequence[Machine]) -> dict[str, Any]:
    """Event `planned`."""
    kinds = Counter((machine.cpus, machine.gpus, machine.memory_bytes) for machine in machines)
    return {
        "output": plan.output,
        "model": plan.model,
        "rows": plan.manifest.rows,
        "shards": len(plan.manifest.shards),
        "rows_before": plan.rows_done,
        "shards_before": plan.shards_done,
        "driver": socket.gethostname(),
        "pid": os.getpid(),
        "nodes": [
            {"count": count, "cpus": cpus, "gpus": gpus, "memory_bytes": memory}
            for (cpus, gpus, memory), count in kinds.items()
        ],
        "resources": plan.resources._asdict(),
    }


def of_progress(tracker: Tracker, resources: Resources, sample: Sample, warned: Mapping[Kind, int]) -> dict[str, Any]:
    """Events `progress` and `ended`: this run's own work."""
    found = tracker.shares(resources)
    by_status: Counter[str] = Counter()
    for (status, _), rows in sample.counts.items():
        by_status[status] += rows
    elapsed_s = sample.time_s - sample.began_time_s
    return {
        "rows_scored": tracker.rows,
        "rows_repeated": sample.rows_repeated,
        "rows_done": sample.rows_done,
        "staged": dict(by_status),
        "shards_committed": sample.commits,
        "passes": sample.passes,
        "elapsed_s": round(elapsed_s, 3),
        "rows_per_s": round(tracker.progress(resources, elapsed_s).rows_per_s, 3),
        "busy_share": round(found.busy, 3),
        "held_back_by": cause_of(found),
        "shares": {name: round(share, 3) for name, share in found._asdict().items()},
        "stage_s": {stage: round(sample.costs.get(cost, 0.0), 3) for stage, cost in STAGES.items()},
        "bytes_read": int(sample.costs.get("bytes_read", 0)),
        "download_retries": int(sample.costs.get("retries", 0)),
        "replica_restarts": int(sample.costs.get("replica_restarts", 0)),
        "nodes_alive": sample.nodes.alive,
        "nodes_lost": len(sample.nodes.lost),
        "warnings": {kind.value: count for kind, count in warned.items()},
    }


def of_end(error: BaseException | None) -> dict[str, Any]:
    """How the run ended."""
    if error is None:
        return {"outcome": "done"}
    outcome = "failed" if isinstance(error, Exception) else "interrupted"
    return {"outcome": outcome, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
