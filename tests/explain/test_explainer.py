"""Maps of words: what a word is, and whether its map points at what it names."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.explain.explainer import Explainer, load_explainer
from pipeline.scenes.evaluation import scene_captions
from pipeline.scenes.localisation import localise
from pipeline.scenes.render import render_jpeg
from pipeline.scenes.scene import DEMO, TEST
from tests.tiny import tiny_checkpoint


def test_pieces_of_a_word_are_one_word(tmp_path: Path) -> None:
    explainer = load_explainer(tiny_checkpoint(tmp_path), device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    caption = "A skateboarding Naïve dog, barking"
    (found,) = explainer.explain(pixels, [caption])
    assert [word.word for word in found.words] == ["A", "skateboarding", "Naïve", "dog", "barking"]
    assert found.itm_score == pytest.approx(1 / (1 + np.exp(-found.itm_logit)))
    assert explainer.explain(pixels, []) == []


@pytest.mark.slow
def test_maps_point_at_what_is_named(explainer: Explainer) -> None:
    found = localise(explainer.explain, TEST, 150, explainer.image_size)
    assert found.nouns.maps > 150
    assert found.captions.interval[0] > 2 * found.captions.chance, found
    assert found.nouns.interval[0] > found.nouns.chance, found


def test_maps_of_a_scene(explainer: Explainer) -> None:
    scene = scene_captions(DEMO, 3, 100)
    pixels = np.asarray(Image.open(io.BytesIO(render_jpeg(scene.scene))).convert("RGB").resize((112, 112)))
    true, other = explainer.explain(pixels, [scene.true, scene.other])
    assert true.itm_logit > other.itm_logit
    assert true.map.shape == (7, 7)
    assert true.map.dtype == np.float32
    assert true.map.min() >= 0
