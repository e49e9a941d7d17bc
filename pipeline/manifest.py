"""Manifests: finds the Parquet files, cuts them into shards, reads the rows of a shard.

A row's identity is (file, row number), so no column of unique ids is asked of anybody. Order, cuts and names depend on the
files alone: the same input gives the same shards on every start. Rows are read as Arrow has them, not a bit different.
Knows nothing of what is done with rows, of outputs beyond their names, of Ray, or of torch.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.columns import Columns as Columns
from pipeline.columns import Kind, check_alike, recognise, role_kinds
from pipeline.config import InputConfig, StorageConfig
from pipeline.errors import ManifestError
from pipeline.patience import patiently
from pipeline.shards import SUFFIXES, check_names, cut_file
from pipeline.shards import Shard as Shard
from pipeline.storage import FileInfo as FileInfo
from pipeline.storage import find_file, glob_files, is_local, list_files, local_path, open_filesystem, probe, storage_errors
from pipeline.storage_failures import raised_by_library

log = logging.getLogger(__name__)

FOOTER_THREADS = 32  # footers are small and far away: the wait is for the store
FOOTER_GUESS = 64 * 1024  # bytes from the end that hold most footers
READ_BUFFER = 8 * 1024 * 1024  # bytes of a column read at a time from a row group that is wanted in part
READ_ROWS = 1024  # rows decoded at a time from such a row group: images in the rows are large


@dataclass(frozen=True)
class Manifest:
    """All that a run reads: its shards, sorted by file and row, and what their columns are."""

    shards: tuple[Shard, ...]
    columns: Columns
    captions_are_lists: bool
    rows: int
    schema: pa.Schema  # every column of any file; of the first file that has it, where types differ


class Source(NamedTuple):
    """An input file, and its path below the root of the entry that named it."""

    file: FileInfo
    relative: str


class Footer(NamedTuple):
    """What planning needs of a file. The schema has the file's metadata."""

    schema: pa.Schema
    group_rows: tuple[int, ...]


# ------------------------------------------------------------------ find


def find_manifest(input: InputConfig, storage: StorageConfig, rows_per_output_file: int) -> Manifest:
    """Find the files of `input.manifest`, read their footers, recognise their columns and cut them into shards.

    Raises ManifestError if there are none, one is corrupt, columns are missing or differ, or two would write the same
    output; StorageError if a store cannot be read, within seconds if it is down or refuses the credentials.
    """
    sources = find_sources(input.manifest, storage)
    footers = read_footers([source.file for source in sources], storage)
    columns, kinds = _resolve_columns(sources, footers, input)
    shards = tuple(
        shard
        for source, footer in zip(sources, footers, strict=True)
        for shard in cut_file(source.file, source.relative, footer.group_rows, rows_per_output_file)
    )
    check_names(shards)
    rows = sum(shard.rows for shard in shards)
    log.info("%d rows in %d files, %d shards; columns %s", rows, len(sources), len(shards), columns.roles())
    return Manifest(shards, columns, kinds["caption"] is Kind.TEXTS, rows, _union([footer.schema for footer in footers]))


def find_sources(entries: Sequence[str], storage: StorageConfig) -> list[Source]:
    """The Parquet files of files, folders and globs, sorted by URL, each once. Raises ManifestError, StorageError."""
    if not entries:
        raise ManifestError("no manifest given: set --input.manifest to a Parquet file, a folder or a glob")
    for store in sorted({"/".join(entry.split("/")[:3]) for entry in entries}):
        probe(store, storage)
    sources: dict[str, Source] = {}
    for entry in entries:
        for source in _expand(local_path(entry) if is_local(entry) else entry, storage):
            sources.setdefault(source.file.url, source)  # a file that two entries name is read once
    return [sources[url] for url in sorted(sources)]


def _expand(entry: str, storage: StorageConfig) -> list[Source]:
    entry = entry.rstrip("/")
    single = find_file(entry, storage)
    if single is not None:  # named by the user: whatever it is called
        return [Source(single, entry.rpartition("/")[2])]
    root, found = entry, list_files(entry, storage)  # first, because folders may have [ in their names
    pattern = next((index for index, character in enumerate(entry) if character in "*?["), None)
    if not found and pattern is not None:
        root, found = entry[:pattern].rpartition("/")[0], glob_files(entry, storage)
    sources = [Source(file, file.url.removeprefix(root).lstrip("/")) for file in found]
    parquet = [source for source in sources if _is_manifest_name(source.relative)]
    if not parquet:
        others = f" ({len(found)} other files, e.g. {found[0].url})" if found else ""
        what = f"matches {entry}" if pattern is not None else f"is at {entry}, or below it"
        raise ManifestError(f"no Parquet file {what}{others}: correct --input.manifest")
    return parquet


def _is_manifest_name(relative: str) -> bool:
    hidden = any(segment.startswith(("_", ".")) for segment in relative.split("/"))
    return not hidden and relative.lower().endswith(SUFFIXES)


def read_footers(files: Sequence[FileInfo], storage: StorageConfig) -> list[Footer]:
    """Schema and row groups of each file. Raises ManifestError that names the first corrupt one."""

    def read(file: FileInfo) -> Footer | ManifestError:
        try:
            return _read_footer(file, storage)
        except ManifestError as error:
            return error

    with ThreadPoolExecutor(min(FOOTER_THREADS, len(files))) as pool:
        results = list(pool.map(read, files))
    errors = [result for result in results if isinstance(result, ManifestError)]
    if errors:
        count = f" ({len(errors)} of {len(files)} files are corrupt)" if len(errors) > 1 else ""
        raise ManifestError(f"{errors[0]}{count}: repair, remove or exclude it")
    return [result for result in results if isinstance(result, Footer)]


def _read_footer(file: FileInfo, storage: StorageConfig) -> Footer:
    def tail(size: int) -> bytes:
        with storage_errors(file.url):
            return bytes(fs.cat_file(path, start=max(0, file.size - size), end=file.size))

    fs, path = open_filesystem(file.url, storage)
    data = tail(FOOTER_GUESS)
    if len(data) < 12 or data[-4:] not in (b"PAR1", b"PARE"):
        raise ManifestError(f"not a Parquet file: {file.url} ({'it is empty' if not data else 'it does not end as one'})")
    length = int.from_bytes(data[-8:-4], "little") + 8
    if length > len(data) and length <= file.size:
        data = tail(length)
    with corrupt_errors(file):
        # the reader looks at nothing but the footer, so the rest of the file need not be there
        parquet = pq.ParquetFile(pa.BufferReader(data))
        groups = tuple(parquet.metadata.row_group(index).num_rows for index in range(parquet.metadata.num_row_groups))
        return Footer(parquet.schema_arrow, groups)


@contextmanager
def corrupt_errors(file: FileInfo) -> Iterator[None]:
    """Turn what Arrow raises of a file's content into ManifestErrors."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or raised_by_library(error)):
            raise  # the system's or a store's; Arrow's own have no number
        raise ManifestError(f"corrupt Parquet file: {file.url} ({str(error).splitlines()[0][:200]})") from error


def _resolve_columns(
    sources: Sequence[Source], footers: Sequence[Footer], input: InputConfig
) -> tuple[Columns, dict[str, Kind]]:
    urls = [source.file.url for source in sources]
    for url, footer in zip(urls, footers, strict=True):
        twice = [name for name, count in Counter(footer.schema.names).items() if count > 1]
        if twice:
            raise ManifestError(f"{url} has several columns named {', '.join(twice)}: rename them")
    # files without rows are often written without proper types
    model = next((index for index, footer in enumerate(footers) if sum(footer.group_rows)), 0)
    columns = recognise(footers[model].schema, input.columns, urls[model])
    kinds = role_kinds(footers[model].schema, columns)
    for url, footer in zip(urls, footers, strict=True):
        check_alike(footer.schema, url, columns, kinds, urls[model])
    return columns, kinds


def _union(schemas: Sequence[pa.Schema]) -> pa.Schema:
    fields = {field.name: field for schema in reversed(schemas) for field in schema}
    names = dict.fromkeys(name for schema in schemas for name in schema.names)
    return pa.schema([fields[name] for name in names], metadata=schemas[0].metadata)


# ------------------------------------------------------------------ read


def base_url(shard: Shard) -> str:
    """The folder of the shard's file, against which relative image paths are resolved."""
    return shard.file.url.rpartition("/")[0] or "/"


def read_rows(
    shard: Shard, storage: StorageConfig, columns: list[str] | None = None, start: int = 0, stop: int | None = None
) -> pa.Table:
    """Rows [start, stop) of a shard, counted within it; all of its columns, or those named, in that order.

    Values, Arrow types, dictionaries and schema metadata are the file's own. Of a row group wanted in part, only what lies
    before the end of the part is read, a few rows in memory at a time. Waits `storage.retry_s` for a store that is down.
    Raises ManifestError if the file is corrupt or has changed, StorageError if it cannot be read, ValueError for rows beyond
    the shard.
    """
    stop = shard.rows if stop is None else stop
    if not 0 <= start <= stop <= shard.rows:
        raise ValueError(f"rows {start} to {stop} of a shard of {shard.rows}")
    first, last = shard.first_row + start, shard.first_row + stop
    return patiently(lambda: _read_file(shard, storage, columns, first, last), storage)


def _read_file(shard: Shard, storage: StorageConfig, columns: list[str] | None, first: int, last: int) -> pa.Table:
    """Rows [first, last) of the shard's file, counted within that."""
    fs, path = open_filesystem(shard.file.url, storage)
    with storage_errors(shard.file.url), corrupt_errors(shard.file):
        # no read-ahead cache: Arrow knows which ranges it wants. The size is known: no request for it.
        options = {} if is_local(shard.file.url) else {"cache_type": "none", "size": shard.file.size}
        with fs.open(path, "rb", **options) as source:
            file = pq.ParquetFile(source, buffer_size=READ_BUFFER, pre_buffer=False)
            if file.metadata.num_rows < shard.first_row + shard.rows:
                raise ManifestError(f"{shard.file.url} has changed: it now ends after {file.metadata.num_rows} rows")
            return _read(file, columns, first, last)


def _read(file: pq.ParquetFile, columns: list[str] | None, start: int, stop: int) -> pa.Table:
    schema = file.schema_arrow
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns], metadata=schema.metadata)
    tables = [schema.empty_table()]
    end = 0
    for group in range(file.metadata.num_row_groups):
        first, end = end, end + file.metadata.row_group(group).num_rows
        if first >= stop or end <= start or first == end:
            continue
        if start <= first and end <= stop:
            table = file.read_row_group(group, columns=columns)
            tables.append(table if columns is None else table.select(columns))
        else:
            tables += _read_part(file, group, schema.names, range(max(start - first, 0), min(stop, end) - first))
    return pa.concat_tables(tables).replace_schema_metadata(schema.metadata)


def _read_part(file: pq.ParquetFile, group: int, columns: list[str], wanted: range) -> Iterator[pa.Table]:
    """The wanted rows, counted within the row group; the rows before them are decoded and dropped."""
    at = 0
    for batch in file.iter_batches(batch_size=READ_ROWS, row_groups=[group], columns=columns):
        first, at = at, at + batch.num_rows
        if at > wanted.start:
            offset = max(wanted.start - first, 0)
            yield pa.Table.from_batches([batch.slice(offset, min(at, wanted.stop) - first - offset)]).select(columns)
        if at >= wanted.stop:
            return
