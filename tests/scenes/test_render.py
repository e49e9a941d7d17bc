"""Pictures: the same bytes for the same scene, of the size it says, with its colours where its things are."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import images
from pipeline.scenes.cache import cached_pixels, render_pixels
from pipeline.scenes.render import COLOURS, pixels, render, render_jpeg
from pipeline.scenes.scene import TEST, TRAIN, Fill, sample_scene


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_same_scene_same_bytes(index: int) -> None:
    scene = sample_scene(TEST, index)
    data = render_jpeg(scene)
    assert data == render_jpeg(sample_scene(TEST, index))
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (scene.width, scene.height))


def test_pictures_differ_in_quality_and_aspect_ratio() -> None:
    scenes = [sample_scene(TRAIN, index) for index in range(100)]
    assert len({scene.jpeg_quality for scene in scenes}) == 5
    assert {scene.width > scene.height for scene in scenes} == {True, False}
    noisy = next(scene for scene in scenes if scene.noise)
    assert render_jpeg(noisy) != render_jpeg(replace(noisy, noise=0.0))
    assert len(render_jpeg(replace(noisy, jpeg_quality=35))) < len(render_jpeg(replace(noisy, jpeg_quality=95)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_things_have_their_colour_at_their_place(index: int) -> None:
    scene = sample_scene(TEST, index)
    picture = np.asarray(render(scene), dtype=int)
    for thing in scene.things:
        if thing.kind.fill is Fill.SOLID:
            shown = picture[round(thing.y * scene.height), round(thing.x * scene.width)]
            assert np.abs(shown - COLOURS[thing.kind.colour]).max() <= 12


def test_a_model_sees_what_the_pipeline_shows_it() -> None:
    for index in range(10):
        data = render_jpeg(sample_scene(TEST, index))
        apart = np.abs(pixels(data, 112).astype(int) - images.decode(data, 112).astype(int))
        assert apart.mean() < 0.5
        assert apart.max() <= 8


def test_the_cache_holds_the_rendered_pixels(tmp_path: Path) -> None:
    done: list[int] = []
    cached = cached_pixels(tmp_path, TRAIN, 7, 32, workers=1, progress=done.append)
    assert sum(done) == 7
    assert np.array_equal(cached, render_pixels(TRAIN, 0, 7, 32))
    again = cached_pixels(tmp_path, TRAIN, 7, 32, progress=lambda scenes: pytest.fail("rendered again"))
    assert np.array_equal(cached, again)
    assert [path.suffix for path in tmp_path.iterdir()] == [".u8"]
