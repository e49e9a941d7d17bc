"""What a start finds in an output folder, and makes of it: refusal, resumption, a new beginning, a second chance.

Refused, with the difference: an output of another model or other settings, and files that were made of another version of
their input. Resumed: everything else that an earlier run left. Knows nothing of how rows are scored or committed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import OutputError
from pipeline.lease import LEASE_FILE
from pipeline.manifest import Manifest, Shard
from pipeline.output import (
    LOG_FOLDER,
    PROVENANCE,
    RETRY_FILE,
    RUN_FILE,
    STAGING,
    SUCCESS_FILE,
    Committed,
    Output,
    Part,
    Staged,
    read_facts,
    read_part,
    read_parts,
)
from pipeline.provenance import FileFacts, differences, fingerprint, source_of

THREADS = 16  # footers and parts are small and may be far away: the wait is for the store


class Start(NamedTuple):
    """Where a run begins."""

    output: Output  # with the number of this attempt
    staged: Staged


class Found(NamedTuple):
    """What is there of a run's shards."""

    attempt: int
    staged: Staged
    leftovers: list[str]  # parts that a final file has taken in: of a run that died between a commit and their removal


def check_columns(manifest: Manifest, output: Output) -> None:
    """Raise OutputError where the manifest has columns of our names already."""
    clash = sorted(set(output.score_names) & set(manifest.schema.names))
    if clash:
        names = ", ".join(clash)
        raise OutputError(f"the manifest has columns named {names} already: set --output.column_prefix, e.g. capsieve_")


def claim(output: Output, *, overwrite: bool) -> None:
    """Make the folder this run's: refuse what another run made of other things, resume what this one began.

    Raises OutputError with the difference, StorageError where the folder cannot be read or written.
    """
    names = list_names(output)
    if overwrite:
        storage.delete_files([output.at(name) for name in names if _is_ours(name)], output.storage)
    elif check_names(output, names):
        return
    text = json.dumps({**output.identity, PROVENANCE: output.provenance}, indent=2, sort_keys=True)
    storage.write_bytes(output.at(RUN_FILE), text.encode(), output.storage)


def list_names(output: Output) -> list[str]:
    """What is in the folder, the lease left out. Raises StorageError where it cannot be read."""
    storage.probe(output.url, output.storage)
    listed = [file.url.removeprefix(output.url + "/") for file in storage.list_files(output.url, output.storage)]
    return [name for name in listed if name != LEASE_FILE]


def check_names(output: Output, names: Sequence[str]) -> bool:
    """Whether a folder that holds these files is this run's already; False for an empty one. Writes nothing.

    Raises OutputError, with the difference, for what another run made of other things.
    """
    if RUN_FILE in names:
        found = json.loads(storage.read_bytes(output.at(RUN_FILE), output.storage))
        found.pop(PROVENANCE, None)
        difference = differences(found, output.identity)
        if difference:
            raise OutputError(
                f"{output.url} was made with other settings ({difference}): "
                "name another --output.path, or start over with --output.overwrite"
            )
        return True
    if names:
        raise OutputError(
            f"{output.url} holds files that capsieve did not write (e.g. {names[0]}): name an empty folder as --output.path"
        )
    return False


def _is_ours(name: str) -> bool:
    ours = name in (RETRY_FILE, SUCCESS_FILE) or name.startswith((STAGING + "/", LOG_FOLDER + "/"))
    return ours or name.endswith(".parquet")


# ------------------------------------------------------------------ what is there


def scan(output: Output, shards: Sequence[Shard], retry: Sequence[str] = ()) -> Start:
    """Read what is there of a run's shards: final files with their counts, and the rows of staged parts.

    `retry` (see `OutputConfig.retry`) gives the rows of final files that failed so a second chance. Deletes parts that a
    final file has taken in, and `_SUCCESS` where there is something to do. Raises OutputError where the input of a file or
    of a part has changed since.
    """
    found = look(output, shards, retry)
    if retry and not _begun(output, retry):
        storage.write_bytes(output.at(RETRY_FILE), json.dumps(_retry_note(found.attempt, retry)).encode(), output.storage)
    storage.delete_files(found.leftovers, output.storage)
    if len(found.staged.done) < len(shards):
        storage.delete_files([output.at(SUCCESS_FILE)], output.storage)
    return Start(replace(output, attempt=found.attempt), found.staged)


def look(output: Output, shards: Sequence[Shard], retry: Sequence[str] = ()) -> Found:
    """What `scan` finds, without its changes: nothing is written or deleted."""
    by_name = {shard.name: shard for shard in shards}
    finals, parts = _read_all(output, by_name)
    _refuse_changes(output, by_name, finals, parts)
    attempt = _attempt(output, retry, finals, parts)
    leftovers = [part.url for name, own in parts.items() if name in finals for part in own]
    done = {name: Committed(facts.counts, facts.tallies) for name, facts in finals.items()}
    rows = {name: _rows(own) for name, own in parts.items() if name not in finals}
    for name, facts in finals.items():
        newer = [part for part in parts.get(name, []) if part.facts.attempt > facts.attempt]
        again = _to_retry(output, name, facts, attempt, retry)
        if newer or len(again):
            del done[name]
            this = [part for part in newer if part.facts.attempt == attempt]
            kept = np.setdiff1d(np.arange(by_name[name].rows), again)
            rows[name] = np.union1d(kept, _rows(this)) if this else kept
            pending = {part.url for part in newer}
            leftovers = [url for url in leftovers if url not in pending]
    return Found(attempt, Staged(done, rows), leftovers)


def staged_rows(output: Output, shard: Shard) -> npt.NDArray[np.int64]:
    """Rows that the parts of one shard hold now: for a run that finds fewer than it had staged."""
    urls = [file.url for file in storage.list_files(output.staging(shard), output.storage)]
    return _rows(read_parts(output, shard, urls, ["row"]))


def _read_all(output: Output, by_name: Mapping[str, Shard]) -> tuple[dict[str, FileFacts], dict[str, list[Part]]]:
    """Final files and parts of the shards, by the shard's name. Parts that are of another model are left out."""
    finals: list[str] = []
    urls: list[str] = []
    for file in storage.list_files(output.url, output.storage):
        name = file.url.removeprefix(output.url + "/")
        if name.startswith(STAGING + "/"):
            urls.append(file.url)
        elif name in by_name:
            finals.append(name)
    with ThreadPoolExecutor(THREADS) as pool:
        facts = dict(zip(finals, pool.map(lambda name: read_facts(output, name), finals), strict=True))
        read = list(pool.map(lambda url: read_part(output, url, ["row"]), urls))
    parts: dict[str, list[Part]] = {}
    for part in read:
        if part is not None and part.facts.made_of == fingerprint(output.identity):
            name = part.url.removeprefix(output.at(STAGING) + "/").rpartition("/")[0]
            if name in by_name:
                parts.setdefault(name, []).append(part)
    strangers = [name for name, found in facts.items() if found is None]
    if strangers:
        raise OutputError(
            f"{output.at(strangers[0])} is damaged, or not a file of capsieve's: delete it, and its rows are scored again "
            "(or name another --output.path)"
        )
    return {name: found for name, found in facts.items() if found is not None}, parts


def _rows(parts: Iterable[Part]) -> npt.NDArray[np.int64]:
    rows = [part.table["row"].to_numpy() for part in parts]
    return np.unique(np.concatenate(rows)) if rows else np.empty(0, np.int64)


def _refuse_changes(
    output: Output, by_name: Mapping[str, Shard], finals: Mapping[str, FileFacts], parts: Mapping[str, list[Part]]
) -> None:
    found: dict[str, dict[str, Any]] = {name: own[0].facts.source for name, own in parts.items()}
    found |= {name: part.facts.source for name, own in parts.items() for part in own if part.facts.source != found[name]}
    found |= {name: facts.source for name, facts in finals.items()}
    for name, source in found.items():
        difference = differences(source, source_of(by_name[name]))
        if difference:
            others = sum(1 for other, was in found.items() if other != name and was != source_of(by_name[other]))
            raise OutputError(
                f"{by_name[name].file.url} has changed since rows of it were scored ({difference})"
                f"{f', and {others} more shards' if others else ''}: "
                f"add rows as new files; or delete its files in {output.url}, and its rows are scored again "
                "(--output.overwrite: all rows)"
            )


# ------------------------------------------------------------------ a second chance


def _attempt(output: Output, retry: Sequence[str], finals: Mapping[str, FileFacts], parts: Mapping[str, list[Part]]) -> int:
    """The number of this attempt. A second chance that was begun and not ended goes on under its own."""
    seen = [facts.attempt for facts in finals.values()] + [part.facts.attempt for own in parts.values() for part in own]
    latest = max(seen, default=0)
    if not retry:
        return latest
    return _begun(output, retry) or latest + 1


def _begun(output: Output, retry: Sequence[str]) -> int | None:
    """The number of a second chance for these that has begun and not ended."""
    if not storage.exists(output.at(RETRY_FILE), output.storage):
        return None
    found = json.loads(storage.read_bytes(output.at(RETRY_FILE), output.storage))
    return int(found["attempt"]) if found["retry"] == sorted(retry) else None


def _retry_note(attempt: int, retry: Sequence[str]) -> dict[str, Any]:
    return {"retry": sorted(retry), "attempt": attempt}


def _to_retry(output: Output, name: str, facts: FileFacts, attempt: int, retry: Sequence[str]) -> npt.NDArray[np.int64]:
    """Rows of a final file that get another chance."""
    nothing = np.empty(0, np.int64)
    wanted = [(status, reason or None) for status, _, reason in (entry.partition(":") for entry in retry)]
    if facts.attempt >= attempt or not any(_matches(status, reason, wanted) for status, reason in facts.counts):
        return nothing
    fs, path = storage.open_filesystem(output.at(name), output.storage)
    with storage.storage_errors(output.at(name)), fs.open(path, "rb") as file:
        table = pq.read_table(file, columns=[output.prefix + "status", output.prefix + "error_message"])
    mask = pa.array(np.zeros(table.num_rows, dtype=bool))
    statuses, reasons = table[0].cast(pa.string()), table[1]
    for status, reason in wanted:
        rows = pc.equal(statuses, status)
        if reason is not None:
            rows = pc.and_(rows, pc.fill_null(pc.equal(reasons, reason), False))
        mask = pc.or_(mask, rows)
    return np.flatnonzero(mask.to_numpy())


def _matches(status: str, reason: str | None, wanted: Iterable[tuple[str, str | None]]) -> bool:
    return any(status == one and other in (None, reason) for one, other in wanted)
