"""Checks an output against its manifest: every row once and in order, counts, checksums, schemas, nothing left over.

Reads everything and writes nothing; a row group at a time, so that memory stays bounded however large the output. Knows nothing
of how the output came to be, beyond what its files say of themselves.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import Config, StorageConfig
from pipeline.errors import OutputError
from pipeline.lease import LEASE_FILE
from pipeline.manifest import Manifest, Shard, find_manifest, read_rows
from pipeline.output import PROVENANCE, RUN_FILE, STAGING, SUCCESS_FILE
from pipeline.provenance import Counts, FileFacts, checksum, differences, file_facts, source_of
from pipeline.schema import SCORE_COLUMNS, Status, score_schema

THREADS = 4  # files at a time; each holds a row group twice
# (lowest, highest); cosines of unit vectors exceed 1 by rounding
RANGES = {"itm_score": (0.0, 1.0), "itm_logit": (-1e9, 1e9), "itc_similarity": (-1.001, 1.001)}


class Report(NamedTuple):
    """What was checked, and what is wrong."""

    files: int
    rows: int
    counts: Counts
    faults: list[str]
    notes: list[str]  # what is worth knowing and no fault

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        by_status: Counter[str] = Counter()
        for (status, _), rows in self.counts.items():
            by_status[status] += rows
        return {
            "files": self.files,
            "rows": self.rows,
            "status": dict(sorted(by_status.items())),
            "faults": self.faults,
            "notes": self.notes,
        }


class _File(NamedTuple):
    counts: Counts
    rows: int
    faults: list[str]


class _Made(NamedTuple):
    """What the output was made of and with."""

    identity: dict[str, Any]
    provenance: dict[str, Any]
    success: dict[str, Any] | None


class _Standard(NamedTuple):
    """What the files are held against."""

    made: _Made
    manifest: Manifest
    storage: StorageConfig


def verify(output_url: str, config: Config) -> Report:
    """Check the output at `output_url` against the manifest of `config.input`, or against the one it was made of.

    Raises OutputError where there is no output, ManifestError and StorageError where the manifest or a store cannot be read.
    """
    files = [file.url.removeprefix(output_url + "/") for file in storage.list_files(output_url, config.storage)]
    made = _read_made(output_url, files, config.storage)
    manifest = _manifest(made, config)
    standard = _Standard(made, manifest, config.storage)
    shards = {shard.name: shard for shard in manifest.shards}
    finals = sorted(name for name in files if name.endswith(".parquet") and not name.startswith(STAGING + "/"))
    missing = [name for name in shards if name not in finals]
    faults = [f"{name}: there is no such file, of {shards[name].rows:,} rows" for name in missing]
    notes: list[str] = []
    known = [name for name in finals if name in shards]

    def check(name: str) -> _File:
        return _check_file(f"{output_url}/{name}", shards[name], standard)

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(check, known))
    for name in sorted(set(finals) - set(known)):
        facts = _facts(f"{output_url}/{name}", config.storage)
        if facts is None:
            faults.append(f"{name}: not a file of capsieve's")
        else:
            notes.append(
                f"{name}: its input, {facts.source['url']}, is not in the manifest any more; {facts.source['rows']:,} rows"
            )
    counts = sum((result.counts for result in results), Counter[tuple[str, str | None]]())
    faults += [f"{name}: {fault}" for name, result in zip(known, results, strict=True) for fault in result.faults]
    faults += _check_folder(files, made, manifest, counts)
    return Report(len(known), sum(result.rows for result in results), counts, faults, notes)


def _read_made(output_url: str, files: Sequence[str], config: StorageConfig) -> _Made:
    if RUN_FILE not in files:
        raise OutputError(f"{output_url} is no output of capsieve's: it has no {RUN_FILE}")
    identity = json.loads(storage.read_bytes(f"{output_url}/{RUN_FILE}", config))
    provenance = identity.pop(PROVENANCE, {})
    success = json.loads(storage.read_bytes(f"{output_url}/{SUCCESS_FILE}", config)) if SUCCESS_FILE in files else None
    return _Made(identity, provenance, success)


def _manifest(made: _Made, config: Config) -> Manifest:
    """The manifest of the settings, else that of the run; cut as the run cut it."""
    recorded = (made.success or made.provenance).get("settings", {}).get("input", {})
    settings = config.input.model_dump(mode="json")
    if not config.input.manifest:
        settings = recorded
    if not settings.get("manifest"):
        raise OutputError("the output does not say which manifest it was made of: name it with --input.manifest")
    settings["columns"] = made.identity["columns"]
    return find_manifest(type(config.input).model_validate(settings), config.storage, made.identity["rows_per_output_file"])


def _check_folder(files: Sequence[str], made: _Made, manifest: Manifest, counts: Counts) -> Iterator[str]:
    staged = [name for name in files if name.startswith(STAGING + "/")]
    if staged:
        yield f"{len(staged)} parts are staged and not committed: run the same command again"
    if LEASE_FILE in files:
        yield f"{LEASE_FILE} is there: a run is writing, or died"
    if made.success is None:
        yield f"no {SUCCESS_FILE}: the run has not ended"
        return
    if made.success["made_of"] != made.identity:
        yield f"{SUCCESS_FILE} was made with other settings: {differences(made.success['made_of'], made.identity)}"
    by_status: Counter[str] = Counter()
    for (status, _), rows in counts.items():
        by_status[status] += rows
    said, found = made.success["status"], dict(by_status)
    if made.success["rows"] != manifest.rows or said != found:
        yield f"{SUCCESS_FILE} says {made.success['rows']:,} rows, {said}; found {manifest.rows:,} rows, {found}"


# ------------------------------------------------------------------ one file


def _facts(url: str, config: StorageConfig) -> FileFacts | None:
    fs, path = storage.open_filesystem(url, config)
    with storage.storage_errors(url), fs.open(path, "rb") as file, suppress(pa.ArrowInvalid):
        return file_facts(pq.read_metadata(file).metadata)
    return None


def _check_file(url: str, shard: Shard, standard: _Standard) -> _File:
    fs, path = storage.open_filesystem(url, standard.storage)
    with storage.storage_errors(url), fs.open(path, "rb") as source:
        try:
            file = pq.ParquetFile(source)
            facts = file_facts(file.metadata.metadata)
            if facts is None:
                return _File(Counter(), file.metadata.num_rows, ["not a file of capsieve's: no provenance in its metadata"])
            faults = list(_check_facts(facts, file, shard, standard.made))
            if file.metadata.num_rows != shard.rows:
                return _File(facts.counts, file.metadata.num_rows, faults)
            counts: Counts = Counter()
            for group in range(file.metadata.num_row_groups):
                faults += _check_group(file, group, facts, shard, standard, counts)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            return _File(Counter(), 0, [f"damaged: {str(error).splitlines()[0][:200]}"])
    if counts != facts.counts:
        faults.append(f"counts in its metadata are {_plain(facts.counts)}, of its rows {_plain(counts)}")
    return _File(counts, file.metadata.num_rows, faults)


def _plain(counts: Counts) -> dict[str, int]:
    return {f"{status} {reason or ''}".strip(): rows for (status, reason), rows in sorted(counts.items(), key=str)}


def _check_facts(facts: FileFacts, file: pq.ParquetFile, shard: Shard, made: _Made) -> Iterator[str]:
    if facts.identity != made.identity:
        yield f"made with other settings than {RUN_FILE} says: {differences(facts.identity, made.identity)}"
    if facts.source != source_of(shard):
        yield f"its input has changed since: {differences(facts.source, source_of(shard))}"
    if file.metadata.num_rows != shard.rows:
        yield f"{file.metadata.num_rows:,} rows, but its input has {shard.rows:,}"
    if len(facts.checksums) != file.metadata.num_row_groups:
        yield f"{file.metadata.num_row_groups} row groups, but {len(facts.checksums)} checksums"


def _check_group(
    file: pq.ParquetFile, group: int, facts: FileFacts, shard: Shard, standard: _Standard, counts: Counts
) -> Iterator[str]:
    """Faults of a row group; adds its rows to `counts`."""
    start = sum(file.metadata.row_group(before).num_rows for before in range(group))
    table = file.read_row_group(group)
    where = f"rows {start:,} to {start + table.num_rows - 1:,}"
    rows = read_rows(shard, standard.storage, None, start, start + table.num_rows)
    scores = _scores(table, rows, standard)
    if scores is None:
        yield f"{where}: columns are {', '.join(table.column_names)}"
        return
    for name in rows.column_names:
        if not _same(table[name], rows[name]):
            yield f"{where}: column {name} is not the input's"
    if group < len(facts.checksums) and checksum(scores) != facts.checksums[group]:
        yield f"{where}: the scores do not have the checksum that they were written with"
    prefix = standard.made.identity["column_prefix"]
    plain = scores.rename_columns([name.removeprefix(prefix) for name in scores.column_names])
    for row in plain.group_by(["status", "error_message"]).aggregate([("status", "count")]).to_pylist():
        counts[row["status"], row["error_message"]] += row["status_count"]
    for fault in _check_scores(plain, lists=standard.manifest.captions_are_lists):
        yield f"{where}: {fault}"


def _scores(table: pa.Table, rows: pa.Table, standard: _Standard) -> pa.Table | None:
    """Our columns of a table, if its columns are the input's and then ours, of the right types."""
    prefix, embedded = standard.made.identity["column_prefix"], standard.made.identity["image_embedding"]
    names = [prefix + name for name in (*SCORE_COLUMNS, *(["image_embedding"] if embedded else []))]
    if table.column_names != [*rows.column_names, *names]:
        return None
    dim = table.schema.field(prefix + "image_embedding").type.list_size if embedded else None
    wanted = score_schema(lists=standard.manifest.captions_are_lists, embedding_dim=dim)
    types_right = all(table.schema.field(prefix + field.name).type == field.type for field in wanted)
    return table.select(names) if types_right else None


def _same(found: pa.ChunkedArray, wanted: pa.ChunkedArray) -> bool:
    if found.type != wanted.type:
        return False
    # Arrow's comparison takes NaN for different from itself, and dictionaries in another order for different values
    return bool(found.equals(wanted)) or repr(found.to_pylist()) == repr(wanted.to_pylist())


def _check_scores(scores: pa.Table, *, lists: bool) -> Iterator[str]:
    status = scores["status"].cast(pa.string())
    unknown = set(pc.unique(status).to_pylist()) - set(Status)
    if unknown:
        yield f"status {sorted(map(str, unknown))} is none of ours"
    success = pc.equal(status, Status.SUCCESS)
    if not pc.all(pc.equal(pc.is_null(scores["error_message"]), success)).as_py():
        yield "error_message is not null exactly where status is success"
    for name, (lowest, highest) in RANGES.items():
        column = scores[name]
        if not pc.all(pc.equal(column.is_valid(), success)).as_py():
            yield f"{name} is not there exactly where status is success"
        values = (pc.list_flatten(column) if lists else column).drop_null()
        inside = pc.and_(pc.greater_equal(values, lowest), pc.less_equal(values, highest))  # False for NaN
        if len(values) and not pc.all(inside).as_py():
            yield f"{name} is not within {lowest:g} and {highest:g} everywhere"
