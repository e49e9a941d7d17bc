"""What a file says of itself: which rows of which input file, which model, settings and versions made it, and a checksum.

Parts and final files carry it in their Parquet metadata, under `METADATA_KEY`, as JSON. Knows nothing of where files are.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.shards import Shard
from pipeline.tallies import Tallies

METADATA_KEY = b"capsieve"

Counts = Counter[tuple[str, str | None]]  # (status, error_message) -> rows
Source = dict[str, Any]  # see `source_of`


class PartFacts(NamedTuple):
    """What a staged part says of itself."""

    made_of: str  # `fingerprint` of the identity of the output it was staged for
    source: Source
    attempt: int  # which time that its rows are scored: 0, or the number of a second chance


class FileFacts(NamedTuple):
    """What a final file says of itself."""

    identity: dict[str, Any]  # the model and every setting that the scores depend on
    source: Source
    attempt: int
    counts: Counts
    tallies: Tallies
    checksums: list[str]  # `checksum` of the score columns of each row group
    provenance: dict[str, Any]  # settings and versions


def source_of(shard: Shard) -> Source:
    """Which rows of which version of which file: what a file must have been made of to be a shard's."""
    return {**shard.file._asdict(), "first_row": shard.first_row, "rows": shard.rows}


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Short name of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """`size was 3, now 4; version was 'a', now 'b'`, in the order of the names; empty where there are none."""
    wanted = json.loads(json.dumps(wanted))
    names = sorted(found.keys() | wanted.keys())
    return "; ".join(
        f"{name} was {found.get(name)!r}, now {wanted.get(name)!r}" for name in names if found.get(name) != wanted.get(name)
    )


def with_facts(table: pa.Table, facts: PartFacts | FileFacts) -> pa.Table:
    """The table with the facts in its metadata, beside what was there."""
    fields = facts._asdict()
    if isinstance(facts, FileFacts):
        totals = sorted(facts.counts.items(), key=str)
        fields["counts"] = [[status, reason, rows] for (status, reason), rows in totals]
        fields["tallies"] = facts.tallies.as_json()
    text = json.dumps(fields, sort_keys=True).encode()
    return table.replace_schema_metadata({**(table.schema.metadata or {}), METADATA_KEY: text})


def part_facts(metadata: Mapping[bytes, bytes] | None) -> PartFacts | None:
    """The facts of a part, or None where this metadata is not of one."""
    fields = _fields(metadata)
    return PartFacts(**fields) if fields is not None and fields.keys() == set(PartFacts._fields) else None


def file_facts(metadata: Mapping[bytes, bytes] | None) -> FileFacts | None:
    """The facts of a final file, or None where this metadata is not of one."""
    fields = _fields(metadata)
    if fields is None or fields.keys() != set(FileFacts._fields):
        return None
    fields["counts"] = Counter({(status, reason): rows for status, reason, rows in fields["counts"]})
    fields["tallies"] = Tallies.from_json(fields["tallies"])
    return FileFacts(**fields)


def _fields(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any] | None:
    try:
        fields = json.loads((metadata or {})[METADATA_KEY])
    except (KeyError, ValueError):
        return None
    return fields if isinstance(fields, dict) else None


def checksum(columns: pa.Table) -> str:
    """SHA-256 of the values of score columns: the same however Arrow has chunked, encoded or padded them."""
    digest = hashlib.sha256()
    for name in columns.column_names:
        digest.update(name.encode())
        for piece in _canonical(pa.concat_arrays(_chunks(columns[name]))):
            digest.update(piece)
    return digest.hexdigest()


def _chunks(column: pa.ChunkedArray) -> list[pa.Array]:
    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    return plain.chunks or [pa.array([], plain.type)]


def _canonical(array: pa.Array) -> Iterable[bytes]:
    kind = array.type
    yield array.is_valid().to_numpy(zero_copy_only=False).tobytes()
    if pa.types.is_list(kind):
        yield _bytes(pc.list_value_length(array), np.int32)
        yield from _canonical(array.flatten())
    elif pa.types.is_fixed_size_list(kind):
        yield from _canonical(array.flatten())
    elif pa.types.is_string(kind):
        yield _bytes(pc.binary_length(array), np.int32)
        yield "".join(text for text in array.to_pylist() if text is not None).encode()
    else:
        yield _bytes(array, kind.to_pandas_dtype())


def _bytes(array: pa.Array, dtype: Any) -> bytes:
    filled = pc.fill_null(array, False if pa.types.is_boolean(array.type) else 0)
    values: npt.NDArray[Any] = filled.to_numpy(zero_copy_only=False)
    return values.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
