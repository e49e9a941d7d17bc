"""Manifests on real Parquet files, here and on S3: what is found, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import ManifestError, StorageError
from pipeline.manifest import base_url, read_rows
from pipeline.storage import read_bytes, write_bytes
from tests.conftest import WriteManifest
from tests.manifests import ROWS, STORAGE, find, names


@pytest.fixture
def tree(anywhere: str, write_manifest: WriteManifest) -> str:
    for name in (
        "b.parquet",
        "a.parquet",
        "date=2026-01-01/part-0.PARQUET",
        "_temporary/x.parquet",
        ".hidden.parquet",
        "deep/er/c.pq",
    ):
        write_manifest(f"{anywhere}/{name}", ROWS)
    for name in ("_SUCCESS", "README.md", "empty/"):
        if not name.endswith("/"):
            write_manifest(f"{anywhere}/{name}", {"x": [1]})
    return anywhere


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["a.parquet"], ["a-00000.parquet"]),
        ([""], ["a-00000.parquet", "b-00000.parquet", "date=2026-01-01/part-0-00000.parquet", "deep/er/c-00000.parquet"]),
        (["/"], ["a-00000.parquet", "b-00000.parquet", "date=2026-01-01/part-0-00000.parquet", "deep/er/c-00000.parquet"]),
        (["*.parquet"], ["a-00000.parquet", "b-00000.parquet"]),
        (["[b-z].parquet"], ["b-00000.parquet"]),
        (["date=*/*"], ["date=2026-01-01/part-0-00000.parquet"]),
        (["**/*.pq"], ["deep/er/c-00000.parquet"]),
        (["deep"], ["er/c-00000.parquet"]),
        (["b.parquet", "deep", "a.parquet"], ["a-00000.parquet", "b-00000.parquet", "er/c-00000.parquet"]),
        (
            ["", "a.parquet", "*.parquet"],
            ["a-00000.parquet", "b-00000.parquet", "date=2026-01-01/part-0-00000.parquet", "deep/er/c-00000.parquet"],
        ),
        (["_temporary/x.parquet"], ["x-00000.parquet"]),
        ([".hidden.parquet"], ["hidden-00000.parquet"]),
    ],
)
def test_files_folders_and_globs(tree: str, entries: list[str], expected: list[str]) -> None:
    manifest = find(*(f"{tree}/{entry}" for entry in entries))
    assert names(manifest) == expected
    assert [shard.file.url for shard in manifest.shards] == sorted(shard.file.url for shard in manifest.shards)
    assert manifest.rows == 3 * len(expected)
    assert all(shard.file.size and shard.file.version for shard in manifest.shards)


def test_a_manifest_is_the_same_each_time_and_can_be_pickled(tree: str) -> None:
    first = find(tree, rows=2)
    assert find(tree, rows=2) == first
    assert pickle.loads(pickle.dumps(first)) == first


def test_where_relative_paths_begin(tree: str) -> None:
    shards = find(tree).shards
    assert base_url(shards[0]) == tree
    assert base_url(shards[-1]) == f"{tree}/deep/er"


def test_files_without_rows_have_an_empty_shard(anywhere: str, write_manifest: WriteManifest) -> None:
    empty = pa.table(ROWS).slice(0, 0)
    write_manifest(f"{anywhere}/a.parquet", empty)
    write_manifest(f"{anywhere}/b.parquet", ROWS)
    manifest = find(anywhere)
    assert [(shard.name, shard.rows) for shard in manifest.shards] == [("a-00000.parquet", 0), ("b-00000.parquet", 3)]
    assert read_rows(manifest.shards[0], STORAGE).equals(empty, check_metadata=True)


def test_a_folder_called_like_a_file_or_like_a_pattern(tmp_path: Path, write_manifest: WriteManifest) -> None:
    write_manifest(tmp_path / "data.parquet" / "part-0.parquet", ROWS)
    write_manifest(tmp_path / "data[1]" / "part-1.parquet", ROWS)
    assert names(find(tmp_path / "data.parquet")) == ["part-0-00000.parquet"]
    assert names(find(tmp_path / "data[1]")) == ["part-1-00000.parquet"]
    assert names(find(tmp_path / "data[1]" / "part-1.parquet")) == ["part-1-00000.parquet"]


def test_footers_larger_than_the_first_look(tmp_path: Path, write_manifest: WriteManifest) -> None:
    wide = {**ROWS, **{f"column_{index:05d}": [1, 2, 3] for index in range(1500)}}
    write_manifest(tmp_path / "a.parquet", wide, row_group_size=1)
    assert find(tmp_path).rows == 3
    assert len(find(tmp_path).schema) == 1502


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("nothing", "no Parquet file is at FOLDER/nothing, or below it: correct --input.manifest"),
        ("*.json", "no Parquet file matches FOLDER/*.json"),
        ("other", "(1 other files, e.g. FOLDER/other/README.md)"),
        ("broken", "not a Parquet file: FOLDER/broken/text.parquet (it does not end as one) (3 of 4 files are corrupt)"),
        ("broken/cut.parquet", "not a Parquet file: FOLDER/broken/cut.parquet (it does not end as one): repair"),
        ("broken/zero.parquet", "not a Parquet file: FOLDER/broken/zero.parquet (it is empty)"),
        ("broken/footer.parquet", "corrupt Parquet file: FOLDER/broken/footer.parquet ("),
    ],
)
def test_manifests_that_cannot_be_read(anywhere: str, entry: str, says: str, write_manifest: WriteManifest) -> None:
    good = read_bytes(write_manifest(f"{anywhere}/broken/z-good.parquet", ROWS), STORAGE)
    write_bytes(f"{anywhere}/broken/cut.parquet", good[: len(good) // 2], STORAGE)
    write_bytes(f"{anywhere}/broken/text.parquet", b"<html>not found</html>", STORAGE)
    write_bytes(f"{anywhere}/other/README.md", b"hello", STORAGE)
    if "zero" in entry:
        write_bytes(f"{anywhere}/broken/zero.parquet", b"", STORAGE)
    else:
        write_bytes(f"{anywhere}/broken/footer.parquet", good[:-60] + b"\xff" * 40 + good[-20:], STORAGE)
    says = says.replace("text.parquet (it does not end as one) (3", "cut.parquet (it does not end as one) (3")
    with pytest.raises(ManifestError) as caught:
        find(f"{anywhere}/{entry}")
    assert says.replace("FOLDER", anywhere) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_manifest_given() -> None:
    with pytest.raises(ManifestError, match=r"set --input\.manifest"):
        find()


def test_stores_that_cannot_be_read(s3_env: object) -> None:
    with pytest.raises(StorageError, match="no such bucket: not-there"):
        find("s3://not-there/a.parquet")


@pytest.mark.parametrize("other", ["two/x.parquet", "one/X.parquet", "one/x.pq"])
def test_two_files_of_one_output_name(tmp_path: Path, other: str, write_manifest: WriteManifest) -> None:
    first = write_manifest(tmp_path / "one/x.parquet", ROWS)
    second = write_manifest(tmp_path / other, ROWS)
    with pytest.raises(ManifestError) as caught:
        find(first, second)
    assert first in str(caught.value)
    assert second in str(caught.value)
