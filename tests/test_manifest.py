"""Manifests on real Parquet files, here and on S3: what is found, how columns are recognised, cuts, names, exact reading."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import pickle
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.columns import Columns
from pipeline.config import ColumnsConfig, InputConfig, StorageConfig
from pipeline.errors import ManifestError, StorageError
from pipeline.manifest import Manifest, base_url, find_manifest, read_rows
from pipeline.shards import output_name, row_borders
from pipeline.storage import read_bytes, write_bytes

STORAGE = StorageConfig()
WriteManifest = Callable[..., str]  # the fixture `write_manifest`
ROWS: dict[str, Any] = {"url": ["a.jpg", "b.jpg", "c.jpg"], "caption": ["an a", "a b", None]}


def find(*entries: str | Path, rows: int = 100, **columns: str) -> Manifest:
    config = InputConfig(manifest=[str(entry) for entry in entries], columns=ColumnsConfig(**columns))
    return find_manifest(config, STORAGE, rows)


def names(manifest: Manifest) -> list[str]:
    return [shard.name for shard in manifest.shards]


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder on this machine, or in a bucket."""
    return str(request.getfixturevalue("bucket")) if request.param == "s3" else str(tmp_path)


# ------------------------------------------------------------------ what is found


@pytest.fixture
def tree(folder: str, write_manifest: WriteManifest) -> str:
    for name in (
        "b.parquet",
        "a.parquet",
        "date=2026-01-01/part-0.PARQUET",
        "_temporary/x.parquet",
        ".hidden.parquet",
        "deep/er/c.pq",
    ):
        write_manifest(f"{folder}/{name}", ROWS)
    for name in ("_SUCCESS", "README.md", "empty/"):
        if not name.endswith("/"):
            write_manifest(f"{folder}/{name}", {"x": [1]})
    return folder


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


def test_files_without_rows_have_an_empty_shard(folder: str, write_manifest: WriteManifest) -> None:
    empty = pa.table(ROWS).slice(0, 0)
    write_manifest(f"{folder}/a.parquet", empty)
    write_manifest(f"{folder}/b.parquet", ROWS)
    manifest = find(folder)
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


# ------------------------------------------------------------------ what is refused


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
def test_manifests_that_cannot_be_read(folder: str, entry: str, says: str, write_manifest: WriteManifest) -> None:
    good = read_bytes(write_manifest(f"{folder}/broken/z-good.parquet", ROWS), STORAGE)
    write_bytes(f"{folder}/broken/cut.parquet", good[: len(good) // 2], STORAGE)
    write_bytes(f"{folder}/broken/text.parquet", b"<html>not found</html>", STORAGE)
    write_bytes(f"{folder}/other/README.md", b"hello", STORAGE)
    if "zero" in entry:
        write_bytes(f"{folder}/broken/zero.parquet", b"", STORAGE)
    else:
        write_bytes(f"{folder}/broken/footer.parquet", good[:-60] + b"\xff" * 40 + good[-20:], STORAGE)
    says = says.replace("text.parquet (it does not end as one) (3", "cut.parquet (it does not end as one) (3")
    with pytest.raises(ManifestError) as caught:
        find(f"{folder}/{entry}")
    assert says.replace("FOLDER", folder) in str(caught.value)
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


@pytest.mark.parametrize(
    ("relative", "name"),
    [
        ("a.parquet", "a"),
        ("a.snappy.parquet", "a.snappy"),
        ("date=2026-01-01/part-0.parquet", "date=2026-01-01/part-0"),
        ("no suffix", "no suffix"),
        ("漢字/ä.PQ", "漢字/ä"),
        ("../../etc/passwd.parquet", "x/x/etc/passwd"),
        ("/etc//passwd", "etc/x/passwd"),
        ("a/./_b/.c.parquet", "a/x/b/c"),
        ("_staging.parquet", "staging"),
        ("what?*[1]\\..parquet", "what__" + "_1__."),
        ("tab\tnew\nline\x00.parquet", "tab_new_line_"),
        (".parquet", "x"),
    ],
)
def test_output_names_are_harmless(relative: str, name: str) -> None:
    assert output_name(relative) == name


@given(st.lists(st.text(min_size=1, max_size=300).filter(lambda text: "/" not in text), min_size=1, max_size=4))
def test_no_name_leaves_the_folder(segments: list[str]) -> None:
    made = output_name("/".join(segments)).split("/")
    assert len(made) == len(segments)
    for segment in made:
        assert segment
        assert segment[0] not in "._"
        assert segment.isprintable()
        assert len(segment.encode(errors="surrogatepass")) <= 160


# ------------------------------------------------------------------ columns

TEXT = pa.string()
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


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


# ------------------------------------------------------------------ cuts


@pytest.mark.parametrize(
    ("groups", "limit", "borders"),
    [
        ([], 10, [0, 0]),
        ([0, 0], 10, [0, 0]),
        ([10], 10, [0, 10]),
        ([3, 3, 3, 3], 7, [0, 6, 12]),  # whole row groups
        ([12], 10, [0, 6, 12]),  # evenly, not 10 and 2
        ([5, 12, 5], 10, [0, 5, 11, 17, 22]),
        ([0, 4, 0, 4, 0], 4, [0, 4, 8]),
        ([12, 2], 10, [0, 6, 14]),
        ([1, 1, 1], 1, [0, 1, 2, 3]),
    ],
)
def test_where_files_are_cut(groups: list[int], limit: int, borders: list[int]) -> None:
    assert row_borders(groups, limit) == borders


@given(st.lists(st.integers(0, 50)), st.integers(1, 30))
def test_cuts_cover_each_row_once(groups: list[int], limit: int) -> None:
    borders = row_borders(groups, limit)
    sizes = [stop - start for start, stop in pairwise(borders)]
    assert (borders[0], borders[-1]) == (0, sum(groups))
    assert all(0 < size <= limit for size in sizes) or sizes == [0]


# ------------------------------------------------------------------ exact reading


def every_type() -> pa.Table:
    """Three rows of each type that Parquet can hold, nulls among them, as writers of all sorts make them."""
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 678901)
    columns: dict[str, pa.Array] = {
        **{str(kind): pa.array([1, None, 3], kind) for kind in (pa.int8(), pa.uint16(), pa.int32(), pa.uint64())},
        **{str(kind): pa.array([0.1, None, float("inf")], kind) for kind in (pa.float32(), pa.float64())},
        "half": pa.array([0.5, None, 2.0], pa.float32()).cast(pa.float16()),
        "bool": pa.array([True, None, False]),
        "null": pa.nulls(3),
        **{str(kind): pa.array(["ä", None, ""], kind) for kind in (pa.string(), pa.large_string(), pa.string_view())},
        **{str(kind): pa.array([b"\0", None, b""], kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())},
        "fixed": pa.array([b"abc", None, b"xyz"], pa.binary(3)),
        "decimal": pa.array([decimal.Decimal("1.23"), None, decimal.Decimal("-9.99")], pa.decimal128(20, 2)),
        "date": pa.array([moment.date(), None, moment.date()]),
        "time": pa.array([moment.time(), None, moment.time()], pa.time64("us")),
        "us": pa.array([moment, None, moment], pa.timestamp("us", "Europe/Berlin")),
        "ns": pa.array([1, None, 3], pa.timestamp("ns")),
        "duration": pa.array([1, None, 3], pa.duration("ms")),
        "dictionary": pa.array(["x", None, "x"]).dictionary_encode(),
        "ordered": pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), ["b", "a"], ordered=True),
        "list": pa.array([["a", None], None, []], pa.list_(pa.string())),
        "large list": pa.array([[1], [], None], pa.large_list(pa.int32())),
        "embedding": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2)),
        "image": pa.array([{"bytes": b"1", "path": None}, None, {"bytes": None, "path": "x"}], IMAGE),
        "nested": pa.array([[{"a": [1]}], None, [{"a": None}]], pa.list_(pa.struct({"a": pa.list_(pa.int8())}))),
        "map": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int32())),
        "uuid": pa.array([b"0" * 16, None, b"1" * 16], pa.uuid()),
        "dotted.name": pa.array([1, 2, None]),
        "dotted": pa.array([1, 2, None]),
    }
    fields = [pa.field(name, array.type, metadata={"note": name}) for name, array in columns.items()]
    metadata = {b"pandas": b'{"index_columns": []}', b"mine": b"\xff\x00"}
    return pa.table(list(columns.values()), schema=pa.schema(fields, metadata=metadata))


@pytest.mark.parametrize("group_rows", [1, 2, 100])
def test_every_type_comes_back_bit_for_bit(folder: str, group_rows: int, write_manifest: WriteManifest) -> None:
    table = every_type().append_column("url", pa.array(["a"] * 3)).append_column("caption", pa.array(["a"] * 3))
    url = write_manifest(f"{folder}/a.parquet", table, row_group_size=group_rows)
    expected = pq.read_table(io.BytesIO(_bytes(url)))
    (shard,) = find(url).shards
    assert_same(read_rows(shard, STORAGE), expected)
    assert_same(read_rows(shard, STORAGE, start=1, stop=2), expected.slice(1, 1))
    assert_same(read_rows(shard, STORAGE, start=3), expected.slice(3))
    assert read_rows(shard, STORAGE).schema.equals(table.schema.with_metadata(table.schema.metadata), check_metadata=False)
    for names_ in (["dotted"], ["image", "dotted.name", "uuid"], ["url", "caption"]):
        assert_same(read_rows(shard, STORAGE, names_, 0, 2), expected.slice(0, 2).select(names_))


def _bytes(url: str) -> bytes:
    return read_bytes(url, STORAGE)


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    """Equal in values, types and metadata of the table and of each field."""
    found.validate(full=True)
    assert found.schema.equals(expected.schema, check_metadata=True)
    assert found.equals(expected)
    assert found.to_pydict() == expected.to_pydict()


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.integers(0, 3000), max_size=5),
    limit=st.integers(1, 4000),
    cuts=st.lists(st.floats(0, 1), max_size=3),
)
def test_splits_of_any_file_add_up_to_it(
    tmp_path_factory: pytest.TempPathFactory, groups: list[int], limit: int, cuts: list[float]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    table = write_groups(path, groups)
    manifest = find(path, rows=limit)
    parts = []
    for shard in manifest.shards:
        places = sorted({0, shard.rows, *(int(cut * shard.rows) for cut in cuts)})
        parts += [read_rows(shard, STORAGE, None, start, stop) for start, stop in pairwise(places)] or [
            read_rows(shard, STORAGE)
        ]
    assert_same(pa.concat_tables(parts), pq.read_table(path))
    assert pa.concat_tables(parts)["url"].equals(table["url"])
    assert sum(shard.rows for shard in manifest.shards) == manifest.rows == table.num_rows


def write_groups(path: Path, groups: Sequence[int]) -> pa.Table:
    """A file with row groups of these sizes."""
    total = sum(groups)
    table = pa.table(
        {
            "url": [f"{index}.jpg" for index in range(total)],
            "caption": pa.array([["x", None][index % 2] for index in range(total)], pa.string()).dictionary_encode(),
        }
    )
    with pq.ParquetWriter(path, table.schema) as writer:
        start = 0
        for rows in groups:
            writer.write_table(table.slice(start, rows), row_group_size=max(rows, 1))
            start += rows
    return table


def test_rows_beyond_the_shard_are_a_bug(tmp_path: Path, write_manifest: WriteManifest) -> None:
    (shard,) = find(write_manifest(tmp_path / "a.parquet", ROWS)).shards
    for start, stop in ((0, 4), (-1, 2), (2, 1)):
        with pytest.raises(ValueError, match="of a shard of 3"):
            read_rows(shard, STORAGE, None, start, stop)


def test_files_that_change_under_a_run(folder: str, write_manifest: WriteManifest) -> None:
    url = write_manifest(f"{folder}/a.parquet", pa.table(ROWS))
    (shard,) = find(url).shards
    write_manifest(url, pa.table(ROWS).slice(0, 1))
    with pytest.raises((ManifestError, StorageError), match=url):
        read_rows(shard, STORAGE)


def test_pages_that_are_corrupt(folder: str, write_manifest: WriteManifest) -> None:
    url = write_manifest(f"{folder}/a.parquet", pa.table({"url": ["x" * 100] * 1000, "caption": ["y"] * 1000}))
    data = bytearray(_bytes(url))
    data[10:60] = b"\xff" * 50
    write_bytes(url, bytes(data), STORAGE)
    (shard,) = find(url, rows=10_000).shards
    with pytest.raises(ManifestError, match=f"corrupt Parquet file: {url}"):
        read_rows(shard, STORAGE)
