"""What the shipped weights tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pipeline.model
from pipeline.evaluate import roc_auc
from pipeline.model import load_model
from pipeline.scenes.evaluation import SceneScores, score_scenes
from pipeline.scenes.scene import TEST
from pipeline.scorer import Scorer
from pipeline.training.trainer import demo_vocabulary

DEMO = Path(pipeline.model.__file__).with_name("demo")


@pytest.fixture(scope="module")
def shipped_scores() -> SceneScores:
    scorer = Scorer(load_model(DEMO), "cpu", "float32")
    return score_scenes(scorer, TEST, 500, scorer.image_size)


def auc(scores: SceneScores, head: str, column: int) -> float:
    triples = scores.by_head[head][~scores.unseen]
    return roc_auc(np.arange(2 * len(triples)) < len(triples), np.concatenate((triples[:, 0], triples[:, column])))


def test_the_shipped_model_is_small_and_complete() -> None:
    assert {path.name for path in DEMO.iterdir()} >= {"model.safetensors", "config.json", "vocab.txt", "MODEL_CARD.md"}
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 10_000_000
    assert (DEMO / "vocab.txt").read_text().splitlines()[: len(demo_vocabulary())] == demo_vocabulary()


@pytest.mark.slow
def test_the_shipped_model_tells_another_scenes_caption(shipped_scores: SceneScores) -> None:
    assert auc(shipped_scores, "itm", 1) >= 0.98
    assert auc(shipped_scores, "itc", 1) >= 0.96


@pytest.mark.slow
def test_the_shipped_model_tells_one_changed_word_and_better_by_itm(shipped_scores: SceneScores) -> None:
    assert auc(shipped_scores, "itm", 2) > 0.86
    assert auc(shipped_scores, "itm", 2) > auc(shipped_scores, "itc", 2)
