"""The rows of a shard, as exactly as they were written, and files that are no longer what they were."""

from __future__ import annotations

import datetime as dt
import decimal
import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ManifestError, StorageError
from pipeline.manifest import read_rows
from pipeline.storage import read_bytes, write_bytes
from tests.conftest import WriteManifest
from tests.manifests import IMAGE, ROWS, STORAGE, find


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
def test_every_type_comes_back_bit_for_bit(anywhere: str, group_rows: int, write_manifest: WriteManifest) -> None:
    table = every_type().append_column("url", pa.array(["a"] * 3)).append_column("caption", pa.array(["a"] * 3))
    url = write_manifest(f"{anywhere}/a.parquet", table, row_group_size=group_rows)
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


def test_files_that_change_under_a_run(anywhere: str, write_manifest: WriteManifest) -> None:
    url = write_manifest(f"{anywhere}/a.parquet", pa.table(ROWS))
    (shard,) = find(url).shards
    write_manifest(url, pa.table(ROWS).slice(0, 1))
    with pytest.raises((ManifestError, StorageError), match=url):
        read_rows(shard, STORAGE)


def test_pages_that_are_corrupt(anywhere: str, write_manifest: WriteManifest) -> None:
    url = write_manifest(f"{anywhere}/a.parquet", pa.table({"url": ["x" * 100] * 1000, "caption": ["y"] * 1000}))
    data = bytearray(_bytes(url))
    data[10:60] = b"\xff" * 50
    write_bytes(url, bytes(data), STORAGE)
    (shard,) = find(url, rows=10_000).shards
    with pytest.raises(ManifestError, match=f"corrupt Parquet file: {url}"):
        read_rows(shard, STORAGE)
