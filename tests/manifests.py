"""Rows of a manifest, and how tests look for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import ColumnsConfig, InputConfig, StorageConfig
from pipeline.manifest import Manifest, find_manifest

STORAGE = StorageConfig()
ROWS: dict[str, Any] = {"url": ["a.jpg", "b.jpg", "c.jpg"], "caption": ["an a", "a b", None]}
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})  # as Hugging Face's datasets hold images


def find(*entries: str | Path, rows: int = 100, **columns: str) -> Manifest:
    config = InputConfig(manifest=[str(entry) for entry in entries], columns=ColumnsConfig(**columns))
    return find_manifest(config, STORAGE, rows)


def names(manifest: Manifest) -> list[str]:
    return [shard.name for shard in manifest.shards]
