"""Rows as score.py writes them, whose scores are the chances that they are good, and somebody who labels them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.config import Config, StorageConfig
from pipeline.provenance import FileFacts, with_facts
from pipeline.tallies import Tallies

STORE = StorageConfig()
ROWS = 2_000
IDENTITY = {"model": "a model", "model_sha256": "ab" * 32}


def png(number: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGBA", (900, 300), (number % 256, 0, 0, 128)).save(sink, "PNG")
    return sink.getvalue()


def scored(start: int, stop: int, identity: dict[str, str] | None = None) -> pa.Table:
    """Rows as score.py writes them: every tenth failed; the chance that a row is good is its score."""
    numbers = np.arange(start, stop)
    failed = numbers % 10 == 9
    score = np.random.default_rng(7).permutation(ROWS)[start:stop] / ROWS
    table = pa.table(
        {
            "uid": [f"row {number}" for number in numbers],
            "url": pa.array([f"https://a.example/{number}.jpg" for number in numbers], mask=numbers % 50 == 48),
            "text": [f"=caption, {number}" for number in numbers],
            "itm_score": pa.array(score.astype(np.float32), mask=failed),
            "itm_logit": pa.array((8 * score - 4).astype(np.float32), mask=failed),
            "status": pa.array(np.where(failed, "failed_to_download", "success")).dictionary_encode(),
        }
    )
    facts = FileFacts(identity or IDENTITY, {}, 0, Counter(), Tallies.from_json(Tallies().as_json()), [], {})
    return with_facts(table, facts)


def config_of(folder: Path | str, **more: Any) -> Config:
    return Config.model_validate({"input": {"manifest": str(folder)}, **more})


def is_good(score: float, number: int) -> bool:
    return bool(np.random.default_rng(number).random() < score)


def write_labels(path: Path, rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def label(table: pa.Table, path: Path) -> str:
    """Somebody labels a sample."""
    rows = table.select(["key", "stratum", "stratum_rows", "itm_score"]).to_pylist()
    for number, row in enumerate(rows):
        row["label"] = "good" if is_good(row["itm_score"], number) else "bad"
    return write_labels(path, rows)
