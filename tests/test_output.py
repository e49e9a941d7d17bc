"""Exactly once on disk and on a real S3 server: staging, commits, what a restart finds, whose folder it is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import output as out
from pipeline import resume, storage
from pipeline.config import InputConfig, StorageConfig
from pipeline.errors import OutputError
from pipeline.manifest import Manifest, find_manifest
from pipeline.output import MissingRowsError, Output
from pipeline.schema import part_schema, score_schema, scored_schema

SCORES = score_schema(lists=False)
STORE = StorageConfig()


def scored(*rows: tuple[int, int, float | None, str]) -> pa.Table:
    """Rows as replicas hand them on: (shard, row, score, status)."""
    records = [
        {
            "shard": shard,
            "row": row,
            "itm_score": score,
            "status": status,
            "error_message": None if score is not None else "timeout",
        }
        | {"fetch_s": 0.5, "decode_s": 0.25, "score_s": 0.125, "bytes_read": 10}
        for shard, row, score, status in rows
    ]
    return pa.Table.from_pylist(records, schema=scored_schema(SCORES))


def successes(shard: int, *rows: int) -> pa.Table:
    return scored(*((shard, row, row / 100, "success") for row in rows))


def make_manifest(folder: Path, rows: int = 8, rows_per_file: int = 4) -> Manifest:
    folder.mkdir(exist_ok=True)
    table = pa.table({"url": [f"u{i}" for i in range(rows)], "caption": [f"c{i}" for i in range(rows)], "extra": range(rows)})
    pq.write_table(table, folder / "m.parquet")
    return find_manifest(InputConfig(manifest=[str(folder)]), STORE, rows_per_file)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make_manifest(tmp_path / "in")


@pytest.fixture
def output(tmp_path: Path) -> Output:
    identity = {"model": "m", "image_size": 16}
    return Output(str(tmp_path / "out"), STORE, SCORES, "", identity, {"versions": {"torch": "2"}})


def names(output: Output) -> list[str]:
    return [file.url.removeprefix(output.url + "/") for file in storage.list_files(output.url, output.storage)]


def test_a_shard_goes_from_parts_to_one_file_in_input_order(manifest: Manifest, output: Output) -> None:
    resume.claim(output, overwrite=False)
    receipts = pa.concat_tables(
        [out.stage(output, manifest.shards, successes(0, 3, 1)), out.stage(output, manifest.shards, successes(0, 0, 2))]
    ).to_pylist()
    assert [receipt["shard"] for receipt in receipts] == [0, 0]
    assert receipts[0]["counts"] == [{"status": "success", "reason": None, "rows": 2}]
    assert receipts[0]["fetch_s"] == 1.0
    counts = out.commit(output, manifest.shards[0]).counts
    assert counts == {("success", None): 4}
    table = pq.read_table(output.at("m-00000.parquet"), partitioning=None)
    assert table.column_names == ["url", "caption", "extra", *SCORES.names]
    assert table["url"].to_pylist() == ["u0", "u1", "u2", "u3"]
    assert table["itm_score"].to_pylist() == pytest.approx([0, 0.01, 0.02, 0.03])
    assert table.schema.field("status").type == pa.dictionary(pa.int8(), pa.string())
    assert names(output) == ["_run.json", "m-00000.parquet"], "parts are removed"


def test_a_block_of_several_shards_becomes_a_part_of_each(manifest: Manifest, output: Output) -> None:
    receipts = out.stage(output, manifest.shards, pa.concat_tables([successes(0, 2), successes(1, 0, 1)])).to_pylist()
    assert [(receipt["shard"], len(receipt["rows"]) // 8) for receipt in receipts] == [(0, 1), (1, 2)]
    assert [name.rpartition("/")[0] for name in names(output)] == ["_staging/m-00000.parquet", "_staging/m-00001.parquet"]


def test_the_same_rows_make_the_same_part_and_others_another(manifest: Manifest, output: Output) -> None:
    for _ in range(2):
        out.stage(output, manifest.shards, successes(0, 1, 2))
    assert len(names(output)) == 1
    out.stage(output, manifest.shards, successes(0, 1, 3))
    assert len(names(output)) == 2, "same first row, same number of rows"


def test_a_commit_with_rows_missing_is_refused_and_keeps_the_parts(manifest: Manifest, output: Output) -> None:
    out.stage(output, manifest.shards, successes(0, 0, 1, 3))
    with pytest.raises(MissingRowsError, match="1 rows missing"):
        out.commit(output, manifest.shards[0])
    assert len(names(output)) == 1


def test_a_shard_without_rows_becomes_a_file_without_rows(tmp_path: Path, output: Output) -> None:
    manifest = make_manifest(tmp_path / "empty", rows=0)
    assert out.commit(output, manifest.shards[0]).counts == {}
    table = pq.read_table(output.at(manifest.shards[0].name))
    assert (table.num_rows, table.column_names) == (0, ["url", "caption", "extra", *SCORES.names])


def test_a_restart_finds_what_is_done_and_what_is_staged(manifest: Manifest, output: Output) -> None:
    resume.claim(output, overwrite=False)
    out.stage(
        output, manifest.shards, scored((0, 0, 0.5, "success"), (0, 1, None, "failed_to_download"), (0, 2, 0.5, "success"))
    )
    out.stage(output, manifest.shards, successes(0, 3))
    out.commit(output, manifest.shards[0])
    out.stage(output, manifest.shards, successes(1, 1, 2, 3))
    found = resume.scan(output, manifest.shards).staged
    counts = {name: committed.counts for name, committed in found.done.items()}
    assert counts == {"m-00000.parquet": Counter({("success", None): 3, ("failed_to_download", "timeout"): 1})}
    assert {name: rows.tolist() for name, rows in found.rows.items()} == {"m-00001.parquet": [1, 2, 3]}


def test_a_restart_finds_the_tallies_of_what_is_done(manifest: Manifest, output: Output) -> None:
    same = successes(0, 0, 1, 2, 3)
    hashes = pa.array(["h", "h", "i", None], pa.string())
    out.stage(output, manifest.shards, same.set_column(same.schema.get_field_index("image_sha256"), "image_sha256", hashes))
    committed = out.commit(output, manifest.shards[0], url_column="url")
    assert committed.tallies.images.counts == {("h",): 2, ("i",): 1}
    assert resume.scan(output, manifest.shards).staged.done == {"m-00000.parquet": committed}


def test_a_restart_removes_what_a_death_between_commit_and_removal_left(manifest: Manifest, output: Output) -> None:
    out.stage(output, manifest.shards, successes(0, 0, 1, 2, 3))
    out.commit(output, manifest.shards[0])
    out.stage(output, manifest.shards, successes(0, 0, 1))
    assert resume.scan(output, manifest.shards).staged.rows == {}
    assert names(output) == ["m-00000.parquet"]


def test_the_file_tells_what_made_it(manifest: Manifest, output: Output) -> None:
    out.stage(output, manifest.shards, successes(0, 0, 1, 2, 3))
    out.commit(output, manifest.shards[0])
    metadata = json.loads(pq.read_schema(output.at("m-00000.parquet")).metadata[b"capsieve"])
    assert metadata["identity"] == {"model": "m", "image_size": 16}
    assert metadata["provenance"] == {"versions": {"torch": "2"}}
    assert metadata["source"] == {
        "url": manifest.shards[0].file.url,
        "size": manifest.shards[0].file.size,
        "version": manifest.shards[0].file.version,
        "first_row": 0,
        "rows": 4,
    }


def test_another_model_on_the_same_output_is_refused_with_the_difference(output: Output) -> None:
    resume.claim(output, overwrite=False)
    resume.claim(output, overwrite=False)  # the same again is a restart
    other = Output(output.url, STORE, SCORES, "", {"model": "other", "image_size": 16})
    with pytest.raises(OutputError, match=r"model was 'm', now 'other'.*--output.overwrite"):
        resume.claim(other, overwrite=False)
    resume.claim(other, overwrite=True)
    resume.claim(other, overwrite=False)


def test_a_folder_of_other_things_is_refused_and_overwriting_leaves_them(tmp_path: Path, output: Output) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        resume.claim(output, overwrite=False)
    resume.claim(output, overwrite=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_a_clash_of_columns_offers_the_prefix(tmp_path: Path, output: Output) -> None:
    folder = tmp_path / "clash"
    folder.mkdir()
    pq.write_table(pa.table({"url": ["u"], "caption": ["c"], "status": [1]}), folder / "m.parquet")
    manifest = find_manifest(InputConfig(manifest=[str(folder)]), STORE, 10)
    with pytest.raises(OutputError, match=r"status.*--output\.column_prefix"):
        resume.check_columns(manifest, output)
    resume.check_columns(manifest, Output(output.url, STORE, SCORES, "capsieve_", {}))


def test_the_whole_way_on_s3(bucket: str, tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path / "in")
    output = Output(f"{bucket}/out", STORE, SCORES, "p_", {"model": "m"})
    resume.claim(output, overwrite=False)
    out.stage(output, manifest.shards, pa.concat_tables([successes(0, 0, 1, 2, 3), successes(1, 0)]))
    out.commit(output, manifest.shards[0])
    found = resume.scan(output, manifest.shards).staged
    assert (set(found.done), {name: rows.tolist() for name, rows in found.rows.items()}) == (
        {"m-00000.parquet"},
        {"m-00001.parquet": [0]},
    )
    out.stage(output, manifest.shards, successes(1, 1, 2, 3))
    out.commit(output, manifest.shards[1])
    out.finish(output, {"rows": 6})
    assert names(output) == ["_SUCCESS", "_run.json", "m-00000.parquet", "m-00001.parquet"]
    assert "p_itm_score" in pq.read_schema(pa.BufferReader(storage.read_bytes(output.at("m-00001.parquet"), STORE))).names


Row = tuple[int, bool]


@given(rows=st.integers(0, 12), parts=st.lists(st.lists(st.tuples(st.integers(-1, 13), st.booleans()), max_size=8), max_size=6))
def test_any_set_of_parts_gives_the_right_rows_or_a_refusal(rows: int, parts: list[list[Row]]) -> None:
    records: list[dict[str, Any]] = [
        {"row": row, "status": "success" if good else "failed_to_download", "itm_score": float(row) if good else None}
        for part in parts
        for row, good in part
    ]
    table = pa.Table.from_pylist(records, schema=part_schema(SCORES))
    held = {row for part in parts for row, _ in part}
    succeeded = {row for part in parts for row, good in part if good}
    if held != set(range(rows)):
        with pytest.raises(MissingRowsError):
            out.merge_parts(table, rows)
        return
    merged = out.merge_parts(table, rows).to_pylist()
    assert [row["row"] for row in merged] == list(range(rows))
    assert {row["row"] for row in merged if row["status"] == "success"} == succeeded, "a success is kept before a failure"
    assert all(row["itm_score"] == (row["row"] if row["status"] == "success" else None) for row in merged)
