"""How the work is spread: what is chosen for a cluster and a model, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ComputeConfig, Config
from pipeline.errors import ConfigError
from pipeline.sizing import BASE_GFLOP, Cluster, Work, plan, settled

GIB = 1024**3
GPU_NODE = Cluster(cpus=208, gpus=8, nodes=1, object_store_bytes=500 * GIB)
LAPTOP = Cluster(cpus=2, gpus=0, nodes=1, object_store_bytes=4 * GIB)
BASE = Work(rows=10**9, image_size=384, gflop=BASE_GFLOP)
DEMO = Work(rows=10**6, image_size=112, gflop=0.3)


def test_a_gpu_node_has_a_replica_a_gpu_and_its_cores_fetch() -> None:
    found = plan(Config(), GPU_NODE, BASE)
    assert (found.device, found.replicas, found.batch_size, found.block_rows) == ("cuda", 8, 128, 512)
    assert found.stage_tasks == 32
    assert found.fetch_tasks == 384, "two a core, less what replicas and staging take"
    assert found.queue_blocks * found.block_rows >= 1_500, "a second of work beside each replica"
    assert found.chunk_rows == Config().compute.chunk_rows


def test_gpus_without_cores_to_feed_them_get_no_replica() -> None:
    assert plan(Config(), Cluster(2, 4, 1, 8 * GIB), BASE).replicas == 1
    assert plan(Config(), Cluster(8, 4, 1, 8 * GIB), BASE).replicas == 4
    with pytest.raises(ConfigError, match="8 CPUs are too few for 8 replicas"):
        plan(Config(compute=ComputeConfig(replicas=8)), Cluster(8, 8, 1, 8 * GIB), BASE)


def test_a_laptop_has_one_replica_of_all_its_threads_and_small_blocks() -> None:
    found = plan(Config(), LAPTOP, BASE)
    assert (found.device, found.replicas, found.threads, found.fetch_tasks) == ("cpu", 1, 2, 2)
    assert (found.batch_size, found.block_rows) == (16, 16), "half a minute of such a replica, staged at a time"
    small = plan(Config(), LAPTOP, DEMO)
    assert small.block_rows > 100, "a small model takes more at a time"
    assert small.threads == 1, "and leaves cores to what feeds it"


def test_a_small_manifest_gives_every_fetch_task_something_to_do() -> None:
    found = plan(Config(), GPU_NODE, BASE._replace(rows=100_000))
    assert found.chunk_rows < Config().compute.chunk_rows
    assert plan(Config(), LAPTOP, DEMO._replace(rows=0)).chunk_rows >= 1


def test_a_small_object_store_has_small_blocks() -> None:
    found = plan(Config(), GPU_NODE._replace(object_store_bytes=20 * GIB), BASE)
    assert found.block_rows < 128
    assert found.stream_bytes <= 20 * GIB


@given(
    st.integers(2, 4096), st.integers(0, 512), st.integers(10**6, 10**13), st.integers(0, 10**9),
    st.sampled_from([32, 112, 384, 768]), st.floats(0, 10_000),
)  # fmt: skip
def test_what_is_in_flight_fits_and_nothing_is_nothing(
    cpus: int, gpus: int, store: int, rows: int, side: int, gflop: float
) -> None:
    found = plan(Config(), Cluster(cpus, gpus, 1, store), Work(rows, side, gflop))
    assert min(found.replicas, found.batch_size, found.fetch_tasks, found.chunk_rows, found.block_rows) >= 1
    assert 2 <= found.queue_blocks <= 8
    assert 0 < found.stream_bytes <= store
    assert found.chunk_rows >= min(found.block_rows, Config().compute.chunk_rows)


def test_settings_win_and_what_was_chosen_reaches_the_stages() -> None:
    config = Config.model_validate({"compute": {"batch_size": 7, "block_rows": 33, "replicas": 2, "chunk_rows": 50}})
    found = plan(config, GPU_NODE, BASE)
    assert (found.batch_size, found.block_rows, found.replicas, found.chunk_rows) == (7, 33, 2, 50)
    assert settled(Config(), found).compute.block_rows == 33


@pytest.mark.parametrize(
    ("settings", "cluster", "words"),
    [
        ({"compute": {"replicas": 9}}, GPU_NODE, "compute.replicas is 9, but a cluster of 8 GPUs has room for 8"),
        ({"compute": {"replicas": 9}}, LAPTOP, "a cluster of 2 CPUs has room for 2"),
        ({"compute": {"replicas": 2}}, LAPTOP, "2 CPUs are too few for 2 replicas and one fetch task"),
        ({"model": {"device": "cuda"}}, LAPTOP, "the cluster has no GPUs"),
    ],
)
def test_more_than_there_is_is_refused(settings: dict[str, object], cluster: Cluster, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(Config.model_validate(settings), cluster, BASE)
