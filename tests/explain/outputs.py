"""Scored outputs to explain: settings of an explanation, and what a run writes, without the cluster."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Config
from pipeline.manifest import find_manifest
from pipeline.model.facts import describe
from pipeline.provenance import FileFacts, source_of, with_facts
from pipeline.records import Chunk
from pipeline.schema import score_schema
from pipeline.scorer import load_scorer
from pipeline.stages import image_blocks, score_images
from pipeline.tallies import Tallies


def settings(manifest: Path | str, output: Path | str = "", **sections: Any) -> Config:
    own = {"input": {"manifest": str(manifest)}, "output": {"path": str(output)}, "model": {"device": "cpu"}}
    return Config.model_validate({name: own.get(name, {}) | sections.get(name, {}) for name in {*own, *sections}})


def score(manifest: Path, folder: Path, prefix: str = "", **sections: Any) -> Path:
    """What a run writes of this manifest of one shard, without the cluster."""
    config = settings(manifest, **sections)
    found = find_manifest(config.input, config.storage, 1000)
    (shard,) = found.shards
    scorer = load_scorer(config.model.checkpoint, device="cpu")
    blocks = list(image_blocks(Chunk(0, ((0, shard.rows),)), found, config, scorer.image_size))
    lists = found.captions_are_lists
    scored = pa.concat_tables([score_images(block, scorer, lists=lists) for block in blocks]).sort_by("row")
    table = pq.read_table(manifest)
    for field in score_schema(lists=lists):
        column = scored[field.name]
        table = table.append_column(
            prefix + field.name, column.dictionary_encode() if pa.types.is_dictionary(field.type) else column
        )
    model = describe(config.model, config.storage)
    identity = {
        "model": model.name,
        "model_sha256": model.sha256,
        "image_size": model.image_size,
        "itm_first_token": "cls",
        "columns": asdict(found.columns),
        "column_prefix": prefix,
    }
    facts = FileFacts(identity, source_of(shard), 0, Counter(), Tallies(), [], {})
    folder.mkdir()
    pq.write_table(with_facts(table, facts), folder / "m-00000.parquet")
    return folder


def at_home(manifest: Path, **more: Any) -> dict[str, Any]:
    """The setting that lets images beside the manifest be read."""
    return {"file_roots": str(manifest.parent), **more}
