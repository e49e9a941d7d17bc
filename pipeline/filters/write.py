"""The second pass: rows are read again and written where their reason says, each file in one PUT, `_SUCCESS` last.

    OUTPUT/<as the input>.parquet            the rows that stay
    OUTPUT/_rejected/<as the input>.parquet  the others, with `drop_reason`
    OUTPUT/_uids.npy                         DataComp's file of uids: sorted pairs of uint64
    OUTPUT/_img2dataset/00000.parquet        url and caption of the rows that stay, flat, as img2dataset reads a folder
    OUTPUT/_FILTER.json                      what this output is made of, and the names of its files; another is refused
    OUTPUT/_SUCCESS                          JSON summary; comes last

What is in underscored folders is passed over by those who read OUTPUT as a dataset. Knows nothing of how rows are chosen.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.dataset_settings import FilterConfig
from pipeline.errors import ManifestError, OutputError
from pipeline.filters.captions import best_only
from pipeline.filters.select import Reasons
from pipeline.filters.source import BATCH_BYTES, FILTER_FILE, Layout, read_batches
from pipeline.filters.values import View, parse_uids
from pipeline.output import ROW_GROUP_ROWS, SUCCESS_FILE
from pipeline.shards import Shard

METADATA_KEY = b"capsieve_filter"
DROP_REASON = "drop_reason"
REJECTED = "_rejected"
IMG2DATASET = "_img2dataset"
UIDS_FILE = "_uids.npy"
UID_DTYPE = np.dtype("u8,u8")  # as DataComp's resharder reads: high and low half, sorted


@dataclass(frozen=True)
class Target:
    """Where a filter writes, and what."""

    url: str
    storage: StorageConfig
    settings: FilterConfig
    layout: Layout
    reasons: tuple[str, ...]  # as `select.Plan.reasons`
    provenance: Mapping[str, Any]  # of the whole output: rules, counts, source

    def at(self, name: str) -> str:
        """URL of a file of this output."""
        return f"{self.url}/{name}"

    def names(self, number: int, run: Shard) -> dict[str, str]:
        """The files that are written of a run, by kind."""
        names = {
            "manifest": run.name,
            "rejected": f"{REJECTED}/{run.name}",
            "img2dataset": f"{IMG2DATASET}/{number:05d}.{self.settings.img2dataset_format}",
        }
        return {kind: name for kind, name in names.items() if kind in self.settings.write}


class Written(NamedTuple):
    """What was written of a run."""

    kept: int
    rejected: int
    listed: int  # rows in img2dataset's list
    uids: npt.NDArray[np.uint64]  # (n, 2)


# ------------------------------------------------------------------ whose folder


def claim(url: str, identity: Mapping[str, Any], names: list[str], config: StorageConfig, *, overwrite: bool) -> dict[str, Any]:
    """Make the folder this filter's; returns the summary of an earlier one that made the same of the same, else {}.

    Raises OutputError where the folder holds anything else. Overwriting deletes the files that the earlier filter noted, and
    nothing else.
    """
    storage.probe(url, config)
    files = {file.url.removeprefix(url + "/") for file in storage.list_files(url, config)}
    earlier = json.loads(storage.read_bytes(f"{url}/{FILTER_FILE}", config)) if FILTER_FILE in files else None
    if earlier is None and files:
        raise OutputError(f"{url} holds files that no filter wrote (e.g. {min(files)}): name an empty folder as --output.path")
    if earlier is not None and overwrite:
        old = [name for name in (SUCCESS_FILE, *earlier["names"], FILTER_FILE) if name in files]  # _SUCCESS first
        storage.delete_files([f"{url}/{name}" for name in old], config)
    elif earlier is not None:
        _compare(url, earlier["made_of"], identity)
        if SUCCESS_FILE in files:
            summary: dict[str, Any] = json.loads(storage.read_bytes(f"{url}/{SUCCESS_FILE}", config))
            return summary
    text = json.dumps({"made_of": identity, "names": names}, indent=2, sort_keys=True)
    storage.write_bytes(f"{url}/{FILTER_FILE}", text.encode(), config)
    return {}


def _compare(url: str, found: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(identity))
    differing = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if differing:
        raise OutputError(
            f"{url} was made of other things (other {', other '.join(differing)}): "
            "name another --output.path, or start over with --output.overwrite"
        )


# ------------------------------------------------------------------ files


class _Parquet:
    """A Parquet file in the making, in memory: batches in, bytes out."""

    def __init__(self, metadata: bytes) -> None:
        self._metadata = metadata
        self._sink = io.BytesIO()
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []  # until they fill a row group

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._waiting.append(batch)
        rows = sum(waiting.num_rows for waiting in self._waiting)
        if rows >= ROW_GROUP_ROWS or sum(waiting.nbytes for waiting in self._waiting) >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting)
        self._waiting = []
        if self._writer is None:
            metadata = {**(table.schema.metadata or {}), METADATA_KEY: self._metadata}
            self._writer = pq.ParquetWriter(self._sink, table.schema.with_metadata(metadata), compression="zstd")
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))

    def close(self) -> bytes:
        """The file."""
        if self._waiting or self._writer is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()
        return self._sink.getvalue()


def write_run(target: Target, number: int, run: Shard, reasons: Reasons) -> Written:
    """Write the files of a run. Raises ManifestError where the input is not what it was in the first pass."""
    names = target.names(number, run)
    metadata = json.dumps({**target.provenance, "file": {**run.file._asdict(), "first_row": run.first_row, "rows": run.rows}})
    files = {kind: _Parquet(metadata.encode()) for kind in names}
    uids: list[npt.NDArray[np.uint64]] = []
    at = kept_rows = listed = 0
    for batch in read_batches(run, target.layout, target.storage, _columns(target)):
        part = reasons[at : at + batch.num_rows]
        at += batch.num_rows
        kept = batch.filter(pa.array(part == 0))
        kept_rows += kept.num_rows
        if "manifest" in files:
            files["manifest"].add(_kept_columns(kept, target))
        if "rejected" in files:
            files["rejected"].add(_with_reason(batch.filter(pa.array(part != 0)), part[part != 0], target.reasons))
        if "img2dataset" in files:
            entry = _listed(kept, target)
            listed += entry.num_rows
            files["img2dataset"].add(entry)
        if "uids" in target.settings.write:
            uids.append(_uids(kept, run, target.layout))
    if at != len(reasons):
        raise ManifestError(f"{run.file.url} has changed: it had {len(reasons)} rows in the first pass, now {at}")
    for kind, name in names.items():
        data = files[kind].close()
        data = _as_csv(data) if name.endswith(".csv") else data
        storage.write_bytes(target.at(name), data, target.storage)
    found = np.concatenate(uids) if uids else np.zeros((0, 2), np.uint64)
    return Written(kept_rows, at - kept_rows, listed, found)


def _columns(target: Target) -> list[str]:
    """What the second pass reads."""
    layout, settings = target.layout, target.settings
    if "rejected" in settings.write or ("manifest" in settings.write and settings.columns == "all"):
        return list(layout.names)
    wanted: set[str | None] = set()
    wanted |= set(layout.names) - layout.added if "manifest" in settings.write else set()
    wanted |= {layout.key} if "uids" in settings.write else set()
    wanted |= {layout.url, layout.caption} if "img2dataset" in settings.write else set()
    wanted |= {layout.ranking} if layout.lists and layout.caption in wanted else set()
    return [name for name in layout.names if name in wanted]


def _kept_columns(kept: pa.RecordBatch, target: Target) -> pa.RecordBatch:
    layout = target.layout
    if target.settings.captions == "best" and layout.lists:
        kept = best_only(kept, layout.lists, View(kept, layout).best)
    if target.settings.columns == "input":
        kept = kept.select([name for name in kept.schema.names if name not in layout.added])
    return kept


def _with_reason(rejected: pa.RecordBatch, reasons: Reasons, names: tuple[str, ...]) -> pa.RecordBatch:
    rejected = rejected.select([name for name in rejected.schema.names if name != DROP_REASON])  # of an earlier filter
    return rejected.append_column(DROP_REASON, pa.array(names).take(pa.array(reasons)))


def _listed(kept: pa.RecordBatch, target: Target) -> pa.RecordBatch:
    """URL and caption of the rows that have a URL, under the names that img2dataset takes by default."""
    view = View(kept, target.layout)
    columns = [view.array(name).cast(pa.string()) for name in (target.layout.url, target.layout.caption) if name is not None]
    listed = pa.RecordBatch.from_arrays(columns, names=["url", "caption"])
    return listed.filter(listed.column("url").is_valid())


def _as_csv(data: bytes) -> bytes:
    """A list as CSV. Line breaks in captions become spaces: img2dataset's reader takes them for the ends of rows."""
    table = pq.read_table(pa.BufferReader(data))
    plain = [pc.replace_substring_regex(column, r"[\r\n]+", " ") for column in table.columns]
    sink = io.BytesIO()
    pyarrow.csv.write_csv(pa.table(plain, names=table.column_names), sink)
    return sink.getvalue()


def _uids(kept: pa.RecordBatch, run: Shard, layout: Layout) -> npt.NDArray[np.uint64]:
    column = View(kept, layout).array(layout.key or "")
    halves, right = parse_uids(column)
    if not right.all():
        value = column[int(np.flatnonzero(~right)[0])].as_py()
        raise ManifestError(
            f"{run.file.url}: {value!r} in column {layout.key!r} is no uid of DataComp's (32 hexadecimal digits): "
            "name another with --input.columns.key, or leave uids out of --filter.write"
        )
    return halves


# ------------------------------------------------------------------ end


def write_uids(target: Target, uids: list[npt.NDArray[np.uint64]]) -> int:
    """Write DataComp's file, each uid once; returns how many. Empties the list, so that all are held once only."""
    pairs = np.concatenate(uids) if uids else np.zeros((0, 2), np.uint64)
    uids.clear()
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    new = np.ones(len(pairs), np.bool_)
    new[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    if not new.all():
        pairs = pairs[new]
    sink = io.BytesIO()
    np.save(sink, np.ascontiguousarray(pairs).view(UID_DTYPE).reshape(-1))
    storage.write_bytes(target.at(UIDS_FILE), sink.getvalue(), target.storage)
    return len(pairs)


def finish(target: Target, summary: Mapping[str, Any]) -> None:
    """Write `_SUCCESS`, the sign that all files are there."""
    storage.write_bytes(target.at(SUCCESS_FILE), json.dumps(summary, indent=2).encode(), target.storage)
