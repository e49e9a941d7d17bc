"""What is written, exactly once: staged parts, and the commit of a shard.

    OUTPUT/<shard>                                        a final file: its rows in input order, input columns first
    OUTPUT/_run.json                                      what this output is made of; another model or setting is refused
    OUTPUT/_lease.json                                    which run writes here now (`lease`)
    OUTPUT/_retry.json                                    a second chance that has begun and not ended (`resume`)
    OUTPUT/_staging/<shard>/<first row>-<rows>-<id>.parquet   scored rows that no final file holds yet
    OUTPUT/_log/                                          what happened in each run (`watching.journal`)
    OUTPUT/_SUCCESS                                       JSON summary; comes last, goes when there is more to do

A part's name comes from its rows: a task that is run again writes the same name with the same rows. A commit reads all
parts of a shard, drops repeats, checks that each row is there, and writes the final file in one PUT; nothing needs a
rename. Parts that were staged for another model, or of another version of the input file, are never used.
Knows nothing of Ray, of images or of models; of what a start finds, `resume` knows.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import lease, storage
from pipeline.config import StorageConfig
from pipeline.errors import CapsieveError, ManifestError, StorageError
from pipeline.manifest import Shard, read_rows
from pipeline.patience import patiently
from pipeline.provenance import Counts as Counts
from pipeline.provenance import FileFacts, PartFacts, checksum, file_facts, fingerprint, part_facts, source_of, with_facts
from pipeline.schema import COSTS, RECEIPT, Status, part_schema
from pipeline.tallies import Tallies, tally

log = logging.getLogger(__name__)

RUN_FILE = "_run.json"
PROVENANCE = "provenance"  # settings and versions in RUN_FILE, beside the identity, and not compared
RETRY_FILE = "_retry.json"
SUCCESS_FILE = "_SUCCESS"
STAGING = "_staging"
LOG_FOLDER = "_log"
HISTORY_FILE = f"{LOG_FOLDER}/run.json"
# 64k rows: some 10 MB of URLs and scores, small enough for statistics to prune, large enough to compress.
ROW_GROUP_ROWS = 65_536
READ_THREADS = 16  # parts are small and may be far away: the wait is for the store


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
    identity: Mapping[str, Any]  # what the output is made of; see `resume.claim`
    provenance: Mapping[str, Any] = field(default_factory=dict)  # settings and versions, for the files' metadata
    run: str = ""  # that holds the lease; empty: nobody asks for one
    attempt: int = 0  # which time rows are scored; a second chance has the next number

    def at(self, name: str) -> str:
        """URL of a file of this output."""
        return f"{self.url}/{name}"

    def staging(self, shard: Shard) -> str:
        """Folder of a shard's parts."""
        return self.at(f"{STAGING}/{shard.name}")

    @property
    def score_names(self) -> list[str]:
        """The names of our columns in final files."""
        return [self.prefix + name for name in self.scores.names]


class Staged(NamedTuple):
    """What a start finds."""

    done: dict[str, Committed]  # by name of the shard
    # by name of the shard: rows that parts hold, or, where a final file gets a second chance, that it keeps; sorted
    rows: dict[str, npt.NDArray[np.int64]]


class Part(NamedTuple):
    """A staged part that is of this output and of its shard as it is now."""

    url: str
    table: pa.Table
    facts: PartFacts


# ------------------------------------------------------------------ stage


def stage(output: Output, shards: tuple[Shard, ...], scored: pa.Table) -> pa.Table:
    """Write the rows of a block of `schema.scored_schema` as one part a shard; return `schema.RECEIPT`, one row a part."""
    receipts = []
    made_of = fingerprint(output.identity)
    for index in pc.unique(scored["shard"]).to_pylist():
        own = scored.filter(pc.equal(scored["shard"], index)).sort_by("row")
        part = own.select(part_schema(output.scores).names)
        rows = part["row"].to_numpy()
        again = f"{output.attempt}-" if output.attempt else ""
        name = f"{rows[0]}-{len(rows)}-{again}{hashlib.sha256(rows.tobytes()).hexdigest()[:8]}.parquet"
        found = Counter(zip(own["status"].to_pylist(), own["error_message"].to_pylist(), strict=True))  # some hundred rows
        data = to_parquet(with_facts(part, PartFacts(made_of, source_of(shards[index]), output.attempt)))
        _write(output, f"{output.staging(shards[index])}/{name}", data)
        receipts.append(
            {
                "shard": index,
                "rows": rows.astype("<i8").tobytes(),
                "counts": [{"status": s, "reason": reason, "rows": count} for (s, reason), count in found.items()],
                **{cost: pc.sum(own[cost]).as_py() for cost in COSTS.names},
            }
        )
    return pa.Table.from_pylist(receipts, schema=RECEIPT)


def to_parquet(table: pa.Table) -> bytes:
    """The table as a file, in row groups of `ROW_GROUP_ROWS`."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    return sink.getvalue()


def _write(output: Output, url: str, data: bytes) -> None:
    patiently(lambda: storage.write_bytes(url, data, output.storage), output.storage)


# ------------------------------------------------------------------ commit


def commit(output: Output, shard: Shard, url_column: str | None = None) -> Committed:
    """Write a shard's final file from its parts and its input rows, then remove the parts.

    Returns what became of its rows, by host and image as well where there is a column of URLs. May be run again after it died
    anywhere in between. Where there is a final file of an earlier attempt, rows that no part holds keep what it says. Raises
    MissingRowsError where parts don't cover the shard, ManifestError where the input file has changed, OutputError where
    another run has taken the output over.
    """
    urls = [file.url for file in patiently(lambda: storage.list_files(output.staging(shard), output.storage), output.storage)]
    before = _own_final(output, shard)
    parts = read_parts(output, shard, urls)
    if before is not None and all(part.facts.attempt <= before.attempt for part in parts):
        committed = Committed(before.counts, before.tallies)  # an earlier try of this commit came as far as the final file
    else:
        committed = _write_final(output, shard, parts, before, url_column)
    patiently(lambda: storage.delete_files(urls, output.storage), output.storage)
    return committed


def _own_final(output: Output, shard: Shard) -> FileFacts | None:
    """What a final file says that was made of the same model and the same rows; None if there is none."""
    facts = patiently(lambda: read_facts(output, shard.name), output.storage)
    if facts is None or fingerprint(facts.identity) != fingerprint(output.identity) or facts.source != source_of(shard):
        return None
    return facts


def _write_final(
    output: Output, shard: Shard, parts: Sequence[Part], before: FileFacts | None, url_column: str | None
) -> Committed:
    tables = [part.table for part in parts]
    if before is not None:
        tables = [part.table for part in parts if part.facts.attempt > before.attempt]
        tables.append(_kept_rows(output, shard, tables))
    held = pa.concat_tables(tables) if tables else part_schema(output.scores).empty_table()
    scores = merge_parts(held, shard.rows)
    table = patiently(lambda: _input_rows(output, shard), output.storage)
    committed = Committed(_count(scores), tally(table[url_column] if url_column else None, scores))
    for name, kind in zip(output.scores.names, output.scores.types, strict=True):
        column = scores[name].dictionary_encode() if pa.types.is_dictionary(kind) else scores[name]
        table = table.append_column(pa.field(output.prefix + name, kind), column.cast(kind))
    facts = FileFacts(
        identity=dict(output.identity),
        source=source_of(shard),
        attempt=output.attempt,
        counts=committed.counts,
        tallies=committed.tallies,
        checksums=[
            checksum(table.slice(start, ROW_GROUP_ROWS).select(output.score_names))
            for start in range(0, table.num_rows, ROW_GROUP_ROWS)
        ],
        provenance=dict(output.provenance),
    )
    data = to_parquet(with_facts(table, facts))
    if output.run and patiently(lambda: lease.holder_of(output.url, output.storage), output.storage) != output.run:
        raise lease.lost(output.url)
    _write(output, output.at(shard.name), data)
    log.info("committed %s: %d rows", shard.name, shard.rows)
    return committed


def _input_rows(output: Output, shard: Shard) -> pa.Table:
    table = read_rows(shard, output.storage)
    now = storage.find_file(shard.file.url, output.storage)
    # asked after reading: whatever was read since the start was this version, then
    if now is None or (now.size, now.version) != (shard.file.size, shard.file.version):
        raise ManifestError(f"{shard.file.url} has changed since the run began: leave manifests alone while they are scored")
    return table


def _kept_rows(output: Output, shard: Shard, replaced: Sequence[pa.Table]) -> pa.Table:
    """The rows of a final file, as a part, without those that parts replace."""
    data = patiently(lambda: storage.read_bytes(output.at(shard.name), output.storage), output.storage)
    table = pq.read_table(io.BytesIO(data), columns=output.score_names).rename_columns(output.scores.names)
    table = table.add_column(0, "row", pa.array(np.arange(table.num_rows)))
    kept = np.ones(table.num_rows, dtype=bool)
    for part in replaced:
        kept[part["row"].to_numpy()] = False
    return table.filter(pa.array(kept)).cast(part_schema(output.scores)).replace_schema_metadata(None)


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


def read_parts(output: Output, shard: Shard, urls: Iterable[str], columns: list[str] | None = None) -> list[Part]:
    """Those of a shard's files that are parts of this output's model and of this version of the input, oldest attempt first."""
    made_of, source = fingerprint(output.identity), source_of(shard)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        parts = [part for part in pool.map(lambda url: read_part(output, url, columns), sorted(urls)) if part is not None]
    own = [part for part in parts if part.facts.made_of == made_of and part.facts.source == source]
    return sorted(own, key=lambda part: (part.facts.attempt, part.url))


def read_part(output: Output, url: str, columns: list[str] | None = None) -> Part | None:
    """A staged part; None for what is not one, is damaged, or is gone: its rows are scored again."""
    try:
        data = patiently(lambda: storage.read_bytes(url, output.storage), output.storage)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    try:
        table = pq.read_table(io.BytesIO(data), columns=columns)
    except (pa.ArrowException, OSError):
        return None
    facts = part_facts(table.schema.metadata)
    return Part(url, table.replace_schema_metadata(None), facts) if facts is not None else None


def read_facts(output: Output, name: str) -> FileFacts | None:
    """What the final file of a shard says of itself; None if there is none, or if it is not ours."""
    url = output.at(name)
    if not storage.exists(url, output.storage):
        return None
    fs, path = storage.open_filesystem(url, output.storage)
    with storage.storage_errors(url), fs.open(path, "rb") as file:
        try:
            return file_facts(pq.read_metadata(file).metadata)
        except pa.ArrowInvalid:
            return None


def _count(scores: pa.Table) -> Counts:
    grouped = scores.group_by(["status", "error_message"]).aggregate([("row", "count")])
    return Counter({(row["status"], row["error_message"]): row["row_count"] for row in grouped.to_pylist()})


# ------------------------------------------------------------------ end


def finish(output: Output, summary: Mapping[str, Any]) -> None:
    """Write `_SUCCESS`, the sign that every shard is committed, and remove what repeated tasks staged after a commit."""
    patiently(lambda: storage.delete_folder(output.at(STAGING), output.storage), output.storage)
    patiently(lambda: storage.delete_files([output.at(RETRY_FILE)], output.storage), output.storage)
    _write(output, output.at(SUCCESS_FILE), json.dumps(summary, indent=2).encode())
