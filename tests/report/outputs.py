"""A scored output as score.py leaves it, made of numbers: with real images, hostile captions and failures of all kinds."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Config
from pipeline.provenance import FileFacts, with_facts
from pipeline.scenes.render import render_jpeg
from pipeline.scenes.scene import DEMO, sample_scene
from pipeline.schema import score_schema
from pipeline.tallies import Tallies

HOSTILE = (
    "</script><script>window.broken = 1</script>",
    '<img src=x onerror="window.broken = 1">',
    "قطة تجلس على أريكة حمراء في غرفة مشمسة",
    "<!--<script> {{data}} \u2028 &lt;b&gt; \\u003c",
    "a caption that goes on " * 60,
    "http://" + "w" * 300,
)
IMAGES = 40
FILES = {"a.parquet": 200, "sub/b.parquet": 130}  # name -> rows
IDENTITY = {
    "model": "tiny.pth",
    "model_sha256": "0" * 64,
    "image_size": 64,
    "precision": "float32",
    "columns": {"url": "where", "caption": "words", "image": None, "key": "id", "sha256": None},
    "column_prefix": "",
}
PROVENANCE = {"settings": {"input": {"manifest": ["<b>m</b>"]}}, "versions": {"capsieve": "0.1.0"}}
LAST_RUN = {
    "rows": 400,  # of the manifest as it was then
    "rows_scored": 330,
    "elapsed_s": 75.5,
    "rows_per_s": 12.25,
    "busy_share": 0.913,
    "bytes_read": 12_345_678,
    "stage_s": {"fetch": 66.0, "decode": 1.5, "score": 33.0, "write": 0.5},
    "shares": {
        **{"wall_s": 27.0, "busy": 0.913, "starved": 0.02, "download": 0.3, "decode": 0.1},
        **{"held": 0.6, "fetching": 0.9, "write_to_score": 0.02},
    },
}
FAILURES = (
    ("failed_to_download", "http 404", "https://gone.example/x.jpg"),
    ("failed_to_download", "timeout", "https://user:password@slow.example:8443/x.jpg"),
    ("failed_to_decode", "html, not an image", "https://gone.example/page"),
    ("invalid_row", "no image", None),
)


def config_of(folder: Path, **report: Any) -> Config:
    """Report `folder`/scored as `folder`/report.html."""
    return Config.model_validate(
        {
            "input": {"manifest": str(folder / "scored")},
            "output": {"path": str(folder / "report.html")},
            "fetch": {"file_roots": [str(folder)]},
            "report": {"gallery": 12, **report},
        }
    )


def write_output(folder: Path, *, lists: bool = False) -> Path:
    """Write images below `folder`/images and an output of two files to `folder`/scored; returns `folder`."""
    (folder / "images").mkdir(parents=True)
    hashes = []
    for number in range(IMAGES):
        data = render_jpeg(sample_scene(DEMO, number))
        (folder / "images" / f"{number}.jpg").write_bytes(data)
        hashes.append(hashlib.sha256(data).hexdigest())
    first = 0
    for name, rows in FILES.items():
        path = folder / "scored" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table = scored_rows(range(first, first + rows), hashes, lists=lists)
        source = {"url": str(folder / "manifest.parquet"), "size": 1, "version": "1", "first_row": first, "rows": rows}
        facts = FileFacts(IDENTITY, source, 0, Counter(), Tallies(), [], PROVENANCE)
        pq.write_table(with_facts(table, facts), path, row_group_size=64)
        first += rows
    (folder / "scored" / "_run.json").write_text(json.dumps(IDENTITY))
    (folder / "scored" / "_SUCCESS").write_text(json.dumps({"rows": 330}))
    (folder / "scored" / "_log").mkdir()
    (folder / "scored" / "_log" / "run.json").write_text(json.dumps({"runs": [{"rows_scored": 1, "elapsed_s": 1.0}, LAST_RUN]}))
    return folder


def scored_rows(numbers: range, hashes: list[str], *, lists: bool) -> pa.Table:
    """Rows with these numbers; every eleventh failed. With `lists`, 1 to 3 captions each."""
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "where", "words", *score_schema(lists=lists).names)}
    for number in numbers:
        rng = np.random.default_rng(number)
        failure = FAILURES[number // 11 % len(FAILURES)] if number % 11 == 10 else None
        captions = 1 + number % 3 if lists else 1
        logit = rng.normal(0, 4, captions).astype(np.float32)
        score = (1 / (1 + np.exp(-logit.astype(np.float64)))).astype(np.float32)
        cosine = np.clip(0.25 + logit / 30 + rng.normal(0, 0.06, captions), -1, 1).astype(np.float32)
        texts = [
            HOSTILE[(number + k) % 11] if (number + k) % 11 < len(HOSTILE) else f"scene {number}.{k}" for k in range(captions)
        ]
        image = number % IMAGES
        row = {
            "id": f"key-{number}",
            "where": failure[2] if failure else f"images/{image}.jpg",
            "words": texts,
            "itm_score": [None] * captions if failure else score.tolist(),
            "itm_logit": [None] * captions if failure else logit.tolist(),
            "itc_similarity": [None] * captions if failure else cosine.tolist(),
            "status": failure[0] if failure else "success",
            "error_message": failure[1] if failure else None,
            "original_width": None if failure else 64,
            "original_height": None if failure else 64,
            "image_sha256": None if failure else hashes[image],
            "caption_tokens": [min(32767, 2 + len(text) // 4) for text in texts],
            "caption_truncated": [len(text) > 140 for text in texts],
        }
        for name, values in columns.items():
            value = row[name]
            values.append(value[0] if isinstance(value, list) and not lists else value)
    text = pa.string()
    schema = pa.schema(
        [("id", text), ("where", text), ("words", pa.list_(text) if lists else text), *score_schema(lists=lists)]
    )
    return pa.table(
        {
            name: pa.array(values, text).dictionary_encode().cast(schema.field(name).type)
            if pa.types.is_dictionary(schema.field(name).type)
            else pa.array(values, schema.field(name).type)
            for name, values in columns.items()
        }
    )
