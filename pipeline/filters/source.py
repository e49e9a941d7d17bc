"""What is filtered: the Parquet files of a run's output (or any others), what their columns are, a stream of their rows.

Files are cut into runs of whole row groups, and a run is read a batch at a time. Knows nothing of rules.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from pipeline.columns import KINDS, NAMES, Kind, kind_of
from pipeline.config import Config, StorageConfig
from pipeline.errors import ConfigError, ManifestError
from pipeline.filters.captions import explode
from pipeline.manifest import Source, corrupt_errors, find_sources, read_footers
from pipeline.output import RUN_FILE, SUCCESS_FILE
from pipeline.schema import SCORE_COLUMNS
from pipeline.shards import Shard, check_names, cut_file
from pipeline.storage import exists, is_local, open_filesystem, read_bytes, storage_errors

FILTER_FILE = "_FILTER.json"
BATCH_ROWS = 65_536
BATCH_BYTES = 32 * 1024 * 1024  # of decoded rows; rows that hold images come in smaller batches
LOCAL_BUFFER = 1024 * 1024  # bytes of a column read at a time: many columns are open at once
REMOTE_BUFFER = 8 * 1024 * 1024
PER_CAPTION = ("itm_score", "itm_logit", "itc_similarity", "caption_tokens", "caption_truncated")  # lists, of list captions


@dataclass(frozen=True)
class Layout:
    """What the columns are; names as in the files."""

    names: tuple[str, ...]  # of all columns
    prefix: str  # before the names of the columns that scoring added
    status: str | None
    url: str | None
    caption: str | None
    key: str | None
    lists: tuple[str, ...]  # columns with an entry a caption
    exploded: bool  # one row a caption: the lists are gone from the stream

    def ours(self, name: str) -> str:
        """The column that scoring added under this name."""
        return self.prefix + name

    def resolve(self, name: str) -> str:
        """The column that a rule means: itself, or the one that scoring added. Raises ConfigError with the names there are."""
        for found in (name, self.ours(name)):
            if found in self.names:
                return found
        close = difflib.get_close_matches(name, self.names, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(f"no column {name!r} to filter by{hint}; the columns are {', '.join(self.names)}")

    @property
    def added(self) -> frozenset[str]:
        """Columns that scoring added."""
        return frozenset(map(self.ours, (*SCORE_COLUMNS, "image_embedding"))) & frozenset(self.names)

    @property
    def ranking(self) -> str:
        """The list that tells a row's best caption."""
        return self.ours("itm_score")


@dataclass(frozen=True)
class Dataset:
    """All that is filtered."""

    runs: tuple[Shard, ...]  # whole row groups of one file each; in the order of files and rows
    schemas: dict[str, pa.Schema]  # of each file, by URL
    layout: Layout
    rows: int
    identity: dict[str, Any]  # of the source: its files' digest, and what made them where a run's output says so


def find_dataset(config: Config) -> Dataset:
    """Find the files of `input.manifest` and their columns.

    Raises ManifestError for files that are not there, corrupt or not alike, and for the output of a run that is not finished;
    StorageError if a store cannot be read.
    """
    sources = find_sources(config.input.manifest, config.storage)
    roots = _roots(config.input.manifest)
    if not config.filter.allow_unfinished:
        _check_finished(roots, config.storage)
    footers = read_footers([source.file for source in sources], config.storage)
    schemas = {source.file.url: footer.schema for source, footer in zip(sources, footers, strict=True)}
    runs: list[Shard] = []
    for source, footer in zip(sources, footers, strict=True):
        limit = max(config.output.rows_per_output_file, *footer.group_rows, 1)  # no row group is cut
        shards = cut_file(source.file, source.relative, footer.group_rows, limit)
        alone = len(shards) == 1
        runs += [replace(shard, name=shard.name.replace("-00000.parquet", ".parquet")) for shard in shards] if alone else shards
    check_names(runs)
    rows = sum(run.rows for run in runs)
    return Dataset(tuple(runs), schemas, _layout(schemas, config), rows, _identity(sources, roots, rows, config.storage))


def _roots(entries: Sequence[str]) -> list[str]:
    """The folders that entries may name: themselves, and what stands before a pattern."""
    before = (re.split(r"[*?\[]", entry, maxsplit=1) for entry in entries)
    patterns = [parts[0].rpartition("/")[0] for parts in before if len(parts) > 1]
    return list(dict.fromkeys([*entries, *patterns]))


def _check_finished(roots: Sequence[str], storage: StorageConfig) -> None:
    for root in roots:
        begun = next((name for name in (RUN_FILE, FILTER_FILE) if exists(f"{root}/{name}", storage)), None)
        if begun and not exists(f"{root}/{SUCCESS_FILE}", storage):
            raise ManifestError(
                f"{root} is unfinished: it has {begun} but no {SUCCESS_FILE}. Run the command that writes it to its end, "
                "or filter what is there with --filter.allow_unfinished"
            )


def _identity(sources: Sequence[Source], roots: Sequence[str], rows: int, storage: StorageConfig) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps([source.file for source in sources]).encode()).hexdigest()
    made_of = {
        root: json.loads(read_bytes(f"{root}/{RUN_FILE}", storage)) for root in roots if exists(f"{root}/{RUN_FILE}", storage)
    }
    return {"files": len(sources), "files_sha256": digest, "rows": rows, "made_of": made_of}


def _layout(schemas: dict[str, pa.Schema], config: Config) -> Layout:
    names = dict.fromkeys(name for schema in schemas.values() for name in schema.names)
    prefix, chosen = config.output.column_prefix, config.input.columns

    def role(name: str, wanted: str | None) -> str | None:
        if wanted is not None and wanted not in names:
            raise ManifestError(f"no column {wanted!r} (--input.columns.{name}); the columns are {', '.join(names)}")
        alike = (other for known in NAMES[name] for other in names if other.lower() == known)
        return wanted or next((other for other in alike if _may_be(name, other, schemas)), None)

    caption = role("caption", chosen.caption)
    per_caption = (*([caption] if caption else []), *(prefix + name for name in PER_CAPTION))
    lists = tuple(name for name in per_caption if _is_list_column(name, schemas))
    status = prefix + "status"
    return Layout(
        names=tuple(names),
        prefix=prefix,
        # of anybody's manifests: a column of this name is ours only beside a score
        status=status if status in names and prefix + "itm_score" in names else None,
        url=role("url", chosen.url),
        caption=caption,
        key=role("key", chosen.key),
        lists=lists,
        exploded=bool(lists) and config.filter.captions == "explode",
    )


def _may_be(role: str, name: str, schemas: dict[str, pa.Schema]) -> bool:
    """Whether a column holds what the role takes: bytes called `image` are no URLs."""
    kinds = {kind_of(schema.field(name).type) for schema in schemas.values() if name in schema.names}
    return kinds <= {*KINDS[role], Kind.NULL}


def _is_list_column(name: str, schemas: dict[str, pa.Schema]) -> bool:
    kinds = {url: schema.field(name).type for url, schema in schemas.items() if name in schema.names}
    known = {url: _is_list(kind) for url, kind in kinds.items() if not pt.is_null(kind)}
    if len(set(known.values())) > 1:
        url, other = (next(url for url in known if known[url] is listed) for listed in (True, False))
        raise ManifestError(f"column {name!r} holds lists in {url} and none in {other}: all files need the same")
    return any(known.values())


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def read_batches(run: Shard, layout: Layout, storage: StorageConfig, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a run, in order, with these of its columns that the file has; of list captions a row each where exploded.

    Raises ManifestError if the file is corrupt or has changed, StorageError if it cannot be read.
    """
    fs, path = open_filesystem(run.file.url, storage)
    with storage_errors(run.file.url), corrupt_errors(run.file):
        if is_local(run.file.url):
            with pq.ParquetFile(path, buffer_size=LOCAL_BUFFER, pre_buffer=False) as file:
                yield from _batches(file, run, layout, columns)
        else:
            with fs.open(path, "rb", cache_type="none", size=run.file.size) as source:
                file = pq.ParquetFile(source, buffer_size=REMOTE_BUFFER, pre_buffer=False)
                yield from _batches(file, run, layout, columns)


def _batches(file: pq.ParquetFile, run: Shard, layout: Layout, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    wanted = [name for name in file.schema_arrow.names if name in columns]
    lengths = [name for name in (layout.caption, layout.ranking) if name in layout.lists][:1] if layout.exploded else []
    read = [name for name in file.schema_arrow.names if name in {*wanted, *lengths}]
    groups, rows, end, size = [], 0, 0, 0
    for group in range(file.metadata.num_row_groups):
        facts = file.metadata.row_group(group)
        first, end = end, end + facts.num_rows
        if run.first_row <= first and end <= run.first_row + run.rows and first < end:
            groups.append(group)
            rows, size = rows + facts.num_rows, size + facts.total_byte_size
    if rows != run.rows:
        raise ManifestError(f"{run.file.url} has changed since it was looked at: it has other row groups")
    schema = pa.schema([file.schema_arrow.field(name) for name in read], file.schema_arrow.metadata)
    empty = pa.RecordBatch.from_pylist([], schema=schema)
    batch_rows = max(64, min(BATCH_ROWS, BATCH_BYTES * rows // max(1, size)))
    batches = file.iter_batches(batch_rows, row_groups=groups, columns=read, use_threads=False) if groups else [empty]
    for batch in batches:
        ordered = batch.select(read)
        yield explode(ordered, layout.lists, lengths[0]).select(wanted) if lengths else ordered
