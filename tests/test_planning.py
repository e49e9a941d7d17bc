"""What a run will take: the arithmetic, the rows that are sampled, the file of instances."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.columns import Columns
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.manifest import FileInfo, Manifest, Shard
from pipeline.planning.estimate import Binds, Costs, Machine, Starts, chunk_s, estimate, rates
from pipeline.planning.instances import read_catalogue
from pipeline.planning.measure import measure
from pipeline.planning.sample import PLACES, head, sample
from pipeline.run import Checked, check
from pipeline.sizing import Resources
from tests.echo import EchoScorer
from tests.greys import png
from tests.test_preview import Silent
from tests.tiny import tiny_checkpoint

# Base at 384 px on 2 cores: 0.9 s a row of both of them; images fetched and decoded in 3 ms of one.
COSTS = Costs(
    rows=100, rows_scored=32, counts=Counter({("success", None): 90, ("failed_to_download", "http 404"): 10}),
    bytes_read=100_000, stored_share=1.0, fetch_core_s=0.001, decode_core_s=0.002, score_s=0.9, score_core_s=1.8,
    write_core_s=0.0001, load_s=5.0, wait_s=0.1, slow_share=0.0, slow_s=0.0,
)  # fmt: skip
CPU = Resources(
    replicas=1, batch_size=16, device="cpu", threads=2, cpus=2, nodes=1, fetch_tasks=2, stage_tasks=None, chunk_rows=100,
    block_rows=16, queue_blocks=2, block_bytes=0, stream_bytes=0,
)  # fmt: skip
GPUS = CPU._replace(device="cuda", replicas=8, cpus=208, fetch_tasks=400, chunk_rows=2048, block_rows=512)
STARTS = Starts(program_s=2.0, ray_s=4.0, stream_s=10.0, load_s=5.0, end_s=2.0, measured=True)
PIXELS = 3 * 384 * 384


def rates_of(costs: Costs, machine: Machine) -> Any:
    return rates(costs, machine, image_bytes=PIXELS, in_flight=256)


def estimate_of(costs: Costs, machine: Machine, rows: int) -> Any:
    return estimate(costs, machine, STARTS, rows=rows, image_bytes=PIXELS, in_flight=256)


# ------------------------------------------------------------------ arithmetic


def test_on_cpus_everything_shares_the_cores() -> None:
    found = rates_of(COSTS, Machine(CPU, COSTS.score_s))
    a_row = 0.001 + 0.002 + 0.9 * 0.4e-3 + 0.0001 + 0.02 / 16 + 1.8  # core-seconds; nine rows of ten have pixels
    assert found.cpu == pytest.approx(2 / a_row)
    assert found.score == pytest.approx(1 / 0.9)
    assert found.binds is Binds.CPU
    assert found.network == math.inf


def test_a_run_here_starts_scores_and_ends() -> None:
    found = estimate_of(COSTS, Machine(CPU, COSTS.score_s), 100)
    assert found.wall_s == pytest.approx(18 + 100 / found.rates.cpu)
    assert (found.gpu_hours, max(found.cpu_s, key=lambda name: found.cpu_s[name])) == (0, "score")


def test_h100s_as_in_the_docs() -> None:
    """docs/performance.md: a billion rows on 8 H100s take 11.6 hours."""
    found = estimate_of(COSTS, Machine(GPUS, 1 / 3_000, 1e11), 10**9)
    assert found.rates.score == pytest.approx(24_000)
    assert found.rates.binds is Binds.SCORE
    assert found.wall_s / 3600 == pytest.approx(11.6, abs=0.1)
    assert found.gpu_hours == pytest.approx(8 * found.wall_s / 3600)
    assert found.cores_a_replica == pytest.approx(3_000 * (0.003 + 0.9 * 0.4e-3 + 0.0001 + 0.02 / 512))


@pytest.mark.parametrize(
    ("costs", "machine", "binds"),
    [
        ({"decode_core_s": 0.02}, {}, Binds.CPU),
        ({"bytes_read": 10_000_000}, {}, Binds.NETWORK),
        ({"wait_s": 60.0}, {}, Binds.DOWNLOADS),
        ({"slow_share": 0.01, "slow_s": 100.0}, {}, Binds.DOWNLOADS),
        ({}, {"score_s": 1e-5}, Binds.DRIVER),
    ],
)
def test_whatever_is_slowest_binds(costs: dict[str, Any], machine: dict[str, Any], binds: Binds) -> None:
    gpus = Machine(GPUS, 1 / 3_000, 1e11)._replace(**machine)
    assert rates_of(COSTS._replace(**({"fetch_core_s": 1e-4, "decode_core_s": 1e-4} | costs)), gpus).binds is binds


def test_a_hanging_host_holds_up_its_chunk_once_and_is_over_while_a_model_loads() -> None:
    slow = COSTS._replace(slow_share=0.01, slow_s=4.0)
    assert chunk_s(slow, 100, 256) == pytest.approx(0.2 + (1 - 0.99**100) * 4.0)
    machine = Machine(CPU, 0.001)
    quick = COSTS._replace(score_s=0.001, score_core_s=0.001)
    few = estimate_of(quick._replace(slow_share=0.01, slow_s=4.0), machine, 100)
    assert few.wall_s < estimate_of(quick, machine, 100).wall_s + 0.5, "the model takes five seconds to load"
    far = estimate_of(quick._replace(slow_share=0.01, slow_s=40.0), machine, 100)
    assert far.wall_s > few.wall_s + 15


@given(
    st.integers(1, 10**9), st.floats(1e-5, 10), st.floats(1e-5, 1), st.floats(1, 1e8), st.floats(0, 1), st.floats(0, 100),
    st.integers(1, 8), st.sampled_from([CPU, GPUS]),
)  # fmt: skip
def test_an_estimate_is_never_faster_than_any_resource(
    rows: int, score_s: float, decode_s: float, size: float, slow: float, slow_s: float, replicas: int, resources: Resources
) -> None:
    costs = COSTS._replace(decode_core_s=decode_s, bytes_read=size, slow_share=slow, slow_s=slow_s)
    machine = Machine(resources._replace(replicas=replicas), score_s, 1e9)
    found = estimate_of(costs, machine, rows)
    for rate in found.rates:
        assert found.wall_s >= rows / rate
    assert found.wall_s >= STARTS.total_s * (1 - 1e-9)
    assert getattr(found.rates, found.rates.binds.value) == found.rates.rows_per_s
    twice = estimate_of(costs, machine, 2 * rows)
    assert found.wall_s <= twice.wall_s <= 2 * found.wall_s * (1 + 1e-9)


# ------------------------------------------------------------------ sample


def manifest_of(*rows: int) -> Manifest:
    shards = tuple(Shard(f"{n}.parquet", FileInfo(f"f{n}", 1, "v"), 7 * n, count) for n, count in enumerate(rows))
    return Manifest(shards, Columns("caption", "url", None, None, None), False, sum(rows), pa.schema([]))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(1, 200))
@example([47, 50, 50], 146)
def test_a_sample_has_the_rows_asked_for_each_once_and_of_its_own_file(rows: list[int], wanted: int) -> None:
    manifest = manifest_of(*rows)
    found = sample(manifest, wanted)
    taken = [(shard.file.url, shard.first_row + n) for shard in found.shards for n in range(shard.rows)]
    there = {(shard.file.url, shard.first_row + n) for shard in manifest.shards for n in range(shard.rows)}
    assert len(taken) == len(set(taken)) == found.rows == min(wanted, manifest.rows)
    assert set(taken) <= there
    assert len({shard.name for shard in found.shards}) == len(found.shards)


def test_a_sample_is_spread_over_the_manifest() -> None:
    found = sample(manifest_of(*[1000] * 16), 64)
    assert [shard.file.url for shard in found.shards] == [f"f{n}" for n in range(0, 16, 16 // PLACES)]
    few = head(found, 4, 4)
    assert [shard.rows for shard in few.shards] == [1, 1, 1, 1]
    assert head(found, 4, 1).rows == 4


# ------------------------------------------------------------------ measure


@pytest.fixture
def checked(tmp_path: Path) -> Checked:
    """30 rows: two name each picture, ten none that there is."""
    (tmp_path / "in").mkdir()
    for number in range(10):
        (tmp_path / "in" / f"{number}.png").write_bytes(png(20 * number))
    urls = [f"{n // 2}.png" for n in range(20)] + [f"gone{n}.png" for n in range(10)]
    pq.write_table(pa.table({"url": urls, "caption": ["a caption"] * 30}), tmp_path / "in" / "m.parquet")
    sections = {
        "input": {"manifest": str(tmp_path / "in")},
        "output": {"path": str(tmp_path / "out"), "image_embedding": True},
        "model": {"checkpoint": tiny_checkpoint(tmp_path)},
    }
    return check(Config.model_validate(sections), Silent())


def test_stages_are_measured_by_row_whatever_becomes_of_it(checked: Checked) -> None:
    resources = CPU._replace(batch_size=4, block_rows=8)
    found = measure(checked.config, checked.manifest, checked.output, resources, 32, EchoScorer)
    assert (found.rows, found.rows_scored, found.success_share) == (30, 16, pytest.approx(2 / 3)), "whole batches of images"
    assert found.counts == {("success", None): 20, ("failed_to_download", "not found"): 10}
    assert found.bytes_read == pytest.approx(10 * len(png(0)) / 30, rel=0.5)
    assert min(found.fetch_core_s, found.decode_core_s, found.score_s, found.write_core_s) > 0
    assert (found.slow_share, found.stored_share) == (0, 0)


def test_a_manifest_of_dead_links_has_a_plan_without_scores(checked: Checked) -> None:
    (shard,) = checked.manifest.shards
    dead = replace(checked.manifest, shards=(replace(shard, first_row=20, rows=10),), rows=10)
    found = measure(checked.config, dead, checked.output, CPU, 32, EchoScorer)
    assert (found.rows_scored, found.success_share, found.score_s) == (0, 0, 0)
    assert math.isfinite(estimate_of(found, Machine(CPU, found.score_s), 10).wall_s)


# ------------------------------------------------------------------ instances


def test_the_shipped_instances_are_complete() -> None:
    found = read_catalogue("")
    assert len({instance.name for instance in found.instances}) == len(found.instances) >= 5
    assert all(instance.usd_per_hour_spot < instance.usd_per_hour for instance in found.instances)
    assert any(not instance.gpus for instance in found.instances)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("instances: [", "not YAML"),
        ("- a", "expected `instances:`"),
        ("instances: []", "instances: List should have at least 1 item"),
        ("instances: [{name: a, cpus: 4}]", "instances.0.memory_gib: Field required"),
        ("instances: [{name: a, cpus: 4, memory_gib: 1, network_gbps: 1, usd_per_hour: 1, gpus: 1}]", "a: gpus and gpu"),
        ("instances: [{name: a, cpus: 4, memory_gib: 1, network_gbps: 1, usd_per_hour: 1, gpus: 1, gpu: B}]", "a: no GPU B"),
        ("instances: [{name: a, cpus: 4, memory_gib: 1, network_gbps: 1, usd_per_hour: -1}]", "instances.0.usd_per_hour"),
    ],
)  # fmt: skip
def test_a_bad_file_of_instances_is_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_catalogue(str(path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
