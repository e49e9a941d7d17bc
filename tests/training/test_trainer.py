"""A loop that learns, a stop that changes nothing, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import CheckpointError
from pipeline.model import load_model
from pipeline.model.tokenizer import CaptionTokenizer
from pipeline.scenes.cache import render_pixels
from pipeline.scenes.scene import TRAIN
from pipeline.scorer import Scorer
from pipeline.training.recipe import Phase, Recipe
from pipeline.training.trainer import Trainer, demo_vocabulary, export_model

PHASES = (Phase(0), Phase(2, itc=True), Phase(4, itc=True, itm=True, ramp_steps=4))
TINY = Recipe(
    steps=12, phases=PHASES, decay_share=0.25, warmup_steps=2, scenes=24, batch_size=6, learning_rate=2e-3, image_size=32
)


@pytest.fixture(scope="module")
def tiny_pixels() -> np.ndarray:
    return render_pixels(TRAIN, 0, TINY.scenes, TINY.image_size)


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in trainer.model.state_dict().values()]


def test_learning_rate_rises_stays_and_falls() -> None:
    recipe = replace(TINY, steps=100, warmup_steps=10, decay_share=0.2)
    rates = [recipe.learning_rate_at(step) / recipe.learning_rate for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:81] == [1.0] * 72
    assert rates[90] == pytest.approx(0.5)
    assert 0 < rates[99] <= 0.05


def test_a_few_steps_reduce_the_loss(tiny_pixels: np.ndarray) -> None:
    recipe = replace(TINY, steps=40, phases=(Phase(0, itc=True, itm=True),))
    reports = list(Trainer(recipe, tiny_pixels).steps())
    assert [report.step for report in reports] == list(range(1, 41))
    for name in ("loss", "itc_loss", "patch_loss"):
        losses = [getattr(report, name) for report in reports]
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5]), name
        assert all(math.isfinite(loss) for loss in losses)


def test_phases_learn_what_they_say(tiny_pixels: np.ndarray) -> None:
    reports = list(Trainer(TINY, tiny_pixels).steps())
    assert [math.isnan(report.itc_loss) for report in reports] == [True] * 2 + [False] * 10
    assert [math.isnan(report.itm_loss) for report in reports] == [True] * 4 + [False] * 8
    assert [TINY.hardness_at(step) for step in range(4, 12)] == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]


def test_stopping_and_resuming_changes_nothing(tiny_pixels: np.ndarray, tmp_path: Path) -> None:
    whole = Trainer(TINY, tiny_pixels)
    list(whole.steps())
    first = Trainer(TINY, tiny_pixels)
    for report in first.steps():
        if report.step == 5:
            break
    first.save(tmp_path / "state.pt")
    torch.manual_seed(999)  # whatever another process did
    second = Trainer(TINY, tiny_pixels)
    second.load(tmp_path / "state.pt")
    list(second.steps())
    for one, other in zip(weights(whole), weights(second), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(whole.log_temperature, second.log_temperature)


def test_validation_between_steps_changes_nothing(tiny_pixels: np.ndarray) -> None:
    plain = Trainer(TINY, tiny_pixels)
    list(plain.steps())
    validated = Trainer(TINY, tiny_pixels)
    for _ in validated.steps():
        validated.scorer().score(tiny_pixels[:2], ["a", "b"])
    for one, other in zip(weights(plain), weights(validated), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2}, "seed 1 there, 2 here"),
        ({"learning_rate": 1.0}, "learning_rate"),
        ({"steps": 4}, "steps 12 there, 4 here"),
    ],
)
def test_another_recipe_is_refused(tiny_pixels: np.ndarray, tmp_path: Path, changes: dict[str, int], message: str) -> None:
    trainer = Trainer(TINY, tiny_pixels)
    for report in trainer.steps():
        if report.step == 4:
            break
    trainer.save(tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=message):
        Trainer(replace(TINY, **changes), tiny_pixels).load(tmp_path / "state.pt")  # type: ignore[arg-type]


def test_more_steps_may_be_asked_for_before_the_rate_decays(tiny_pixels: np.ndarray, tmp_path: Path) -> None:
    trainer = Trainer(TINY, tiny_pixels)
    next(trainer.steps())
    trainer.save(tmp_path / "state.pt")
    longer = Trainer(replace(TINY, steps=20), tiny_pixels)
    longer.load(tmp_path / "state.pt")
    assert longer.step == 1


def test_what_is_no_state_is_refused(tiny_pixels: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"no state")
    with pytest.raises(CheckpointError, match="not a saved training state"):
        Trainer(TINY, tiny_pixels).load(tmp_path / "state.pt")


def test_the_exported_model_scores_as_the_trained_one(tiny_pixels: np.ndarray, tmp_path: Path) -> None:
    trainer = Trainer(TINY, tiny_pixels)
    next(trainer.steps())
    captions = ["a red circle", "two blue squares"]
    expected = trainer.scorer().score(tiny_pixels[:2], captions)
    export_model(trainer.model, tmp_path / "model")
    assert trainer.model.itm_head.weight.dtype == torch.float32
    found = Scorer(load_model(tmp_path / "model"), "cpu", "float32").score(tiny_pixels[:2], captions)
    assert found.itm_logits == pytest.approx(expected.itm_logits, abs=0.01)
    assert found.itc_similarity == pytest.approx(expected.itc_similarity, abs=0.01)


def test_the_vocabulary_spells_any_ascii_word() -> None:
    tokenizer = CaptionTokenizer(demo_vocabulary())
    unknown = demo_vocabulary().index("[UNK]")
    batch = tokenizer(["a stripy azure heart-shaped zebra, 42 % off!", "Circle"])
    assert not (batch.input_ids == unknown).any()
    assert json.loads(Path("configs/demo_model.json").read_text())["vocab_size"] == len(tokenizer)
