"""How columns are recognised, and what is said of those that are not there or differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.columns import Columns
from pipeline.config import ColumnsConfig, InputConfig
from pipeline.errors import ManifestError
from pipeline.manifest import find_manifest, read_rows
from tests.conftest import WriteManifest
from tests.manifests import IMAGE, ROWS, STORAGE, find

TEXT = pa.string()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"URL": TEXT, "TEXT": TEXT, "WIDTH": pa.int64(), "similarity": pa.float64()}, ("URL", "TEXT", None, None)),  # LAION
        ({"uid": TEXT, "url": TEXT, "text": TEXT, "sha256": TEXT}, ("url", "text", None, "uid")),  # DataComp
        ({"image_url": TEXT, "caption": TEXT}, ("image_url", "caption", None, None)),  # Conceptual Captions
        ({"id": pa.int64(), "image": IMAGE, "captions": pa.list_(TEXT)}, (None, "captions", "image", "id")),  # Hugging Face
        ({"image": pa.binary(), "text": pa.large_string()}, (None, "text", "image", None)),
        ({"image": TEXT, "caption": TEXT}, ("image", "caption", None, None)),  # a path
        ({"image": pa.large_binary(), "url": TEXT, "caption": TEXT}, ("url", "caption", "image", None)),
        ({"file_name": TEXT, "text": pa.large_list(TEXT)}, ("file_name", "text", None, None)),
        ({"caption": TEXT, "text": TEXT, "url": TEXT, "URL": TEXT}, ("url", "caption", None, None)),
        ({"URL": TEXT, "Url": TEXT, "Caption": TEXT}, ("URL", "Caption", None, None)),
        ({"url": pa.dictionary(pa.int32(), TEXT), "caption": pa.dictionary(pa.int8(), TEXT)}, ("url", "caption", None, None)),
        ({"url": TEXT, "caption": pa.int64(), "text": TEXT}, ("url", "text", None, None)),  # of the wrong type
        ({"url": pa.null(), "image_url": TEXT, "caption": TEXT}, ("image_url", "caption", None, None)),  # nothing in it
        ({"url": TEXT, "caption": pa.list_(TEXT, 5)}, ("url", "caption", None, None)),
        ({"url": TEXT, "caption": pa.string_view()}, ("url", "caption", None, None)),
    ],
)
def test_columns_are_recognised(
    tmp_path: Path, fields: dict[str, pa.DataType], expected: tuple[str | None, ...], write_manifest: WriteManifest
) -> None:
    manifest = find(write_manifest(tmp_path / "a.parquet", pa.schema(fields).empty_table()))
    columns = manifest.columns
    assert (columns.url, columns.caption, columns.image, columns.key) == expected
    assert manifest.captions_are_lists == pa.types.is_nested(fields[columns.caption])


def test_names_that_the_user_set_come_first(tmp_path: Path, write_manifest: WriteManifest) -> None:
    path = write_manifest(tmp_path / "a.parquet", {"url": ["a"], "caption": ["b"], "href": ["c"], "said": ["d"], "n": [1]})
    assert find(path, url="href", caption="said", key="n").columns == Columns("href", "said", None, "n")
    assert find(path, caption="said").columns == Columns("url", "said", None, None)


def test_hashes_are_checked_only_where_the_user_names_them(tmp_path: Path, write_manifest: WriteManifest) -> None:
    path = write_manifest(tmp_path / "a.parquet", {"url": ["a"], "caption": ["b"], "sha256": ["c"], "md5": [1]})
    assert find(path).columns.sha256 is None
    assert find(path, sha256="sha256").columns.sha256 == "sha256"
    with pytest.raises(ManifestError, match="sha256 takes string"):
        find(path, sha256="md5")


@pytest.mark.parametrize(
    ("fields", "settings", "says"),
    [
        ({"url": TEXT, "said": TEXT}, {}, "set --input.columns.caption NAME; its columns: url (string), said (string)"),
        (
            {"caption": TEXT, "x": pa.int8()},
            {},
            "set --input.columns.url NAME (of URLs or paths) or --input.columns.image NAME",
        ),
        (
            {"url": TEXT, "caption": TEXT},
            {"caption": "Caption"},
            "has no column 'Caption' (--input.columns.caption); its columns",
        ),
        (
            {"url": TEXT, "caption": TEXT, "n": pa.int64()},
            {"caption": "n"},
            "is int64: --input.columns.caption takes string or list<string>",
        ),
        ({"url": TEXT, "caption": TEXT, "n": pa.int64()}, {"url": "n"}, "is int64: --input.columns.url takes string"),
        (
            {"url": TEXT, "caption": TEXT},
            {"image": "url"},
            "is string: --input.columns.image takes binary or struct<bytes: binary, path: string>",
        ),
        ({}, {}, "its columns: none"),
    ],
)
def test_columns_that_are_not_there(
    tmp_path: Path, fields: dict[str, pa.DataType], settings: dict[str, str], says: str, write_manifest: WriteManifest
) -> None:
    path = write_manifest(tmp_path / "a.parquet", pa.schema(fields).empty_table())
    config = InputConfig(manifest=[path], columns=ColumnsConfig(**settings))
    with pytest.raises(ManifestError) as caught:
        find_manifest(config, STORAGE, 100)
    assert says in str(caught.value)
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"url": ["a"]}, "b.parquet has no column 'caption'"),
        ({"url": ["a"], "caption": [["b"]]}, "column 'caption' is list<element: string> in"),
        ({"url": ["a"], "caption": [1]}, "column 'caption' is int64 in"),
        ({"URL": ["a"], "caption": ["b"]}, "b.parquet has no column 'url'"),
    ],
)
def test_files_that_differ(tmp_path: Path, other: dict[str, Any], says: str, write_manifest: WriteManifest) -> None:
    write_manifest(tmp_path / "a.parquet", ROWS)
    write_manifest(tmp_path / "b.parquet", other)
    with pytest.raises(ManifestError, match="all files need") as caught:
        find(tmp_path)
    assert says in str(caught.value)


def test_files_may_differ_in_what_is_not_needed(tmp_path: Path, write_manifest: WriteManifest) -> None:
    write_manifest(tmp_path / "a.parquet", {"url": ["a"], "caption": pa.array([None], pa.null()), "n": [1]})
    write_manifest(tmp_path / "b.parquet", {"m": [1.0], "caption": pa.array([["a"]], pa.large_list(pa.string())), "url": ["b"]})
    write_manifest(tmp_path / "c.parquet", {"url": pa.array(["c"], pa.large_string()), "caption": [["a", "b"]], "n": ["x"]})
    manifest = find(tmp_path)
    assert manifest.schema.names == ["url", "caption", "n", "m"]
    assert manifest.schema.field("n").type == pa.int64()
    assert manifest.captions_are_lists
    assert [read_rows(shard, STORAGE).num_columns for shard in manifest.shards] == [3, 3, 3]


def test_two_columns_of_one_name(tmp_path: Path, write_manifest: WriteManifest) -> None:
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["url", "caption", "url"])
    with pytest.raises(ManifestError, match="several columns named url: rename them"):
        find(write_manifest(tmp_path / "a.parquet", table))
