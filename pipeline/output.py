"""What is written, exactly once: staged parts, the commit of a shard, what a restart finds, provenance.

    OUTPUT/<shard>                                        a final file: its rows in input order, input columns first
    OUTPUT/_run.json                                      what this output is made of; another model or setting is refused
    OUTPUT/_staging/<shard>/<first row>-<rows>-<id>.parquet   scored rows that no final file holds yet
    OUTPUT/_SUCCESS                                       JSON summary; comes last

A part's name comes from its rows: a task that is run again writes the same name with the same rows. A commit reads all
parts of a shard, drops repeats, checks that each row is there, and writes the final file in one PUT; nothing needs a
rename. Knows nothing of Ray, of images or of models.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.errors import CapsieveError, OutputError
from pipeline.manifest import Manifest, Shard, read_rows
from pipeline.schema import COSTS, RECEIPT, Status, part_schema
from pipeline.tallies import Tallies, tally

log = logging.getLogger(__name__)

RUN_FILE = "_run.json"
SUCCESS_FILE = "_SUCCESS"
STAGING = "_staging"
METADATA_KEY = b"capsieve"
# 64k rows: some 10 MB of URLs and scores, small enough for statistics to prune, large enough to compress.
ROW_GROUP_ROWS = 65_536

Counts = Counter[tuple[str, str | None]]  # (status, error_message) -> rows


class Committed(NamedTuple):
    """What became of a shard's rows."""

    counts: Counts
    tallies: Tallies = Tallies()


class MissingRowsError(CapsieveError):
    """A shard was to be committed though no part holds some of its rows: they have to be scored again."""


@dataclass(frozen=True)
class Output:
    """Where a run writes, and in which form. Travels to workers."""

    url: str
    storage: StorageConfig
    scores: pa.Schema  # schema.score_schema: names without prefix
    prefix: str
    identity: Mapping[str, Any]  # what the output is made of; see `claim`

    def at(self, name: str) -> str:
        """URL of a file of this output."""
        return f"{self.url}/{name}"

    def staging(self, shard: Shard) -> str:
        """Folder of a shard's parts."""
        return self.at(f"{STAGING}/{shard.name}")


class Staged(NamedTuple):
    """What a restart finds."""

    done: dict[str, Committed]  # by name of the shard
    rows: dict[str, npt.NDArray[np.int64]]  # by name of the shard: rows that parts hold, sorted


# ------------------------------------------------------------------ start


def check_columns(manifest: Manifest, output: Output) -> None:
    """Raise OutputError where the manifest has columns of our names already."""
    clash = sorted({output.prefix + name for name in output.scores.names} & set(manifest.schema.names))
    if clash:
        names = ", ".join(clash)
        raise OutputError(f"the manifest has columns named {names} already: set --output.column_prefix, e.g. capsieve_")


def claim(output: Output, *, overwrite: bool) -> None:
    """Make the folder this run's: refuse what another run made of other things, resume what this one began.

    Raises OutputError with the difference, StorageError where the folder cannot be read or written.
    """
    storage.probe(output.url, output.storage)
    files = [file.url for file in storage.list_files(output.url, output.storage)]
    run_file = output.at(RUN_FILE)
    if overwrite:
        storage.delete_files([url for url in files if _is_ours(url.removeprefix(output.url + "/"))], output.storage)
    elif run_file in files:
        _compare(json.loads(storage.read_bytes(run_file, output.storage)), output)
        return
    elif files:
        raise OutputError(
            f"{output.url} holds files that capsieve did not write (e.g. {files[0]}): name an empty folder as --output.path"
        )
    text = json.dumps(output.identity, indent=2, sort_keys=True)
    storage.write_bytes(run_file, text.encode(), output.storage)


def _is_ours(name: str) -> bool:
    return name in (RUN_FILE, SUCCESS_FILE) or name.startswith(STAGING + "/") or name.endswith(".parquet")


def _compare(found: Mapping[str, Any], output: Output) -> None:
    wanted = json.loads(json.dumps(output.identity))
    differences = [
        f"{name} was {found.get(name)!r}, now {wanted.get(name)!r}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if differences:
        raise OutputError(
            f"{output.url} was made with other settings ({'; '.join(differences)}): "
            "name another --output.path, or start over with --output.overwrite"
        )


def scan(output: Output, shards: Iterable[Shard]) -> Staged:
    """Read what is there of a run's shards: final files with their counts, and the rows of staged parts."""
    names = {shard.name for shard in shards}
    finals: list[str] = []
    parts: dict[str, list[str]] = {}
    for file in storage.list_files(output.url, output.storage):
        name = file.url.removeprefix(output.url + "/")
        if name.startswith(STAGING + "/"):
            parts.setdefault(name.removeprefix(STAGING + "/").rpartition("/")[0], []).append(file.url)
        elif name in names:
            finals.append(name)
    with ThreadPoolExecutor(16) as pool:
        done = dict(zip(finals, pool.map(lambda name: _read_committed(output, name), finals), strict=True))
        unfinished = [name for name in parts if name in names and name not in done]
        rows = dict(zip(unfinished, pool.map(lambda name: _staged_rows(output, parts[name]), unfinished), strict=True))
    # A run that died between a commit and the removal of its parts left these behind.
    storage.delete_files([url for name, urls in parts.items() if name in done for url in urls], output.storage)
    return Staged(done, rows)


def _read_committed(output: Output, name: str) -> Committed:
    fs, path = storage.open_filesystem(output.at(name), output.storage)
    with storage.storage_errors(output.at(name)), fs.open(path, "rb") as file:
        metadata = pq.read_metadata(file).metadata or {}
    provenance = json.loads(metadata[METADATA_KEY])
    counts = Counter({(status, reason): rows for status, reason, rows in provenance["counts"]})
    return Committed(counts, Tallies.from_json(provenance["tallies"]))


def _staged_rows(output: Output, urls: Iterable[str]) -> npt.NDArray[np.int64]:
    rows = [_read_part(output, url, columns=["row"])["row"].to_numpy() for url in urls]
    return np.unique(np.concatenate(rows))


# ------------------------------------------------------------------ stage


def stage(output: Output, shards: tuple[Shard, ...], scored: pa.Table) -> pa.Table:
    """Write the rows of a block of `schema.scored_schema` as one part a shard; return `schema.RECEIPT`, one row a part."""
    receipts = []
    for index in pc.unique(scored["shard"]).to_pylist():
        own = scored.filter(pc.equal(scored["shard"], index)).sort_by("row")
        part = own.select(part_schema(output.scores).names)
        rows = part["row"].to_numpy()
        name = f"{rows[0]}-{len(rows)}-{hashlib.sha256(rows.tobytes()).hexdigest()[:8]}.parquet"
        storage.write_bytes(f"{output.staging(shards[index])}/{name}", _to_parquet(part), output.storage)
        receipts.append(
            {
                "shard": index,
                "rows": rows.astype("<i8").tobytes(),
                "succeeded": pc.sum(pc.equal(own["status"], Status.SUCCESS)).as_py(),
                **{cost: pc.sum(own[cost]).as_py() for cost in COSTS.names},
            }
        )
    return pa.Table.from_pylist(receipts, schema=RECEIPT)


def _to_parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    return sink.getvalue()


# ------------------------------------------------------------------ commit


def commit(output: Output, shard: Shard, url_column: str | None = None) -> Committed:
    """Write a shard's final file from its parts and its input rows, then remove the parts.

    Returns what became of its rows, by host and image as well where there is a column of URLs. Raises MissingRowsError where
    parts don't cover the shard.
    """
    urls = sorted(file.url for file in storage.list_files(output.staging(shard), output.storage))
    tables = [_read_part(output, url) for url in urls]
    parts = pa.concat_tables(tables) if tables else part_schema(output.scores).empty_table()
    scores = merge_parts(parts, shard.rows)
    table = read_rows(shard, output.storage)
    committed = Committed(_count(scores), tally(table[url_column] if url_column else None, scores))
    for field in output.scores:
        column = scores[field.name].dictionary_encode() if pa.types.is_dictionary(field.type) else scores[field.name]
        table = table.append_column(pa.field(output.prefix + field.name, field.type), column.cast(field.type))
    metadata = {**(table.schema.metadata or {}), METADATA_KEY: _provenance(output, shard, committed)}
    table = table.replace_schema_metadata(metadata)
    storage.write_bytes(output.at(shard.name), _to_parquet(table), output.storage)
    storage.delete_files(urls, output.storage)
    log.info("committed %s: %d rows", shard.name, shard.rows)
    return committed


def merge_parts(parts: pa.Table, rows: int) -> pa.Table:
    """Each of `rows` rows once, in order, from parts that may overlap or repeat. Raises MissingRowsError otherwise.

    Of a row that was scored twice, a success is kept before a failure, else whichever came first in the parts' order.
    """
    failed = pc.cast(pc.not_equal(parts["status"], Status.SUCCESS), pa.int8())
    order = np.lexsort((failed.to_numpy(), parts["row"].to_numpy()))
    numbers = parts["row"].to_numpy()[order]
    first = np.ones(len(numbers), dtype=bool)
    first[1:] = numbers[1:] != numbers[:-1]
    kept = numbers[first]
    if len(kept) != rows or not np.array_equal(kept, np.arange(rows)):
        missing = np.setdiff1d(np.arange(rows), kept)
        foreign = np.setdiff1d(kept, np.arange(rows))
        raise MissingRowsError(
            f"{len(missing)} rows missing (first: {missing[:3]}), {len(foreign)} foreign (first: {foreign[:3]})"
        )
    return parts.take(pa.array(order[first]))


def _read_part(output: Output, url: str, columns: list[str] | None = None) -> pa.Table:
    return pq.read_table(io.BytesIO(storage.read_bytes(url, output.storage)), columns=columns)


def _count(scores: pa.Table) -> Counts:
    grouped = scores.group_by(["status", "error_message"]).aggregate([("row", "count")])
    return Counter({(row["status"], row["error_message"]): row["row_count"] for row in grouped.to_pylist()})


def _provenance(output: Output, shard: Shard, committed: Committed) -> bytes:
    source = {**shard.file._asdict(), "first_row": shard.first_row, "rows": shard.rows}
    totals = [[status, reason, rows] for (status, reason), rows in sorted(committed.counts.items(), key=str)]
    made_of = {**output.identity, "source": source, "counts": totals, "tallies": committed.tallies.as_json()}
    return json.dumps(made_of, sort_keys=True).encode()


# ------------------------------------------------------------------ end


def finish(output: Output, summary: Mapping[str, Any]) -> None:
    """Write `_SUCCESS`, the sign that every shard is committed, and remove what repeated tasks staged after a commit."""
    storage.delete_folder(output.at(STAGING), output.storage)
    storage.write_bytes(output.at(SUCCESS_FILE), json.dumps(summary, indent=2).encode(), output.storage)
