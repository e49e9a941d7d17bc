"""Heat maps of pairs that are shown: read from the folder that explain.py wrote, made small, laid beside the pair.

    FOLDER/index.json    {key: {"caption": text, "image": name of a file in FOLDER, ...}, ...}

A pair's entry is found by its key, else by its URL, and has to be of the same caption where both are known. The images are
decoded as carefully as those of strangers. Knows nothing of how a heat map is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config import Config
from pipeline.errors import ConfigError, StorageError
from pipeline.report.pairs import Pair
from pipeline.report.thumbnails import Thumbnail, Wanted, thumbnails
from pipeline.storage import read_bytes

INDEX = "index.json"
SIDE = 384  # pixels of the longer side


def explanations(pairs: Sequence[Pair], config: Config) -> dict[int, Thumbnail]:
    """Heat maps by index of the pair, of those that have one. Raises ConfigError where the folder has no index."""
    folder = config.report.explanations
    if not folder:
        return {}
    entries = _index(folder, config)
    files = {number: name for number, pair in enumerate(pairs) if (name := _file(entries, pair))}
    wanted = [Wanted(data=_read(f"{folder}/{name}", config)) for name in files.values()]
    return dict(zip(files, thumbnails(wanted, config, SIDE), strict=True)) if wanted else {}


def _index(folder: str, config: Config) -> dict[str, Any]:
    try:
        entries = json.loads(read_bytes(f"{folder}/{INDEX}", config.storage))
    except StorageError as error:
        raise ConfigError(f"--report.explanations {folder}: no {INDEX} there: name the folder that explain.py wrote") from error
    except ValueError:
        entries = None
    if not isinstance(entries, dict):
        raise ConfigError(f"--report.explanations {folder}: {INDEX} is not what explain.py writes")
    return entries


def _file(entries: Mapping[str, Any], pair: Pair) -> str | None:
    """The name of a pair's file: of one in the folder itself, whatever the index says."""
    entry = next((entries[name] for name in (pair.key, pair.url) if name is not None and name in entries), None)
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
        return None
    if pair.caption is not None and entry.get("caption", pair.caption) != pair.caption:
        return None
    name: str = entry["image"]
    return None if "/" in name or "\\" in name or name.startswith(".") else name


def _read(url: str, config: Config) -> bytes | None:
    try:
        return read_bytes(url, config.storage)
    except StorageError:
        return None
