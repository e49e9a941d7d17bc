"""The graph, as one readable expression, and what is asked of Ray for it: resources of each stage, its errors.

    chunks -> fetch and decode (CPU tasks) -> score (replicas) -> stage (tasks) -> receipts

The stages ask for different resources on purpose: Ray fuses neighbours that ask for the same, and one fused actor would read,
decode and score in turn. Knows nothing of what a stage computes.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from pipeline import output as out
from pipeline import sizing
from pipeline.clocks import StarvedClock, timed_blocks, timed_write
from pipeline.config import Config
from pipeline.errors import CapsieveError, ClusterError
from pipeline.manifest import Manifest
from pipeline.output import Output
from pipeline.records import Chunk
from pipeline.schema import COSTS, Receipt, ScorerProtocol
from pipeline.sizing import REPLICA_CPUS, STAGE_CPUS, Resources
from pipeline.stages import image_blocks, score_images

log = logging.getLogger(__name__)

MakeScorer = Callable[[], ScorerProtocol]
MakeBlocks = Callable[[Chunk, Manifest, Config, int], Iterator[pa.Table]]


class Replica:
    """The actor of the score stage: one scorer, made in the actor's own process."""

    def __init__(self, make_scorer: MakeScorer, output: Output, lists: bool) -> None:
        self.scorer = make_scorer()
        self.lists = lists
        embedding = output.scores.field("image_embedding") if "image_embedding" in output.scores.names else None
        self.embedding_dim = None if embedding is None else embedding.type.list_size
        self.clock = StarvedClock(restarted=bool(ray.get_runtime_context().was_current_actor_reconstructed))

    def __call__(self, images: pa.Table) -> pa.Table:
        return self.clock.run(self.score, images)

    def score(self, images: pa.Table) -> pa.Table:
        try:
            return score_images(images, self.scorer, lists=self.lists, embedding_dim=self.embedding_dim)
        except Exception as error:
            if is_device_failure(error):
                log.error("the device failed, this replica ends and another takes over: %s", error)
                os._exit(1)
            raise


def is_device_failure(error: BaseException) -> bool:
    """Whether a GPU is unusable for the rest of the process after this: every later call would fail as well."""
    names = {kind.__name__ for kind in type(error).__mro__}
    words = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error", "HIP error", "NCCL error")
    out_of_memory = "OutOfMemoryError" in names  # a batch that is too large leaves the device usable
    return not out_of_memory and ("AcceleratorError" in names or any(word in str(error) for word in words))


@contextmanager
def _bounds_accepted() -> Iterator[None]:
    """The pinned Ray warns that `max_retries` and the like will go from map_batches, and names nothing in their place."""
    with warnings.catch_warnings(action="ignore", category=RayDeprecationWarning):
        yield


@dataclass(frozen=True)
class Stream:
    """A stream that `receipts` runs. `replicas`: what the names of its actors begin with."""

    dataset: Dataset
    replicas: str


@_bounds_accepted()
def build(
    config: Config,
    manifest: Manifest,
    chunks: Sequence[Chunk],
    make_scorer: MakeScorer,
    output: Output,
    *,
    resources: Resources,
    image_size: int,
    make_blocks: MakeBlocks = image_blocks,
) -> Stream:
    """The whole stream, lazily: `receipts` runs it. Its dataset has `schema.RECEIPT` rows.

    `make_scorer` and `make_blocks` are its seams: what a replica scores with, and where a chunk's images come from.
    """
    set_limits(resources)
    config = sizing.settled(config, resources)
    score_options: dict[str, Any] = {"num_cpus": REPLICA_CPUS[resources.device]}
    if resources.device == "cuda":
        score_options["num_gpus"] = 1
    # cores beside GPUs are taken last by Ray's default; SPREAD, which is Ray Data's, takes all nodes in turn
    strategy = "DEFAULT" if resources.device == "cuda" else "SPREAD"

    def fetch(batch: pa.Table) -> Iterator[pa.Table]:
        _give_way()
        for item in batch.to_pylist():
            chunk = Chunk(item["shard"], tuple(zip(item["starts"], item["stops"], strict=True)))
            yield from timed_blocks(make_blocks(chunk, manifest, config, image_size))

    def stage(scored: pa.Table) -> pa.Table:
        return timed_write(partial(out.stage, output, manifest.shards), scored)

    items = [{"shard": c.shard, "starts": [a for a, _ in c.ranges], "stops": [b for _, b in c.ranges]} for c in chunks]
    deaths = config.compute.worker_deaths  # Ray's default is for ever
    replicas = f"capsieve-replica-{uuid4()}"
    dataset = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(
            fetch,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=config.compute.fetch_cpus,
            max_retries=deaths,
            scheduling_strategy=strategy,
        )
        .map_batches(
            Replica,
            fn_constructor_args=(make_scorer, output, manifest.captions_are_lists),
            # a block as it is; with GPUs Ray refuses that and wants a number, and cuts what is longer by its failed rows
            batch_size=resources.block_rows if resources.device == "cuda" else None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=resources.replicas, max_tasks_in_flight_per_actor=resources.queue_blocks),
            max_task_retries=deaths,
            ray_remote_args_fn=lambda: {"name": f"{replicas}-{uuid4()}"},  # called for each of them
            **score_options,
        )
        .map_batches(
            stage,
            batch_size=None,
            batch_format="pyarrow",
            compute=TaskPoolStrategy(size=resources.stage_tasks),
            num_cpus=STAGE_CPUS,
            max_retries=deaths,
            scheduling_strategy=strategy,
        )
    )
    return Stream(dataset, replicas)


def _give_way() -> None:
    """Let replicas on the same cores go first: a fetch task works ahead of them, and its blocks wait for them anyway.

    Linux' class for that, whose tasks never interrupt others. A nice value would not do: Ray's workers have 15 of 19 already.
    Holds for this thread and what it starts from now on, decoders above all.
    """
    with suppress(OSError, AttributeError):  # other systems have no such class
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def set_limits(resources: Resources) -> None:
    """Tell Ray how large a block is, and how many bytes of them may lie between the stages.

    A block must be just what the fetch stage yields: Ray closes one once it exceeds the target, and cuts it where it exceeds
    the target by half, so the target lies below a block's bytes, and two thirds of them above half. The limit in bytes takes
    the place of Ray's ratio of queued to running bytes, whose default starves pipelines of images (docs/decisions.md).
    """
    context = DataContext.get_current()
    context.target_max_block_size = int(0.8 * resources.block_bytes)
    context.downstream_capacity_backpressure_ratio = None
    limits = context.execution_options.resource_limits
    context.execution_options.resource_limits = limits.copy(object_store_memory=resources.stream_bytes)


def receipts(stream: Stream) -> Generator[Receipt, None, None]:
    """Run the stream; yields as parts are staged. Raises the library's own errors as what they were in the workers."""
    blocks = iter(stream.dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    try:
        for block in blocks:
            assert isinstance(block, pa.Table)
            for row in block.to_pylist():
                rows = np.frombuffer(row["rows"], "<i8")
                counts = Counter({(count["status"], count["reason"]): count["rows"] for count in row["counts"]})
                yield Receipt(row["shard"], rows, counts, {name: row[name] for name in COSTS.names})
    except ray.exceptions.RayError as error:
        raise own_error(error) from None
    finally:
        del blocks
        _end_replicas(stream)


def _end_replicas(stream: Stream) -> None:
    """Give the replicas' CPUs and GPUs back now: Ray does once nothing names the stream, and errors' tracebacks do for long."""
    if not ray.is_initialized():
        return
    for name in ray.util.list_named_actors():
        if name.startswith(stream.replicas):
            with suppress(ValueError, ray.exceptions.RayError):  # it has ended by itself
                ray.kill(ray.get_actor(name))


def own_error(error: ray.exceptions.RayError) -> Exception:
    """What a worker raised, out of the wrappings that Ray puts around it; Ray's error itself where it was none of ours."""
    if isinstance(error, ray.exceptions.ActorDiedError) and error.actor_init_failed:
        cause = str(error).strip().splitlines()[-1]  # of a traceback; our own errors are sentences without their class
        return ClusterError(f"no replica can start: {re.sub(r'^pipeline[.]errors[.][A-Za-z]+: ', '', cause)}")
    if isinstance(
        error, ray.exceptions.WorkerCrashedError | ray.exceptions.ActorDiedError | ray.exceptions.ActorUnavailableError
    ):
        return ClusterError(
            f"workers kept dying at the same rows ({_first_line(error)}): they may lack memory - lower "
            "--compute.batch_size or --compute.block_rows - or a driver; what is staged is kept; --compute.worker_deaths says "
            "how often they may"
        )
    # a RayTaskError is an instance of its cause's class as well, but prints a traceback of the worker
    own: BaseException | None = error
    while own is not None and (isinstance(own, ray.exceptions.RayError) or not isinstance(own, CapsieveError)):
        own = getattr(own, "cause", None) or own.__cause__
    if not isinstance(own, CapsieveError):
        return error
    own.args = (_first_line(own),)  # Ray appends advice on settings of its own to what tasks of its graph raise
    return own


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
