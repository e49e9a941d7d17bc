"""Partitions of the input, records of the output, and which nights are due.

    INPUT/.../date=YYYY-MM-DD/*.parquet               a partition: the rows of a night, in one or several folders of that name
    OUTPUT/date=YYYY-MM-DD/                           its rows with scores, as score.py writes them
    OUTPUT/_filtered/date=YYYY-MM-DD/                 the rows that the filter kept (or in `nightly.filtered`)
    OUTPUT/_nightly/date=YYYY-MM-DD/drift.json        its record (`judge`), last
    OUTPUT/_nightly/date=YYYY-MM-DD/report.html       its report
    OUTPUT/_nightly/_lease.json                       which nightly job runs now

Whoever reads OUTPUT as a dataset sees the scored nights alone: what begins with an underscore is passed over. Knows nothing of
what is done with a night.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.config import Config
from pipeline.errors import ConfigError, ManifestError, OutputError
from pipeline.manifest import find_sources
from pipeline.nightly.judge import Record
from pipeline.output import SUCCESS_FILE
from pipeline.patience import patiently
from pipeline.provenance import fingerprint
from pipeline.storage import is_local, local_path

log = logging.getLogger(__name__)

RECORDS = "_nightly"
FILTERED = "_filtered"
RECORD_FILE = "drift.json"
REPORT_FILE = "report.html"
THREADS = 16  # records are small and may be far away: the wait is for the store
# Of `_SUCCESS`, what changes when rows are scored again, and not when a finished run is run once more.
OUTCOME = ("made_of", "rows", "shards", "status", "reasons")
_PARTITION = re.compile(r"date=(\d{4}-\d{2}-\d{2})")


class Partition(NamedTuple):
    """The input of a night."""

    night: date
    folders: tuple[str, ...]  # URLs
    files: int


class Due(NamedTuple):
    """A night that there is something to do for."""

    partition: Partition
    why: str


class Plan(NamedTuple):
    """What a run is to do, oldest first."""

    due: tuple[Due, ...]
    waiting: tuple[Due, ...]  # partitions that are not complete yet
    finished: tuple[date, ...]


@dataclass(frozen=True)
class Places:
    """Where a night's files are."""

    output: str
    filtered_root: str

    @classmethod
    def of(cls, config: Config) -> Places:
        """Where the settings have them."""
        return cls(config.output.path, config.nightly.filtered or f"{config.output.path}/{FILTERED}")

    def scored(self, night: date) -> str:
        """Folder of the rows with scores."""
        return f"{self.output}/date={night}"

    def filtered(self, night: date) -> str:
        """Folder of the rows that the filter kept."""
        return f"{self.filtered_root}/date={night}"

    @property
    def records(self) -> str:
        """Folder of all records."""
        return f"{self.output}/{RECORDS}"

    def record(self, night: date) -> str:
        """A night's record."""
        return f"{self.records}/date={night}/{RECORD_FILE}"

    def report(self, night: date) -> str:
        """A night's report."""
        return f"{self.records}/date={night}/{REPORT_FILE}"


# ------------------------------------------------------------------ input


def find_partitions(config: Config) -> list[Partition]:
    """The partitions of `input.manifest` within the wanted range, oldest first.

    Raises ManifestError where no file is in a folder date=YYYY-MM-DD, ConfigError where the output lies in the input.
    """
    output = _place(config.output.path)
    around = [entry for entry in config.input.manifest if f"{output}/".startswith(_place(entry) + "/")]
    sources = find_sources(config.input.manifest, config.storage)
    inside = [source.file.url for source in sources if _place(source.file.url).startswith(output + "/")]
    if around or inside:
        raise ConfigError(
            f"{config.output.path} lies in the input {(around or inside)[0]}: its nights would be scored again as input; "
            "name another --output.path"
        )
    folders: dict[date, set[str]] = defaultdict(set)
    files: dict[date, int] = defaultdict(int)
    strays = []
    for url in (source.file.url for source in sources):
        night, folder = _night_of(url)
        if night is None:
            strays.append(url)
        else:
            folders[night].add(folder)
            files[night] += 1
    if not folders:
        raise ManifestError(
            f"no file is in a folder date=YYYY-MM-DD (e.g. {strays[0]}): score such manifests with jobs/score.py"
        )
    if strays:
        log.warning("%d files are in no folder date=YYYY-MM-DD and are passed over, e.g. %s", len(strays), strays[0])
    since, until = config.nightly.since or date.min, config.nightly.until or date.max
    return [
        Partition(night, tuple(sorted(folders[night])), files[night]) for night in sorted(folders) if since <= night <= until
    ]


def _night_of(url: str) -> tuple[date | None, str]:
    """The night of the last folder that is named by one, and that folder."""
    parts = url.split("/")
    for end in range(len(parts) - 1, 0, -1):
        found = _PARTITION.fullmatch(parts[end - 1])
        if found:
            try:
                return date.fromisoformat(found[1]), "/".join(parts[:end])
            except ValueError:
                return None, ""  # 2026-02-30
    return None, ""


def _place(url: str) -> str:
    return os.path.realpath(local_path(url)) if is_local(url) else url.rstrip("/")


# ------------------------------------------------------------------ output


def read_records(places: Places, config: Config) -> dict[date, Record]:
    """All records, by night. Raises OutputError for one that is damaged."""
    listed = [file.url for file in storage.list_files(places.records, config.storage) if file.url.endswith("/" + RECORD_FILE)]

    def read(url: str) -> Record:
        return Record.from_file(url, storage.read_bytes(url, config.storage))

    with ThreadPoolExecutor(THREADS) as pool:
        return {record.night: record for record in pool.map(read, listed)}


def write_record(places: Places, record: Record, config: Config) -> None:
    """Write a night's record, whole or not at all: the sign that the night is done."""
    data = json.dumps(record.as_json()).encode()
    patiently(lambda: storage.write_bytes(places.record(record.night), data, config.storage), config.storage)


def accept(places: Places, records: Mapping[date, Record], config: Config) -> dict[date, Record]:
    """The records with those of `nightly.accept` accepted, on the store as well. Raises OutputError for a night without one."""
    updated = dict(records)
    for night in config.nightly.accept:
        record = updated.get(night)
        if record is None:
            known = f"{places.records} has {min(records)} to {max(records)}" if records else f"{places.records} has none"
            raise OutputError(f"no record of {night} to accept: {known}; correct --nightly.accept")
        if record.exit_code:
            updated[night] = replace(record, accepted=datetime.now(UTC).isoformat(timespec="seconds"))
            write_record(places, updated[night], config)
    return updated


def outcome_of(scored: str, config: Config) -> str | None:
    """Fingerprint of what became of a night's rows; None where they are not all scored."""
    url = f"{scored}/{SUCCESS_FILE}"
    if not storage.exists(url, config.storage):
        return None
    summary: dict[str, Any] = json.loads(storage.read_bytes(url, config.storage))
    return fingerprint({name: summary.get(name) for name in OUTCOME})


# ------------------------------------------------------------------ what is due


def plan(partitions: Iterable[Partition], records: Mapping[date, Record], places: Places, config: Config) -> Plan:
    """Which nights are due, and why."""
    everything = list(partitions)
    with ThreadPoolExecutor(THREADS) as pool:
        outcomes = list(pool.map(lambda one: outcome_of(places.scored(one.night), config), everything))
    due, waiting, finished = [], [], []
    for partition, outcome in zip(everything, outcomes, strict=True):
        why = _why(partition, records.get(partition.night), outcome)
        if why is None:
            finished.append(partition.night)
        elif not _complete(partition, config):
            waiting.append(Due(partition, f"waits for {config.nightly.marker}"))
        else:
            due.append(Due(partition, why))
    return Plan(tuple(due), tuple(waiting), tuple(finished))


def _why(partition: Partition, record: Record | None, outcome: str | None) -> str | None:
    if record is None:
        return "new" if outcome is None else "scored, but neither filtered nor compared"
    if outcome is None:
        return "its scores are gone or unfinished"
    if outcome != record.scored:
        return "scored again since it was filtered and compared"
    if partition.files > record.files:
        return f"{partition.files - record.files} more files than when it was scored"
    return None


def _complete(partition: Partition, config: Config) -> bool:
    marker = config.nightly.marker
    return marker is None or all(storage.exists(f"{folder}/{marker}", config.storage) for folder in partition.folders)
