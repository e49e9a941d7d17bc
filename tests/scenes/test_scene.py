"""Scenes: the same ones for the same seeds, what the splits promise, things that can be told apart."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scenes.captions import relation_between
from pipeline.scenes.scene import DEMO, HELD_OUT, ILLEGIBLE, MAX_THINGS, SPLITS, TEST, TRAIN, VALIDATION, Scene, sample_scene

indices = st.integers(0, 10**9)
splits = st.sampled_from(sorted(SPLITS))


def reach(scene: Scene, index: int) -> tuple[float, float]:
    """Half width and half height of a thing, of the picture's."""
    side = min(scene.width, scene.height) * scene.things[index].radius
    return side / scene.width, side / scene.height


@given(splits, indices)
def test_same_seed_same_scene(split: str, index: int) -> None:
    assert sample_scene(SPLITS[split], index) == sample_scene(SPLITS[split], index)


def test_scenes_do_not_depend_on_the_process() -> None:
    program = "from pipeline.scenes.scene import *; print(sample_scene(TEST, 3))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert shown == str(sample_scene(TEST, 3))


def test_no_scene_is_in_two_splits_or_twice_in_one() -> None:
    scenes = [sample_scene(split, index) for split in SPLITS.values() for index in range(1_000)]
    assert len(set(scenes)) == len(scenes)


@pytest.mark.parametrize("split", [TRAIN, VALIDATION, DEMO], ids=lambda split: split.name)
def test_held_out_combinations_never_show_outside_the_test_split(split: object) -> None:
    for index in range(3_000):
        assert not sample_scene(split, index).unseen  # type: ignore[arg-type]


def test_the_test_split_shows_every_held_out_combination() -> None:
    scenes = [sample_scene(TEST, index) for index in range(2_000)]
    shown = {(thing.kind.colour, thing.kind.shape) for scene in scenes for thing in scene.things}
    assert shown >= HELD_OUT
    assert sum(scene.unseen for scene in scenes) / len(scenes) == pytest.approx(TEST.unseen_share, abs=0.04)


def test_each_colour_and_each_shape_is_seen_in_training() -> None:
    assert len({colour for colour, _ in HELD_OUT}) == len(HELD_OUT)
    assert len({shape for _, shape in HELD_OUT}) == len(HELD_OUT)


@given(splits, indices)
def test_things_are_legible_inside_the_picture_and_apart(split: str, index: int) -> None:
    scene = sample_scene(SPLITS[split], index)
    assert 1 <= len(scene.things) <= MAX_THINGS
    for place, thing in enumerate(scene.things):
        half = reach(scene, place)
        assert (thing.kind.colour, scene.backdrop) not in ILLEGIBLE
        assert half[0] - 1e-3 <= thing.x <= 1 - half[0] + 1e-3
        assert half[1] - 1e-3 <= thing.y <= 1 - half[1] + 1e-3
    for one, other in combinations(range(len(scene.things)), 2):
        a, b = scene.things[one], scene.things[other]
        widths = [x + y for x, y in zip(reach(scene, one), reach(scene, other), strict=True)]
        assert abs(a.x - b.x) > 0.9 * widths[0] or abs(a.y - b.y) > 0.9 * widths[1]


@given(splits, indices)
def test_the_relation_is_what_the_picture_shows(split: str, index: int) -> None:
    scene = sample_scene(SPLITS[split], index)
    if scene.relation is not None:
        assert relation_between(*scene.things) is scene.relation
