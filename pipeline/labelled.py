"""Scores of a labelled manifest: every pair with its label and both heads' scores, for `evaluate`.

Reads, fetches and scores as a run does (the same stages, in this process, without Ray), so the figures are those of the
scores that a run would write. Holds scores of all pairs, but images of one chunk at most. Knows nothing of statistics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config import Config
from pipeline.errors import ManifestError
from pipeline.evaluate import LABEL_NAMES, parse_labels
from pipeline.manifest import Manifest, find_manifest, read_rows
from pipeline.records import Chunk
from pipeline.schema import ScorerProtocol, Status
from pipeline.stages import image_blocks, score_images

Floats = npt.NDArray[np.float64]


class LabelledScores(NamedTuple):
    """n pairs that could be scored, and why others could not."""

    labels: npt.NDArray[np.bool_]  # (n,)
    itm_logit: Floats  # (n,)
    itc_similarity: Floats  # (n,)
    images: npt.NDArray[np.str_]  # (n,) sha256 of the image: pairs of one image belong together
    failures: Counter[str]  # pairs by reason


def score_labelled(
    config: Config,
    scorer: ScorerProtocol,
    image_size: int,
    *,
    label_column: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LabelledScores:
    """Score all pairs of `config.input.manifest`. `progress` is called with rows done and rows in all.

    label_column: None: the first of `LABEL_NAMES` that is there. Raises ManifestError for a manifest without labels, with
    labels that are none, or with list captions; StorageError if it cannot be read.
    """
    manifest = find_manifest(config.input, config.storage, config.output.rows_per_output_file)
    if manifest.captions_are_lists:
        raise ManifestError(
            f"column {manifest.columns.caption!r} holds lists: a label belongs to one caption, so give one caption a row"
        )
    column = _label_column(manifest, label_column)
    parts: list[pa.Table] = []
    labels: list[npt.NDArray[np.bool_]] = []
    done = 0
    for number, shard in enumerate(manifest.shards):
        for start in range(0, shard.rows, config.compute.chunk_rows):
            stop = min(start + config.compute.chunk_rows, shard.rows)
            truth = _labels(read_rows(shard, config.storage, [column], start, stop)[column].to_pylist(), column)
            chunk = _score_chunk(Chunk(number, ((start, stop),)), manifest, config, scorer, image_size)
            parts.append(chunk)
            labels.append(truth[chunk["row"].to_numpy() - start])
            done += stop - start
            if progress:
                progress(done, manifest.rows)
    return _collect(parts, labels)


def _label_column(manifest: Manifest, wanted: str | None) -> str:
    names = (wanted,) if wanted else LABEL_NAMES
    for name in names:
        if name in manifest.schema.names:
            return name
    what = f"no column {wanted!r}" if wanted else "no label column"
    raise ManifestError(f"{what} in the manifest: set --label NAME; its columns: {', '.join(manifest.schema.names)}")


def _labels(values: list[object], column: str) -> npt.NDArray[np.bool_]:
    try:
        return parse_labels(values)
    except ValueError as error:
        raise ManifestError(f"column {column!r}: {error}") from None


def _score_chunk(chunk: Chunk, manifest: Manifest, config: Config, scorer: ScorerProtocol, image_size: int) -> pa.Table:
    """The chunk's scored rows, in no particular order."""
    blocks = [score_images(images, scorer, lists=False) for images in image_blocks(chunk, manifest, config, image_size)]
    return pa.concat_tables(blocks).select(["row", "status", "error_message", "itm_logit", "itc_similarity", "image_sha256"])


def _collect(parts: list[pa.Table], labels: list[npt.NDArray[np.bool_]]) -> LabelledScores:
    if not parts:
        raise ManifestError("the manifest has no rows")
    rows = pa.concat_tables(parts)
    scored = np.array([status == Status.SUCCESS for status in rows["status"].to_pylist()])
    reasons = [reason for reason in rows["error_message"].to_pylist() if reason is not None]
    kept = rows.filter(pa.array(scored))
    return LabelledScores(
        labels=np.concatenate(labels)[scored],
        itm_logit=kept["itm_logit"].to_numpy().astype(np.float64),
        itc_similarity=kept["itc_similarity"].to_numpy().astype(np.float64),
        images=np.array(kept["image_sha256"].to_pylist(), dtype=np.str_),
        failures=Counter(reasons),
    )
