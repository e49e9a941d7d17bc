"""The driver's loop: resume -> dataflow -> receipts -> commits -> summary.

A pass streams the rows that no part holds; a shard whose parts cover it is committed while the stream goes on; passes are
repeated until every shard is committed, because a task that Ray runs again may fetch in another order and leave rows out.
Knows nothing of how Ray is asked (`dataflow`), or of how anything is printed (`jobs`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from pipeline import cluster, dataflow, output, resume
from pipeline.commits import Committer
from pipeline.config import Config
from pipeline.dataflow import MakeScorer
from pipeline.errors import CapsieveError, ClusterError, ConfigError
from pipeline.lease import Lease
from pipeline.manifest import Manifest, find_manifest
from pipeline.model.facts import ModelInfo, describe
from pipeline.model.pin import Pieces, Pin, here
from pipeline.output import Committed, Output
from pipeline.progress import Plan, Progress, Summary, Tracker, plan_chunks
from pipeline.schema import ScorerProtocol, score_schema
from pipeline.sizing import Resources, Work
from pipeline.tallies import placeholders, worst_hosts
from pipeline.watching.observer import Observer

log = logging.getLogger(__name__)

# A pass leaves rows out where a task died and was run again, and ends early where a node took replicas with it that Ray could
# not bring back in time. So many in a row that staged nothing new are no accident.
MAX_FRUITLESS_PASSES = 2
# Chunks of one pass, 40 million rows: Ray keeps some 3 KB a block in the driver until a stream ends, and takes all of its
# chunks at once. Replicas start anew with each pass, which is half an hour of eight GPUs.
PASS_CHUNKS = 20_000
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


class Checked(NamedTuple):
    """A run that has passed every check that needs neither Ray nor torch, and has written nothing."""

    config: Config
    manifest: Manifest
    model: ModelInfo
    output: Output


class Job(NamedTuple):
    """A run that has its output folder."""

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
    checked = check(config, listener)
    with Lease(checked.output.url, config.storage, config.output.lease_s) as lease:
        job = begin(checked, lease)
        listener.starting("Ray")
        with cluster.joined(config) as elsewhere:
            resources = cluster.plan_resources(config, work_of(job))
            if make_scorer is None:
                shared = cluster.share(job.model.pin) if elsewhere else {}
                make_scorer = functools.partial(load_scorer, config, resources, job.model.pin, shared)
            plan = _plan(job, resources)
            listener.planned(plan)
            with Observer(job.output, job.tracker, plan, listener.progressed, began) as observer:
                _stream(job, resources, make_scorer, lease, observer)
                summary = _summary(job, resources, time.monotonic() - began)
                lease.check()
                observer.finish()
                made_of = {"made_of": dict(job.output.identity), **job.output.provenance}
                output.finish(job.output, {**summary.of_output(), **made_of})
    return summary


def check(config: Config, listener: Listener) -> Checked:
    """Check the settings, the manifest and the model. Raises UserError; writes nothing."""
    if not config.input.manifest:
        raise ConfigError("no manifest: name a Parquet file, folder or glob with --input.manifest")
    if not config.output.path:
        raise ConfigError("no output: name a folder with --output.path")
    if config.output.overwrite and config.output.retry:
        raise ConfigError("--output.overwrite deletes what --output.retry would score again: leave one of them out")
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
        provenance={"settings": config.model_dump(mode="json"), "versions": versions()},
    )
    resume.check_columns(manifest, out)
    return Checked(config, manifest, model, out)


def begin(checked: Checked, lease: Lease | None = None) -> Job:
    """Take the output folder, and find what is done already. Raises OutputError where it belongs to something else."""
    config, manifest, model, out = checked
    out = dataclasses.replace(out, run=lease.run if lease is not None else "")
    resume.claim(out, overwrite=config.output.overwrite)
    out, staged = resume.scan(out, manifest.shards, config.output.retry)
    return Job(config, manifest, model, out, Tracker(manifest, staged))


def work_of(job: Job) -> Work:
    """What is left to do, as far as it decides how the work is spread."""
    return Work(job.manifest.rows - job.tracker.rows_done, job.model.image_size, job.model.gflop)


def load_scorer(config: Config, resources: Resources, pin: Pin, shared: Mapping[str, Pieces]) -> ScorerProtocol:
    """The scorer of a replica; called in the replica's own process."""
    from pipeline.scorer import load_scorer as load  # brings torch, which a driver must not pay for

    model = config.model
    return load(
        here(pin, config.storage, shared),
        image_size=model.image_size,
        device=resources.device if model.device == "auto" else model.device,
        precision=model.precision,
        itm_first_token=model.itm_first_token,
        batch_size=resources.batch_size,
        compile=model.compile,
        tf32=model.tf32,
        threads=resources.threads if resources.device == "cpu" else None,
    )


def _identity(config: Config, manifest: Manifest, model: ModelInfo) -> dict[str, Any]:
    """What an output is made of: a run that would mix other things into it is refused."""
    return {
        "model": model.name,
        "model_sha256": model.sha256,
        "image_size": model.image_size,
        "precision": config.model.precision,
        "tf32": config.model.tf32,
        "itm_first_token": config.model.itm_first_token,
        "columns": dataclasses.asdict(manifest.columns),
        "rows_per_output_file": config.output.rows_per_output_file,
        "column_prefix": config.output.column_prefix,
        "image_embedding": config.output.image_embedding,
        "images": config.images.model_dump(exclude={"isolate", "timeout_s", "max_memory_bytes"}),  # how, not what
    }


def versions() -> dict[str, str]:
    """Versions of the packages that decide what the numbers are."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "a source tree"  # capsieve itself, on a cluster that it came to as a job's working directory


def _stream(job: Job, resources: Resources, make_scorer: MakeScorer, lease: Lease, observer: Observer) -> None:
    """Passes over what is missing, until every shard is committed."""
    tracker = job.tracker
    committer = observer.commits = Committer(job.output, job.manifest)
    _note(job, observer, committer.submit(*_complete_shards(job)))
    fruitless = 0
    while fruitless < MAX_FRUITLESS_PASSES:
        _note(job, observer, committer.drain())
        chunks = plan_chunks(tracker, resources.chunk_rows, PASS_CHUNKS)
        if not chunks:
            break
        before, failure = tracker.rows, None
        observer.begin_pass(chunks)
        try:
            stream = dataflow.build(
                job.config, job.manifest, chunks, make_scorer, job.output, resources=resources, image_size=job.model.image_size
            )
            with contextlib.closing(dataflow.receipts(stream)) as receipts:
                for receipt in receipts:
                    lease.check()
                    complete = tracker.add(receipt)
                    _note(job, observer, committer.submit(receipt.shard) if complete else committer.ended(timeout_s=0))
                    observer.received()
        except ClusterError as error:
            failure = error
            if tracker.rows == before and fruitless + 1 >= MAX_FRUITLESS_PASSES:
                raise
            log.warning("%s; going on with what is missing", error)
        finally:
            observer.end_pass(failure)
        fruitless = 0 if tracker.rows > before else fruitless + 1
    if len(tracker.committed) < len(job.manifest.shards):
        raise CapsieveError(f"{MAX_FRUITLESS_PASSES} passes in a row staged nothing new: {job.output.url} is unfinished")


def _complete_shards(job: Job) -> list[int]:
    """Shards without rows, and those that an earlier run staged but did not commit."""
    rows = [shard.rows for shard in job.manifest.shards]
    return [i for i, missing in job.tracker.open_shards() if rows[i] == 0 or (missing is not None and not missing.any())]


def _note(job: Job, observer: Observer, commits: Iterable[tuple[int, Committed | None]]) -> None:
    for index, committed in commits:
        observer.committed(index, committed)
        if committed is not None:
            job.tracker.commit(index, committed)
        else:  # parts that were staged are gone; the next pass scores their rows again
            job.tracker.reopen(index, resume.staged_rows(job.output, job.manifest.shards[index]))


def _plan(job: Job, resources: Resources) -> Plan:
    return Plan(
        manifest=job.manifest,
        rows_done=job.tracker.rows_before,
        shards_done=len(job.tracker.staged.done),
        model=job.model.name,
        image_size=job.model.image_size,
        advice="" if job.config.model.checkpoint else DEMO_ADVICE,
        output=job.output.url,
        resources=resources,
    )


def _summary(job: Job, resources: Resources, elapsed_s: float) -> Summary:
    tracker = job.tracker
    progress = tracker.progress(resources, elapsed_s)
    return Summary(
        rows=job.manifest.rows,
        rows_scored=tracker.rows,
        counts=tracker.counts,
        shards=len(job.manifest.shards),
        elapsed_s=elapsed_s,
        rows_per_s=progress.rows_per_s,
        shares=tracker.shares(resources),
        stage_s={name: tracker.costs[f"{name}_s"] for name in ("fetch", "decode", "score", "write")},
        bytes_read=int(tracker.costs["bytes_read"]),
        output=job.output.url,
        placeholders=placeholders(tracker.tallies, job.config.output.placeholder_urls),
        worst_hosts=worst_hosts(tracker.tallies),
    )
