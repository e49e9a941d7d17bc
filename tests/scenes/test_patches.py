"""What patches show, held against the scene."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scenes.captions import OPPOSITE
from pipeline.scenes.patches import ATTRIBUTES, NOTHING, patch_attributes
from pipeline.scenes.scene import COLOURS, RELATIONS, SHAPES, TEST, sample_scene


@given(st.integers(0, 10**9))
def test_each_thing_is_on_some_patch_and_the_backdrop_on_most(index: int) -> None:
    scene = sample_scene(TEST, index)
    labels = patch_attributes(scene, 7)
    assert labels.shape == (49, len(ATTRIBUTES))
    for column, values in enumerate(ATTRIBUTES.values()):
        assert labels[:, column].max() < values
    shown = {(SHAPES[shape], COLOURS[colour]) for shape, colour in labels[labels[:, 0] != NOTHING, :2]}
    assert shown == {(thing.kind.shape, thing.kind.colour) for thing in scene.things}
    assert (labels[:, 0] == NOTHING).sum() > 10
    assert ((labels == NOTHING).all(axis=1) == (labels == NOTHING).any(axis=1)).all()


@given(st.integers(0, 10**9))
def test_counts_and_places_are_the_scenes(index: int) -> None:
    scene = sample_scene(TEST, index)
    labels = patch_attributes(scene, 14)
    for number, thing in enumerate(scene.things):
        patch = labels[min(int(thing.y * 14), 13) * 14 + min(int(thing.x * 14), 13)]
        assert patch[4] + 1 == sum(other.kind == thing.kind for other in scene.things)
        place = None if patch[5] == len(RELATIONS) else RELATIONS[patch[5]]
        expected = scene.relation if number == 0 or scene.relation is None else OPPOSITE[scene.relation]
        assert place is expected


def test_a_patch_knows_the_thing_at_its_centre() -> None:
    for index in range(50):
        scene = sample_scene(TEST, index)
        labels = patch_attributes(scene, 28)
        for thing in scene.things:
            patch = labels[int(thing.y * 28) * 28 + int(thing.x * 28)]
            assert (SHAPES[patch[0]], COLOURS[patch[1]]) == (thing.kind.shape, thing.kind.colour)
    assert np.array_equal(labels, patch_attributes(scene, 28))
