"""Heat maps of pairs that are shown: read from the folder that explain.py wrote, made small, laid beside the pair.

    FOLDER/index.json    {key: {"file", "row", "captions": [{"caption", "image": name of a file in FOLDER}, ...]}, ...}

An entry is found by the row's key, else by its file and row number, and in it the picture of the pair's own caption. Pictures
are decoded as carefully as those of strangers. Knows nothing of how a heat map is made.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config import Config
from pipeline.errors import ConfigError, StorageError
from pipeline.report.pairs import Pair
from pipeline.storage import read_bytes
from pipeline.thumbnails import Thumbnail, Wanted, thumbnails

INDEX = "index.json"
SIDE = 640  # pixels of the longer side: the image, and beside it the map


def explanations(pairs: Sequence[Pair], config: Config) -> dict[int, Thumbnail]:
    """Heat maps by index of the pair, of those that have one. Raises ConfigError where the folder has no index."""
    folder = config.report.explanations
    if not folder:
        return {}
    entries = _index(folder, config)
    files = {number: name for number, pair in enumerate(pairs) if (name := _picture(entries, pair))}
    wanted = [Wanted(data=_read(f"{folder}/{name}", config)) for name in files.values()]
    return dict(zip(files, thumbnails(wanted, config, SIDE), strict=True)) if wanted else {}


def _index(folder: str, config: Config) -> dict[Any, list[dict[str, Any]]]:
    """The entries by key, and by number of their row."""
    try:
        entries = json.loads(read_bytes(f"{folder}/{INDEX}", config.storage))
    except StorageError as error:
        raise ConfigError(f"--report.explanations {folder}: no {INDEX} there: name the folder that explain.py wrote") from error
    except ValueError:
        entries = None
    if not isinstance(entries, dict):
        raise ConfigError(f"--report.explanations {folder}: {INDEX} is not what explain.py writes")
    found: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for key, entry in entries.items():
        if isinstance(entry, dict):
            found[key].append(entry)
            if isinstance(entry.get("row"), int):
                found[entry["row"]].append(entry)
    return found


def _picture(entries: Mapping[Any, Sequence[dict[str, Any]]], pair: Pair) -> str | None:
    """The name of a pair's file, which lies in the folder itself, whatever the index says; None if there is none."""
    same_key = [] if pair.key is None else entries.get(pair.key, [])
    same_row = (entry for entry in entries.get(pair.row, []) if _is_file(entry.get("file"), pair.file))
    for entry in (*same_key, *same_row):
        captions = entry.get("captions")
        for caption in captions if isinstance(captions, list) else []:
            name = caption.get("image") if isinstance(caption, dict) and caption.get("caption") == pair.caption else None
            if isinstance(name, str) and not re.search(r"[/\\]|^\.", name):
                return name
    return None


def _is_file(name: Any, url: str) -> bool:
    return isinstance(name, str) and f"/{url}".endswith(f"/{name}")


def _read(url: str, config: Config) -> bytes | None:
    try:
        return read_bytes(url, config.storage)
    except StorageError:
        return None
