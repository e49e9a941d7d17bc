"""How the work is spread: replicas, batches, blocks, chunks and what may be in flight, from the cluster and the model's size.

Pure arithmetic, so that every choice can be tested without a cluster; a setting that is given always wins. The aim: a replica
always has its next block beside it, and what lies between the stages has a limit in bytes. Knows nothing of Ray.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pipeline.config import MIB, ComputeConfig, Config
from pipeline.errors import ConfigError

# Fractions differ so that no two stages fuse; a replica mostly runs torch threads of its own, staging mostly waits for a store.
REPLICA_CPUS = {"cuda": 1.0, "cpu": 0.75}  # beside a GPU, of the thread that feeds it
STAGE_CPUS = 0.25
_STAGE_TASKS = 4  # of a GPU's replica, which makes six blocks a second, each of which waits for the store
CPU_CORES_A_REPLICA = 8

# What a replica is taken to compute, in GFLOP/s. Only orders of magnitude matter: blocks and batches are sized by it.
_GPU_GFLOPS = 200_000.0
_CPU_THREAD_GFLOPS = 50.0
_FEED_CORE_S = 0.003  # to fetch, decode and stage one row
BASE_GFLOP = 127.0  # of one image of the base model at 384 px with one caption

_BATCH_S = 0.06  # of one model call: overheads vanish in it
_BATCHES = {"cuda": (32, 256), "cpu": (16, 64)}  # (least, most) images of one call
_BLOCK_S = 3.0  # of scoring one block: handling it costs the driver and the workers the same, whatever is in it
_BLOCK_ROWS = 512
_BLOCK_BYTES = 256 * MIB
_QUEUE_S = 1.0  # of work that lies beside a replica
_QUEUE_BLOCKS = (2, 8)  # (least, most): one is scored, the next one is there
_STAGE_SHARE = 0.1  # of the CPUs beside GPUs, for staging, at most
_TASK_BLOCKS = 3  # of one fetch task: two handed over and not yet taken (Ray's own limit), one being made
_STORE_SHARE = 0.6  # of the object store; the rest is for commits, and for whoever shares the cluster
_STREAM_MARGIN = 1.5  # Ray divides its limit over the stages; the fetch stage gets two thirds of it
_CHUNKS_A_FETCH_TASK = 4  # of a small manifest: no core is left without work until near the end


class Cluster(NamedTuple):
    """What there is."""

    cpus: int
    gpus: int
    nodes: int
    object_store_bytes: int


class Work(NamedTuple):
    """What there is to do."""

    rows: int
    image_size: int
    gflop: float = BASE_GFLOP  # of one image with one caption


class Resources(NamedTuple):
    """How the work is spread on this cluster."""

    replicas: int
    batch_size: int  # images of one model call
    device: str  # cuda | cpu
    threads: int  # of one replica on the CPU
    cpus: int
    nodes: int
    fetch_tasks: int  # at a time
    stage_tasks: int | None  # at a time, at most, beside GPUs: Ray keeps CPUs back from fetching for what has no limit
    chunk_rows: int  # rows of one fetch task
    block_rows: int  # images that it hands on at a time
    queue_blocks: int  # blocks beside a replica, the one being scored included
    block_bytes: int  # pixels of one block
    stream_bytes: int  # of all blocks between the stages, at most


def plan(config: Config, cluster: Cluster, work: Work) -> Resources:
    """Fill in what the settings leave open. Raises ConfigError where the cluster cannot hold what they ask for."""
    compute = config.compute
    use_gpus = cluster.gpus > 0 and config.model.device in ("auto", "cuda")
    if config.model.device.startswith("cuda") and not cluster.gpus:
        raise ConfigError("model.device is cuda, but the cluster has no GPUs: leave --model.device at auto")
    if use_gpus and config.model.precision == "int8":
        raise ConfigError("model.precision int8 is for CPUs: leave --model.precision at auto, or say --model.device cpu")
    replicas = _replicas(compute, cluster, use_gpus)
    device = "cuda" if use_gpus else "cpu"
    stage_tasks = min(_STAGE_TASKS * replicas, max(1, int(_STAGE_SHARE * cluster.cpus / STAGE_CPUS))) if use_gpus else None
    fetch_tasks = _fetch_tasks(compute, cluster, replicas, STAGE_CPUS * (stage_tasks or 1) + REPLICA_CPUS[device] * replicas)
    threads = _threads(cluster.cpus / replicas, work.gflop)
    rate = (_GPU_GFLOPS if use_gpus else _CPU_THREAD_GFLOPS * threads) / max(work.gflop, 0.01)  # images/s of one replica
    batch_size = compute.batch_size or _power_of_two(rate * _BATCH_S, *_BATCHES[device])
    image_bytes = 3 * work.image_size**2
    most_rows = _affordable_rows(cluster, replicas, fetch_tasks, image_bytes)
    block_rows = compute.block_rows or _block_rows(rate, batch_size, work.rows // (4 * replicas), most_rows)
    queue_blocks = min(max(math.ceil(_QUEUE_S * rate / block_rows) + 1, _QUEUE_BLOCKS[0]), _QUEUE_BLOCKS[1])
    block_bytes = block_rows * image_bytes
    wanted = block_bytes * _blocks(replicas, fetch_tasks, queue_blocks) * _STREAM_MARGIN
    spread = max(work.rows // (_CHUNKS_A_FETCH_TASK * fetch_tasks * block_rows), 1) * block_rows
    return Resources(
        replicas=replicas,
        batch_size=batch_size,
        device=device,
        threads=threads,
        cpus=cluster.cpus,
        nodes=cluster.nodes,
        fetch_tasks=fetch_tasks,
        stage_tasks=stage_tasks,
        chunk_rows=min(compute.chunk_rows, spread),
        block_rows=block_rows,
        queue_blocks=queue_blocks,
        block_bytes=block_bytes,
        stream_bytes=int(min(wanted, cluster.object_store_bytes * _STORE_SHARE)),
    )


def _replicas(compute: ComputeConfig, cluster: Cluster, use_gpus: bool) -> int:
    feedable = int((1 - _STAGE_SHARE) * cluster.cpus - STAGE_CPUS - compute.fetch_cpus)  # with a core each, and one fetch task
    automatic = min(cluster.gpus, feedable) if use_gpus else cluster.cpus // CPU_CORES_A_REPLICA
    replicas = compute.replicas or max(1, automatic)
    room = cluster.gpus if use_gpus else int(cluster.cpus / REPLICA_CPUS["cpu"])
    if replicas > room:
        kind = f"{cluster.gpus} GPUs" if use_gpus else f"{cluster.cpus} CPUs"
        raise ConfigError(f"compute.replicas is {replicas}, but a cluster of {kind} has room for {room}")
    return replicas


def _threads(cores: float, gflop: float) -> int:
    """Of a replica on the CPU: the share of its cores that scoring needs. A thread that has to wait for its core keeps all
    others waiting, so a model as small as the demo's leaves some to what feeds it."""
    score_s = gflop / _CPU_THREAD_GFLOPS
    return max(1, round(cores * score_s / (score_s + _FEED_CORE_S)))


def _fetch_tasks(compute: ComputeConfig, cluster: Cluster, replicas: int, taken: float) -> int:
    """How many run at a time on the CPUs that replicas and staging tasks leave."""
    left = cluster.cpus - taken
    if left < compute.fetch_cpus:
        raise ConfigError(
            f"{cluster.cpus} CPUs are too few for {replicas} replicas and one fetch task: lower --compute.replicas"
        )
    return int(left / compute.fetch_cpus)


def _power_of_two(wanted: float, least: int, most: int) -> int:
    return int(min(max(2.0 ** round(math.log2(max(wanted, 1.0))), least), most))


def _affordable_rows(cluster: Cluster, replicas: int, fetch_tasks: int, image_bytes: int) -> int:
    """Images of a block such that all blocks that may be on their way fit into their share of the object store."""
    blocks = _blocks(replicas, fetch_tasks, _QUEUE_BLOCKS[0])
    return int(min(_BLOCK_BYTES, cluster.object_store_bytes * _STORE_SHARE / blocks) / image_bytes)


def _blocks(replicas: int, fetch_tasks: int, queue_blocks: int) -> int:
    return _TASK_BLOCKS * fetch_tasks + (queue_blocks + 1) * replicas


def _block_rows(rate: float, batch_size: int, spread: int, affordable: int) -> int:
    """Whole batches worth `_BLOCK_S` of a replica; fewer images for a small manifest or a small object store."""
    rows = min(max(rate * _BLOCK_S, batch_size), _BLOCK_ROWS, max(spread, batch_size), max(affordable, 1))
    return int(rows) // batch_size * batch_size or int(rows)


def settled(config: Config, resources: Resources) -> Config:
    """The settings with what was chosen filled in, as the stages read them."""
    chosen = {"block_rows": resources.block_rows, "chunk_rows": resources.chunk_rows, "batch_size": resources.batch_size}
    return config.model_copy(update={"compute": config.compute.model_copy(update=chosen)})
