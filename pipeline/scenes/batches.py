"""What one training step sees of the scenes: their numbers, true captions, one-word-changed ones, and who fits whom.

Knows nothing of pixels or of a model. A pure function of the split, the scenes' numbers and a seed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.scenes.captions import describe, is_true, word
from pipeline.scenes.negatives import change_one_word
from pipeline.scenes.scene import Split, sample_scene

CAPTIONS_PER_SCENE = 2  # true captions a step: reading is cheap beside looking, and the image is encoded once


class Batch(NamedTuple):
    """B scenes with n = 2 B true captions; caption i is of scene i // 2."""

    indices: npt.NDArray[np.int64]  # (B,) scene numbers within the split
    captions: list[str]  # n, true
    changed: list[str]  # n: the same with one word changed, false of their scene
    fits: npt.NDArray[np.bool_]  # (B, n): caption is true of scene, its own or by chance


def make_batch(split: Split, indices: Sequence[int], seed: str) -> Batch:
    """Draw captions and their one-word changes for the scenes, and find out which captions also fit other scenes."""
    rng = random.Random(f"batch/{seed}")
    scenes = [sample_scene(split, index) for index in indices]
    claims, captions, changed = [], [], []
    for scene in scenes:
        for _ in range(CAPTIONS_PER_SCENE):
            claim = describe(scene, rng)
            wording = str(rng.getrandbits(32))
            claims.append(claim)
            captions.append(word(claim, wording))
            changed.append(word(change_one_word(claim, scene, rng).claim, wording))
    fits = np.array([[is_true(claim, scene) for claim in claims] for scene in scenes], dtype=np.bool_)
    return Batch(np.asarray(indices, dtype=np.int64), captions, changed, fits)
