"""How well a model tells true captions of rendered scenes from false ones: the figures of the demo model's card.

Each scene gives one true caption, one of another scene, and the true one with one word changed. Owns which pairs are compared
with which; the statistics are `evaluate`'s, the scores any scorer's. Knows nothing of torch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.evaluate import HeadMetrics, evaluate_head
from pipeline.scenes.captions import describe, word
from pipeline.scenes.negatives import Change, change_one_word, other_scene
from pipeline.scenes.render import pixels, render_jpeg
from pipeline.scenes.scene import Scene, Split, sample_scene
from pipeline.schema import ScorerProtocol

Floats = npt.NDArray[np.float32]

BATCH_SCENES = 32
HEADS = ("itm", "itc")
OTHER_SCENE = "another scene's caption"
ONE_WORD = "one word changed"


class SceneCaptions(NamedTuple):
    """One scene with a true caption and two false ones."""

    scene: Scene
    true: str
    other: str  # true of another scene
    changed: str  # the true one with one word changed
    change: Change


class SceneScores(NamedTuple):
    """Scores of n scenes' three captions by head: (n, 3) in the order true, other, changed."""

    by_head: Mapping[str, Floats]
    unseen: npt.NDArray[np.bool_]  # (n,): the scene shows a held-out combination of colour and shape
    changes: npt.NDArray[np.str_]  # (n,): `Change` of the changed caption


class SceneRow(NamedTuple):
    """One line of the table."""

    scenes: str  # seen combinations | unseen combinations
    negatives: str
    head: str
    metrics: HeadMetrics


def scene_captions(split: Split, index: int, n_scenes: int) -> SceneCaptions:
    """The captions of scene `index`; the other scene is among the split's first n_scenes. Always the same ones."""
    scene = sample_scene(split, index)
    rng = random.Random(f"evaluation/{split.name}/{index}")
    claim, wording = describe(scene, rng), str(rng.getrandbits(32))
    changed = change_one_word(claim, scene, rng)
    other = other_scene(scene, split, rng, n_scenes)
    return SceneCaptions(
        scene, word(claim, wording), word(other, str(rng.getrandbits(32))), word(changed.claim, wording), changed.change
    )


def score_scenes(
    scorer: ScorerProtocol, split: Split, n_scenes: int, size: int, *, progress: Callable[[int], None] | None = None
) -> SceneScores:
    """Render the split's first n_scenes scenes at `size` and score their captions; ITM by its logit, which doesn't saturate."""
    rows: list[SceneCaptions] = []
    parts: dict[str, list[Floats]] = {head: [] for head in HEADS}
    for start in range(0, n_scenes, BATCH_SCENES):
        batch = [scene_captions(split, index, n_scenes) for index in range(start, min(start + BATCH_SCENES, n_scenes))]
        images = np.stack([pixels(render_jpeg(row.scene), size) for row in batch])
        scores = scorer.score(images, [[row.true, row.other, row.changed] for row in batch])
        parts["itm"].append((scores.itm_logits[:, 1] - scores.itm_logits[:, 0]).reshape(-1, 3))
        parts["itc"].append(scores.itc_similarity.reshape(-1, 3))
        rows += batch
        if progress:
            progress(len(batch))
    return SceneScores(
        by_head={head: np.concatenate(part) for head, part in parts.items()},
        unseen=np.array([row.scene.unseen for row in rows], dtype=np.bool_),
        changes=np.array([row.change.value for row in rows], dtype=np.str_),
    )


def scene_table(scores: SceneScores, *, resamples: int = 1_000) -> list[SceneRow]:
    """AUC and the rest by kind of negative and head; scenes of unseen combinations apart, and each kind of change apart."""
    return list(_rows(scores, resamples))


def _rows(scores: SceneScores, resamples: int) -> Iterator[SceneRow]:
    for name, chosen in (("seen", ~scores.unseen), ("unseen", scores.unseen)):
        if not chosen.any():
            continue
        kinds = [(OTHER_SCENE, 1, chosen), (ONE_WORD, 2, chosen)]
        kinds += [(f"{ONE_WORD}: {change}", 2, chosen & (scores.changes == change.value)) for change in Change]
        for negatives, column, mask in kinds:
            for head in HEADS if mask.any() else ():
                yield SceneRow(name, negatives, head, _compare(scores.by_head[head][mask], column, resamples))


def _compare(triples: Floats, column: int, resamples: int) -> HeadMetrics:
    """True captions (column 0) against one kind of false ones; a scene's two pairs are resampled together."""
    n = len(triples)
    labels = np.arange(2 * n) < n
    return evaluate_head(
        labels, np.concatenate((triples[:, 0], triples[:, column])), groups=np.tile(np.arange(n), 2), resamples=resamples
    )
