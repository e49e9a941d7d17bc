"""The log of a run, one JSON object a line, and what came of all the runs that made an output.

    OUTPUT/_log/<run>.jsonl   events of one run, by time; written anew every half minute, and at the end
    OUTPUT/_log/run.json      one record a run, the last one last; written before `_SUCCESS`

In the output, because the driver's disk goes with its cluster, and every restart has a file of its own; below an underscore,
because readers of Parquet folders take every other file for data. Stores cannot append: a file is written whole.
No captions, and no URL with its query: those carry signatures. Knows nothing of what the events mean.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.errors import StorageError
from pipeline.output import HISTORY_FILE, LOG_FOLDER
from pipeline.patience import patiently

log = logging.getLogger(__name__)

FLUSH_S = 30.0
FLUSH_BYTES_PER_S = 100_000  # a log of 10 MB is written every 100 s
MOST_RUNS = 100  # in the history
THREADS = 16
_QUERY = re.compile(r"\?[^\s'\"]+")


class Journal:
    """The log of one run. Any thread may note events; nothing here raises."""

    def __init__(self, output_url: str, config: StorageConfig, run: str) -> None:
        self.run = run
        self.url = f"{output_url}/{LOG_FOLDER}/{run}.jsonl"
        self._config = config
        self._lines: list[str] = []
        self._size = 0
        self._lock = threading.Lock()
        self._written = 0  # lines
        self._written_s = 0.0
        self._failing = False

    def note(self, event: str, **facts: Any) -> dict[str, Any]:
        """Add an event; returns it as it is written."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        found: dict[str, Any] = scrubbed({"time": now, "run": self.run, "event": event, **facts})
        line = json.dumps(found, default=str)
        with self._lock:
            self._lines.append(line)
            self._size += len(line)
        return found

    def flush(self, *, at_once: bool = False, quiet: bool = False) -> None:
        """Write the file if there is something new, not too often. quiet: whoever failed before has said what is wrong."""
        with self._lock:
            due_s = max(FLUSH_S, self._size / FLUSH_BYTES_PER_S)
            if self._written == len(self._lines) or not (at_once or time.monotonic() - self._written_s >= due_s):
                return
            count, text = len(self._lines), "\n".join(self._lines) + "\n"
            self._written_s = time.monotonic()
        try:
            storage.write_bytes(self.url, text.encode(), self._config)
        except StorageError as error:
            if not (self._failing or quiet):
                log.warning("cannot write the run's log: %s", error)
            self._failing = True
            return
        self._failing = False
        self._written = count

    def events(self) -> list[dict[str, Any]]:
        """What was noted."""
        with self._lock:
            return [json.loads(line) for line in self._lines]


def scrubbed(value: Any) -> Any:
    """The same without what follows a question mark in any text."""
    if isinstance(value, str):
        return _QUERY.sub("?...", value)
    if isinstance(value, Mapping):
        return {str(name): scrubbed(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [scrubbed(one) for one in value]
    return value


# ------------------------------------------------------------------ all runs of an output


def record_of(events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One run in short: what it planned, and how it ended; of one that was killed, what its log says last."""
    record: dict[str, Any] = {}
    last: Mapping[str, Any] = {}
    warnings = 0
    for event in events:
        facts = {name: value for name, value in event.items() if name not in ("time", "event", "pid")}
        if event["event"] == "planned":
            record |= {"run": facts.pop("run"), "started": event["time"], **facts}
        elif event["event"] in ("progress", "ended"):
            record |= facts
        warnings += event["event"] == "warning"
        last = event
    record.setdefault("outcome", "lost")  # nobody wrote its end: killed, or with its machine
    return record | {"ended": last.get("time"), "warnings": record.get("warnings", warnings)}


def history(output_url: str, config: StorageConfig, own: Journal) -> list[dict[str, Any]]:
    """The records of earlier runs, the newest last, from their logs. Raises StorageError."""
    folder = f"{output_url}/{LOG_FOLDER}"
    urls = sorted(file.url for file in storage.list_files(folder, config) if file.url.endswith(".jsonl"))
    earlier = [url for url in urls if not url.endswith(f"/{own.run}.jsonl")][-MOST_RUNS:]
    with ThreadPoolExecutor(THREADS) as pool:
        texts = list(pool.map(lambda url: storage.read_bytes(url, config), earlier))
    return [record for record in map(_read_record, texts) if record is not None]


def _read_record(data: bytes) -> dict[str, Any] | None:
    try:
        return record_of([json.loads(line) for line in data.splitlines()])
    except (ValueError, KeyError, TypeError):
        return None  # not a log of ours


def write_history(output_url: str, config: StorageConfig, own: Journal, record: Mapping[str, Any]) -> None:
    """Write `run.json`: the earlier runs, and this one. Raises StorageError once waiting for the store is in vain."""

    def write() -> None:
        runs = [*history(output_url, config, own), record]
        data = json.dumps({"runs": runs}, indent=2).encode()
        storage.write_bytes(f"{output_url}/{HISTORY_FILE}", data, config)

    patiently(write, config)
