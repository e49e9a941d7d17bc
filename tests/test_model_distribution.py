"""A checkpoint on several machines: nodes of a real Ray cluster, each with a cache and an object store of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from pipeline import cluster
from pipeline.commandline import load
from pipeline.config import StorageConfig
from pipeline.model.files import sha256_of
from pipeline.model.pin import Pieces, Pin, pin
from pipeline.model.source import locate
from tests.tiny import tiny_checkpoint

pytestmark = pytest.mark.slow

NODES = ("first", "second")
REPLICAS = 3  # of each
STORE_BYTES = 100 * 1024**2


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a cluster of a head without CPUs and two nodes, with a cache folder each: `tmp_path/NODE`."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES})
    try:
        for name in NODES:
            environment = {"XDG_CACHE_HOME": str(tmp_path / name)}
            started.add_node(
                num_cpus=REPLICAS, resources={name: REPLICAS}, object_store_memory=STORE_BYTES, env_vars=environment
            )
        yield started.address
    finally:
        started.shutdown()


def replica(pinned: Pin, shared: dict[str, Pieces], calls: Any) -> tuple[str, str, str]:
    """What a replica does before it loads the model. Returns where its weights are, their SHA-256, and on which node."""
    from pipeline.model.pin import here

    counted: dict[str, Pieces] = {sha256: counting(pieces, calls) for sha256, pieces in shared.items()}
    files = here(pinned, StorageConfig(), counted)
    return str(files.weights), sha256_of(files.weights), ray.get_runtime_context().get_node_id()


def counting(pieces: Pieces, calls: Any) -> Pieces:
    def counted() -> Iterator[Any]:
        ray.get(calls.note.remote(ray.get_runtime_context().get_node_id()))
        yield from pieces()

    return counted


@ray.remote(num_cpus=0)
class Calls:
    """How often each node asked the driver."""

    def __init__(self) -> None:
        self.nodes: Counter[str] = Counter()

    def note(self, node: str) -> None:
        self.nodes[node] += 1

    def found(self) -> dict[str, int]:
        return dict(self.nodes)


def test_a_file_that_the_driver_alone_has_reaches_each_machine_once(
    machines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PIECE_BYTES", 1024**2)
    path = Path(tiny_checkpoint(tmp_path))
    pinned = pin(locate(path))
    with cluster.joined(load(None, {"compute": {"address": machines}})) as elsewhere:
        assert elsewhere
        shared = cluster.share(pinned)
        path.unlink()
        calls = Calls.remote()  # type: ignore[attr-defined]
        task = ray.remote(max_retries=0)(replica)
        asked = [task.options(resources={name: 1}).remote(pinned, shared, calls) for name in NODES for _ in range(REPLICAS)]
        found = ray.get(asked, timeout=240)
        assert sorted(ray.get(calls.found.remote()).values()) == [1, 1], "one process of each machine"
    assert {sha256 for _, sha256, _ in found} == {pinned.weights.sha256}
    folders = Counter(Path(weights).relative_to(tmp_path).parts[0] for weights, _, _ in found)
    assert folders == dict.fromkeys(NODES, REPLICAS)
    assert len({(weights, node) for weights, _, node in found}) == len(NODES), "one file a machine"


def test_what_lies_in_a_store_is_not_shared(tmp_path: Path) -> None:
    files = locate(tiny_checkpoint(tmp_path))
    assert cluster.share(pin(files._replace(url="s3://bucket/model.safetensors"))) == {}
