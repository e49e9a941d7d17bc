"""The driver's loop: resume -> dataflow -> receipts -> commits -> summary.

A pass streams the rows that no part holds; a shard whose parts cover it is committed while the stream goes on; passes are
repeated until every shard is committed, because a task that Ray runs again may fetch in another order and leave rows out.
Knows nothing of how Ray is asked (`dataflow`), or of how anything is printed (`jobs`).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import logging
import time
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from pipeline import dataflow, output
from pipeline.config import Config
from pipeline.dataflow import Committer, MakeScorer
from pipeline.errors import CapsieveError, ConfigError
from pipeline.manifest import Manifest, find_manifest
from pipeline.model.facts import ModelInfo, describe, storage_options
from pipeline.output import Committed, Output
from pipeline.progress import Plan, Progress, Resources, Summary, Tracker, plan_chunks
from pipeline.schema import ScorerProtocol, score_schema
from pipeline.tallies import placeholders, worst_hosts

log = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 0.5
# A pass leaves rows out only where a task died and was run again; so many in a row without an end are no accident.
MAX_PASSES = 10
DEMO_ADVICE = "a demo model, trained on rendered scenes: give a real one with --model.checkpoint Salesforce/blip-itm-base-coco"
PACKAGES = ("capsieve", "torch", "ray", "pyarrow", "pillow", "simplejpeg", "tokenizers")


class Listener(Protocol):
    """Whoever shows a run to a person or a machine."""

    def starting(self, what: str) -> None:
        """Something that takes seconds begins."""

    def planned(self, plan: Plan) -> None:
        """The run is checked and about to stream."""

    def progressed(self, progress: Progress) -> None:
        """Called about twice a second while parts are staged."""


class Job(NamedTuple):
    """A run that has passed every check that needs neither Ray nor torch."""

    config: Config
    manifest: Manifest
    model: ModelInfo
    output: Output
    tracker: Tracker


def score(config: Config, listener: Listener, make_scorer: MakeScorer | None = None) -> Summary:
    """Score a manifest; the whole of what `jobs/score.py` does.

    `make_scorer` runs in each replica's process (default: the model of `config.model`). Raises UserError before any model is
    loaded for whatever can be known before.
    """
    began = time.monotonic()
    job = prepare(config, listener)
    listener.starting("Ray")
    with dataflow.cluster(config):
        resources = dataflow.plan_resources(config)
        if make_scorer is None:
            make_scorer = functools.partial(load_scorer, config, resources)
        listener.planned(_plan(job, resources))
        _stream(job, resources, make_scorer, listener, began)
    summary = _summary(job, resources, time.monotonic() - began)
    output.finish(job.output, {**summary.as_json(), "made_of": dict(job.output.identity), "settings": config.model_dump()})
    return summary


def prepare(config: Config, listener: Listener) -> Job:
    """Check the settings, the manifest and the output folder, and find what is done already. Raises UserError."""
    if not config.input.manifest:
        raise ConfigError("no manifest: name a Parquet file, folder or glob with --input.manifest")
    if not config.output.path:
        raise ConfigError("no output: name a folder with --output.path")
    listener.starting("manifest")
    manifest = find_manifest(config.input, config.storage, config.output.rows_per_output_file)
    model = describe(config.model, config.storage)
    embedding_dim = model.embed_dim if config.output.image_embedding else None
    out = Output(
        url=config.output.path,
        storage=config.storage,
        scores=score_schema(lists=manifest.captions_are_lists, embedding_dim=embedding_dim),
        prefix=config.output.column_prefix,
        identity=_identity(config, manifest, model),
    )
    output.check_columns(manifest, out)
    output.claim(out, overwrite=config.output.overwrite)
    return Job(config, manifest, model, out, Tracker(manifest, output.scan(out, manifest.shards)))


def load_scorer(config: Config, resources: Resources) -> ScorerProtocol:
    """The scorer of a replica; called in the replica's own process."""
    from pipeline.scorer import load_scorer as load  # brings torch, which a driver must not pay for

    model = config.model
    return load(
        model.checkpoint,
        image_size=model.image_size,
        device=resources.device if model.device == "auto" else model.device,
        precision=model.precision,
        itm_first_token=model.itm_first_token,
        storage_options=storage_options(model.checkpoint, config.storage),
        threads=resources.threads if resources.device == "cpu" else None,
    )


def _identity(config: Config, manifest: Manifest, model: ModelInfo) -> dict[str, Any]:
    """What an output is made of: a run that would mix other things into it is refused."""
    return {
        "model": model.name,
        "model_sha256": model.sha256,
        "image_size": model.image_size,
        "precision": config.model.precision,
        "itm_first_token": config.model.itm_first_token,
        "columns": dataclasses.asdict(manifest.columns),
        "rows_per_output_file": config.output.rows_per_output_file,
        "column_prefix": config.output.column_prefix,
        "image_embedding": config.output.image_embedding,
        "images": config.images.model_dump(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that decide what the numbers are."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _stream(job: Job, resources: Resources, make_scorer: MakeScorer, listener: Listener, began: float) -> None:
    tracker = job.tracker
    committer = Committer(job.output, job.manifest)
    reported = 0.0
    _note(tracker, committer.submit(*_complete_shards(job)))
    for _ in range(MAX_PASSES):
        _note(tracker, committer.drain())
        chunks = plan_chunks(tracker, job.config.compute.chunk_rows)
        if not chunks:
            break
        dataset = dataflow.build(
            job.config, job.manifest, chunks, make_scorer, job.output, resources=resources, image_size=job.model.image_size
        )
        for receipt in dataflow.receipts(dataset):
            complete = tracker.add(receipt)
            _note(tracker, committer.submit(receipt.shard) if complete else committer.ended(timeout_s=0))
            if time.monotonic() - reported >= PROGRESS_INTERVAL_S:
                reported = time.monotonic()
                listener.progressed(tracker.progress(resources.replicas, reported - began))
    if len(tracker.committed) < len(job.manifest.shards):
        raise CapsieveError(f"rows were left out of {MAX_PASSES} passes in a row: {job.output.url} is unfinished")


def _complete_shards(job: Job) -> list[int]:
    """Shards without rows, and those that an earlier run staged but did not commit."""
    rows = [shard.rows for shard in job.manifest.shards]
    return [i for i, missing in job.tracker.open_shards() if rows[i] == 0 or (missing is not None and not missing.any())]


def _note(tracker: Tracker, commits: Iterable[tuple[int, Committed]]) -> None:
    for index, committed in commits:
        tracker.commit(index, committed)


def _plan(job: Job, resources: Resources) -> Plan:
    staged = sum(len(rows) for rows in job.tracker.staged.rows.values())
    committed = sum(done.counts.total() for done in job.tracker.staged.done.values())
    return Plan(
        manifest=job.manifest,
        rows_done=committed + staged,
        shards_done=len(job.tracker.staged.done),
        model=job.model.name,
        image_size=job.model.image_size,
        advice="" if job.config.model.checkpoint else DEMO_ADVICE,
        output=job.output.url,
        resources=resources,
    )


def _summary(job: Job, resources: Resources, elapsed_s: float) -> Summary:
    tracker = job.tracker
    progress = tracker.progress(resources.replicas, elapsed_s)
    return Summary(
        rows=job.manifest.rows,
        rows_scored=tracker.rows,
        counts=tracker.counts,
        shards=len(job.manifest.shards),
        elapsed_s=elapsed_s,
        rows_per_s=progress.rows_per_s,
        busy_share=progress.busy_share,
        stage_s={name: tracker.costs[f"{name}_s"] for name in ("fetch", "decode", "score")},
        bytes_read=int(tracker.costs["bytes_read"]),
        output=job.output.url,
        placeholders=placeholders(tracker.tallies, job.config.output.placeholder_urls),
        worst_hosts=worst_hosts(tracker.tallies),
    )
