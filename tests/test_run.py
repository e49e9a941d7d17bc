"""The whole stream on a real Ray cluster: every row exactly once, at its place, whatever becomes of it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from pipeline import cluster, dataflow, output, run, storage
from pipeline.bottleneck import Cause
from pipeline.commandline import load
from pipeline.config import Config, StorageConfig
from pipeline.errors import ClusterError, ConfigError, OutputError, StorageError
from pipeline.local_s3 import LocalS3
from pipeline.progress import Plan, Progress, Summary, plan_chunks
from pipeline.sizing import Work
from pipeline.tallies import WorstHost
from tests.echo import EchoScorer
from tests.greys import png
from tests.tiny import tiny_checkpoint

pytestmark = pytest.mark.slow


class Recorder:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.progress: list[Progress] = []

    def starting(self, what: str) -> None:
        pass

    def planned(self, plan: Plan) -> None:
        self.plans.append(plan)

    def progressed(self, progress: Progress) -> None:
        self.progress.append(progress)


class At(Recorder):
    """Does something once the run has come to a point."""

    def __init__(self, point: str, do: Callable[[], object]) -> None:
        super().__init__()
        self.point, self.do = point, do

    def starting(self, what: str) -> None:
        if what == self.point:
            self.do()

    def planned(self, plan: Plan) -> None:
        self.starting("planned")


@pytest.fixture(scope="module", autouse=True)
def ray_cluster(s3: LocalS3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cluster for all runs of this file: workers stay warm, and have the S3 server's credentials in their environment."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in s3.env().items():
            environment.setenv(name, value)
        environment.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with cluster.joined(Config()):
            yield


def manifest_table(rows: int, offset: int = 0) -> pa.Table:
    """Greys and caption lengths that no two neighbours share; every seventh image is junk, every eleventh caption missing."""
    numbers = range(offset, offset + rows)
    return pa.table(
        {
            "key": pa.array([f"k{n}" for n in numbers]),
            "image": [b"junk" if n % 7 == 0 else png(n % 256) for n in numbers],
            "caption": pa.array([None if n % 11 == 0 else "x" * (n % 50 + 1) for n in numbers]),
            "weird": pa.array(
                [[{"a": n, "b": None}] for n in numbers], pa.list_(pa.struct([("a", pa.int16()), ("b", pa.float64())]))
            ),
            "tag": pa.array([f"t{n % 3}" for n in numbers]).dictionary_encode(),
        }
    )


def check(row: dict[str, Any], number: int) -> None:
    """A row's columns are those of its own image and caption."""
    assert row["key"] == f"k{number}"
    if number % 11 == 0:
        assert (row["status"], row["error_message"], row["itm_score"]) == ("invalid_row", "no caption", None)
    elif number % 7 == 0:
        assert (row["status"], row["error_message"], row["itm_score"]) == ("failed_to_decode", "not an image", None)
    else:
        assert row["status"] == "success"
        assert row["itm_logit"] == pytest.approx(number % 256 / 255, abs=1e-6)
        assert row["itc_similarity"] == pytest.approx((number % 50 + 1) / 1000)


def config_of(manifest: str, out: str, checkpoint: str, **sections: dict[str, Any]) -> Config:
    compute = {"chunk_rows": 100, "block_rows": 16}
    settings: dict[str, Any] = {
        "input": {"manifest": manifest},
        "output": {"path": out},
        "model": {"checkpoint": checkpoint},
        "compute": compute,
    }
    for section, values in sections.items():
        settings[section] = settings.get(section, {}) | values
    return load(None, settings)


def score(config: Config, recorder: Recorder | None = None) -> Summary:
    return run.score(config, recorder or Recorder(), EchoScorer)


def read(url: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(storage.read_bytes(url, StorageConfig())))


@pytest.mark.parametrize("where", ["local", "s3"])
def test_every_row_comes_out_once_at_its_place(
    where: str, tmp_path: Path, request: pytest.FixtureRequest, checkpoint: str
) -> None:
    base = request.getfixturevalue("bucket") if where == "s3" else str(tmp_path)
    tables = {"a/one": manifest_table(230), "b/two": manifest_table(90, offset=500), "b/empty": manifest_table(0)}
    for name, table in tables.items():
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=64)
        storage.write_bytes(f"{base}/in/{name}.parquet", sink.getvalue(), StorageConfig())
    recorder = Recorder()
    config = config_of(f"{base}/in", f"{base}/out", checkpoint, output={"rows_per_output_file": 100})
    summary = score(config, recorder)

    for name, table in tables.items():
        shards = [shard.name for shard in recorder.plans[0].manifest.shards if shard.name.startswith(name)]
        scored = pa.concat_tables([read(f"{base}/out/{shard}") for shard in shards], promote_options="permissive")
        assert scored.select(table.column_names).cast(table.schema).equals(table), "input columns, bit for bit, in order"
        for index, row in enumerate(scored.to_pylist()):
            check(row, index + (500 if name == "b/two" else 0))
    success = json.loads(storage.read_bytes(f"{base}/out/_SUCCESS", StorageConfig()))
    assert (success["rows"], sum(success["status"].values()), summary.rows_scored) == (320, 320, 320)
    assert success["held_back_by"] in set(Cause), "what the summary says is kept"
    left = [file.url for file in storage.list_files(f"{base}/out", StorageConfig()) if "_staging" in file.url]
    assert left == []


def test_the_same_command_again_does_nothing_and_new_files_are_scored(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(manifest_table(40), tmp_path / "in" / "day1.parquet")
    config = config_of(str(tmp_path / "in"), str(tmp_path / "out"), checkpoint)
    assert score(config).rows_scored == 40
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    again = score(config)
    assert (again.rows_scored, again.rows, sum(again.counts.values())) == (0, 40, 40)
    pq.write_table(manifest_table(30, offset=40), tmp_path / "in" / "day2.parquet")
    assert score(config).rows_scored == 30
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert before.items() <= after.items(), "finished files are not touched"
    assert len(after) == 2


def test_the_summary_tells_of_placeholders_and_of_the_worst_hosts(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "in").mkdir()
    for number in range(12):
        (tmp_path / "in" / f"{number}.png").write_bytes(png(7))
    urls = [f"{number}.png" for number in range(12)] + ["http://127.0.0.1/private"] * 3
    pq.write_table(pa.table({"url": urls, "caption": [f"c{n}" for n in range(15)]}), tmp_path / "in" / "m.parquet")
    config = config_of(str(tmp_path / "in"), str(tmp_path / "out"), checkpoint, output={"rows_per_output_file": 5})
    summaries = [score(config), score(config)]  # the second finds all of it in the files
    for summary in summaries:
        assert [placeholder.urls for placeholder in summary.placeholders] == [12]
        assert summary.worst_hosts == [WorstHost("127.0.0.1", 3, "refused address", 3)]
    success = json.loads((tmp_path / "out" / "_SUCCESS").read_text())
    assert success["worst_hosts"][0]["host"] == "127.0.0.1"
    assert success["placeholders"][0]["urls"] == 12


def test_ray_takes_the_stream_of_a_gpu(tmp_path: Path, checkpoint: str) -> None:
    """It refuses some arguments with GPUs alone, as soon as the graph is built."""
    (tmp_path / "in").mkdir()
    pq.write_table(manifest_table(20), tmp_path / "in" / "m.parquet")
    config = config_of(str(tmp_path / "in"), str(tmp_path / "out"), checkpoint)
    job = run.begin(run.check(config, Recorder()))
    resources = cluster.plan_resources(config, run.work_of(job))._replace(device="cuda")
    chunks = plan_chunks(job.tracker, 100)
    stream = dataflow.build(
        config, job.manifest, chunks, EchoScorer, job.output, resources=resources, image_size=job.model.image_size
    )
    assert "MapBatches(Replica)" in repr(stream.dataset)


def test_a_restart_scores_only_rows_that_no_part_holds(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(manifest_table(60), tmp_path / "in" / "m.parquet")
    config = config_of(str(tmp_path / "in"), str(tmp_path / "out"), checkpoint)
    job = run.begin(run.check(config, Recorder()))
    resources = cluster.plan_resources(config, run.work_of(job))
    (chunk,) = plan_chunks(job.tracker, 100)
    some = chunk._replace(ranges=((5, 25),))  # a run that died after it had staged these
    stream = dataflow.build(
        config, job.manifest, [some], EchoScorer, job.output, resources=resources, image_size=job.model.image_size
    )
    assert sum(len(receipt.rows) for receipt in dataflow.receipts(stream)) == 20

    recorder = Recorder()
    summary = score(config, recorder)
    assert (recorder.plans[0].rows_done, summary.rows_scored) == (20, 40)
    for number, row in enumerate(read(str(tmp_path / "out" / "m-00000.parquet")).to_pylist()):
        check(row, number)


def test_a_run_that_died_before_its_commit_is_committed_without_scoring(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(manifest_table(30), tmp_path / "in" / "m.parquet")
    config = config_of(str(tmp_path / "in"), str(tmp_path / "out"), checkpoint)
    job = run.begin(run.check(config, Recorder()))
    stream = dataflow.build(
        config, job.manifest, plan_chunks(job.tracker, 100), EchoScorer, job.output,
        resources=cluster.plan_resources(config, run.work_of(job)), image_size=job.model.image_size,
    )  # fmt: skip
    list(dataflow.receipts(stream))
    assert score(config).rows_scored == 0
    assert read(str(tmp_path / "out" / "m-00000.parquet")).num_rows == 30


def test_another_model_is_refused(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(manifest_table(10), tmp_path / "in" / "m.parquet")
    score(config_of(str(tmp_path / "in"), str(tmp_path / "out"), checkpoint))
    other = tiny_checkpoint(tmp_path, seed=1)
    with pytest.raises(OutputError, match="model_sha256 was"):
        score(config_of(str(tmp_path / "in"), str(tmp_path / "out"), other))


def test_the_stages_are_operators_of_their_own_without_gpus(tmp_path: Path, checkpoint: str) -> None:
    """Ray fuses neighbours of equal resources: one actor would then read, decode and score in turn."""
    (tmp_path / "in").mkdir()
    pq.write_table(manifest_table(60), tmp_path / "in" / "m.parquet")
    config = config_of(str(tmp_path / "in"), str(tmp_path / "out"), checkpoint, compute={"chunk_rows": 20})
    job = run.begin(run.check(config, Recorder()))
    stream = dataflow.build(
        config, job.manifest, plan_chunks(job.tracker, 20), EchoScorer, job.output,
        resources=cluster.plan_resources(config, run.work_of(job)), image_size=job.model.image_size,
    )  # fmt: skip
    list(dataflow.receipts(stream))
    operators = [line for line in stream.dataset.stats().splitlines() if line.startswith("Operator")]
    names = [line.split(":")[0].split(" ", 2)[2] for line in operators]
    assert names == ["FromItems", "MapBatches(fetch)", "MapBatches(Replica)", "MapBatches(stage)"]


def test_a_block_of_the_fetch_stage_stays_one_block(tmp_path: Path, checkpoint: str) -> None:
    """Parts are as many as blocks: Ray neither merges nor cuts what the fetch stage yields."""
    (tmp_path / "in").mkdir()
    images = [png(n % 256) for n in range(96)]
    pq.write_table(pa.table({"image": images, "caption": ["c"] * 96}), tmp_path / "in" / "m.parquet")
    config = config_of(str(tmp_path / "in"), str(tmp_path / "out"), checkpoint, compute={"chunk_rows": 96, "block_rows": 16})
    job = run.begin(run.check(config, Recorder()))
    stream = dataflow.build(
        config, job.manifest, plan_chunks(job.tracker, 96), EchoScorer, job.output,
        resources=cluster.plan_resources(config, run.work_of(job)), image_size=job.model.image_size,
    )  # fmt: skip
    assert [len(receipt.rows) for receipt in dataflow.receipts(stream)] == [16] * 6


def test_lists_of_captions_and_embeddings_and_a_prefix(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "in").mkdir()
    captions = [["a", "bb"], ["ccc"], [], None, ["d", None]]
    table = pa.table({"image": [png(50 * n) for n in range(5)], "captions": captions, "status": range(5)})
    pq.write_table(table, tmp_path / "in" / "m.parquet")
    score(
        config_of(
            str(tmp_path / "in"), str(tmp_path / "out"), checkpoint, output={"column_prefix": "c_", "image_embedding": True}
        )
    )
    rows = read(str(tmp_path / "out" / "m-00000.parquet")).to_pylist()
    assert [row["status"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[0]["c_itc_similarity"] == pytest.approx([0.001, 0.002])
    assert rows[4]["c_itc_similarity"] == [pytest.approx(0.001), None]
    assert [row["c_status"] for row in rows] == ["success", "success", "invalid_row", "invalid_row", "success"]
    assert rows[1]["c_image_embedding"][:3] == pytest.approx([50 / 255] * 3, abs=1e-6)


def test_the_real_model_scores_as_it_does_alone(tmp_path: Path, checkpoint: str) -> None:
    """With a file that the driver alone has, as on a cluster of several machines: replicas get it from the driver."""
    from pipeline.images import decode
    from pipeline.scorer import load_scorer

    (tmp_path / "in").mkdir()
    captions = [f"a grey of {n}, {'very ' * n}dark" for n in range(40)]
    pq.write_table(pa.table({"image": [png(6 * n) for n in range(40)], "caption": captions}), tmp_path / "in" / "m.parquet")
    gone = tmp_path / "gone.safetensors"
    shutil.copy(checkpoint, gone)
    recorder = At("planned", gone.unlink)
    run.score(config_of(str(tmp_path / "in"), str(tmp_path / "out"), str(gone)), recorder)
    rows = read(str(tmp_path / "out" / "m-00000.parquet")).to_pylist()
    scorer = load_scorer(checkpoint, device="cpu")
    for number, row in enumerate(rows):
        alone = scorer.score(decode(png(6 * number), 32)[None], [captions[number]])
        assert row["itm_score"] == pytest.approx(float(alone.itm_score[0]), abs=1e-5)
        assert row["itc_similarity"] == pytest.approx(float(alone.itc_similarity[0]), abs=1e-5)
        assert row["caption_truncated"] == (row["caption_tokens"] > 35)


def test_a_model_that_is_replaced_as_a_run_starts_scores_nothing(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(manifest_table(30), tmp_path / "in" / "m.parquet")
    changing = tmp_path / "changing.safetensors"
    shutil.copy(checkpoint, changing)
    recorder = At("Ray", lambda: shutil.copy(tiny_checkpoint(tmp_path, seed=1), changing))
    words = r"no replica can start: checkpoint '.*': changing\.safetensors has the sha256 .* it has changed"
    with pytest.raises(ClusterError, match=words) as caught:
        run.score(config_of(str(tmp_path / "in"), str(tmp_path / "out"), str(changing)), recorder)
    assert "\n" not in str(caught.value)


def test_a_worker_s_user_error_reaches_the_driver_as_itself(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(manifest_table(30), tmp_path / "in" / "m.parquet")
    config = config_of(str(tmp_path / "in"), str(tmp_path / "out"), checkpoint)
    job = run.begin(run.check(config, Recorder()))
    blocked = output.Output(str(tmp_path / "in" / "m.parquet"), config.storage, job.output.scores, "", {})  # a file, no folder
    stream = dataflow.build(
        config, job.manifest, plan_chunks(job.tracker, 100), EchoScorer, blocked,
        resources=cluster.plan_resources(config, run.work_of(job)), image_size=job.model.image_size,
    )  # fmt: skip
    with pytest.raises(StorageError):
        list(dataflow.receipts(stream))
    assert ray.is_initialized()


@pytest.mark.parametrize(
    ("section", "settings", "words"),
    [
        ("compute", {"replicas": 99}, "compute.replicas is 99, but a cluster of"),
        ("compute", {"fetch_cpus": 999.0}, "are too few for"),
        ("model", {"device": "cuda"}, "model.device is cuda, but the cluster has no GPUs"),
    ],
)
def test_more_than_the_cluster_has_is_refused_before_it_hangs(section: str, settings: dict[str, Any], words: str) -> None:
    """Ray would wait for ever for resources that no node has (NVIDIA-NeMo/Curator#1544)."""
    with pytest.raises(ConfigError, match=words):
        cluster.plan_resources(load(None, {section: settings}), Work(1000, 32))


def test_resources_without_gpus() -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    resources = cluster.plan_resources(Config(), Work(1000, 32))
    assert (resources.device, resources.cpus) == ("cpu", cpus)
    assert resources.replicas == max(1, cpus // 8)
    assert resources.threads * resources.replicas <= max(cpus, resources.replicas)
