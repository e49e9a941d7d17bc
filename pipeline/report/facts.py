"""What a scored output says of itself: its rows (`_SUCCESS`), the runs that worked on it, what made its files (their metadata).

Both are read, not believed: what is missing or of another kind is left out of the page. Knows nothing of rows.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.bottleneck import Shares, sentence
from pipeline.config import StorageConfig
from pipeline.filters.source import Dataset
from pipeline.output import HISTORY_FILE, SUCCESS_FILE
from pipeline.provenance import FileFacts, file_facts, fingerprint
from pipeline.storage import exists, is_local, local_path, read_bytes

MOST_ORIGINS = 8  # different models or settings that are shown
_NUMBERS = ("rows", "rows_scored", "elapsed_s", "rows_per_s", "busy_share", "bytes_read")


class Origin(NamedTuple):
    """What made some of the files."""

    identity: dict[str, Any]  # model, and every setting that the scores depend on
    provenance: dict[str, Any]  # all settings, versions
    files: int
    rows: int


def facts_of_files(dataset: Dataset) -> dict[str, FileFacts]:
    """What each file says of itself, by URL; files of other origin are left out."""
    found = {url: file_facts(schema.metadata) for url, schema in dataset.schemas.items()}
    return {url: facts for url, facts in found.items() if facts is not None}


def origins(dataset: Dataset, facts: dict[str, FileFacts]) -> list[Origin]:
    """What made the files, each once, the most rows first, at most `MOST_ORIGINS`."""
    rows: dict[str, int] = {}
    for run in dataset.runs:
        rows[run.file.url] = rows.get(run.file.url, 0) + run.rows
    found: dict[str, Origin] = {}
    for url, own in facts.items():
        name = fingerprint({"identity": own.identity, "provenance": own.provenance})
        before = found.get(name, Origin(own.identity, own.provenance, 0, 0))
        found[name] = before._replace(files=before.files + 1, rows=before.rows + rows.get(url, 0))
    return sorted(found.values(), key=lambda one: -one.rows)[:MOST_ORIGINS]


def recorded_settings(dataset: Dataset) -> dict[str, Any]:
    """Names of columns and prefix that the scoring run used: {"columns": {role: name}, "column_prefix": str}; may be empty."""
    identity = next((facts.identity for facts in facts_of_files(dataset).values()), {})
    columns, prefix = identity.get("columns"), identity.get("column_prefix")
    return {
        "columns": {role: name for role, name in columns.items() if isinstance(name, str)} if isinstance(columns, dict) else {},
        "column_prefix": prefix if isinstance(prefix, str) else "",
    }


def runs(dataset: Dataset, storage: StorageConfig) -> list[dict[str, Any]]:
    """The last of the runs that wrote each of these folders: its numbers, and a sentence on what held it back."""
    found = []
    for root in dataset.identity["made_of"]:
        summary = _stored(f"{root}/{SUCCESS_FILE}", storage)
        if summary:
            summary |= _last_run(_stored(f"{root}/{HISTORY_FILE}", storage), summary.get("rows"))
            numbers = {name: summary[name] for name in _NUMBERS if _is_number(summary.get(name))}
            stages = summary.get("stage_s")
            seconds = {str(name): s for name, s in stages.items() if _is_number(s)} if isinstance(stages, dict) else {}
            found.append({"output": root, **numbers, "stage_s": seconds, "sentence": _sentence(summary.get("shares"))})
    return found


def _stored(url: str, storage: StorageConfig) -> dict[str, Any]:
    try:
        found = json.loads(read_bytes(url, storage)) if exists(url, storage) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _last_run(history: dict[str, Any], rows: Any) -> dict[str, Any]:
    """What the last run did, but for the rows, which are those of the output."""
    runs = history.get("runs")
    last = runs[-1] if isinstance(runs, list) and runs else None
    return {**last, "rows": rows} if isinstance(last, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18


def _sentence(shares: Any) -> str:
    if not isinstance(shares, dict) or shares.keys() != set(Shares._fields) or not all(map(_is_number, shares.values())):
        return ""
    return sentence(Shares(**shares))


def base_of(facts: FileFacts | None, file: str, roots: list[str]) -> str:
    """The folder that a row's relative image path starts from: that of the manifest which was scored.

    What a file says of a local manifest is no permission to read there: only below `roots` (fetch.file_roots) it counts,
    and else the folder of the scored file does.
    """
    own = file.rpartition("/")[0] or "/"
    url = facts.source.get("url") if facts is not None else None
    if not isinstance(url, str) or "/" not in url:
        return own
    folder = url.rpartition("/")[0] or "/"
    if not is_local(folder):
        return folder
    place = Path(os.path.realpath(local_path(folder)))
    return str(place) if any(place.is_relative_to(os.path.realpath(root)) for root in roots) else own
