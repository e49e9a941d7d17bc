"""Orders of scenes: each once a pass, the same for the same seed, one palette where one is asked for."""

from __future__ import annotations

import numpy as np

from pipeline.scenes.order import MIXED_EVERY, Batches
from pipeline.scenes.scene import TRAIN, Colour, sample_scene


def colours(index: int) -> frozenset[Colour]:
    return frozenset(thing.kind.colour for thing in sample_scene(TRAIN, index).things)


def test_each_mixed_pass_sees_every_scene_once() -> None:
    batches = Batches(TRAIN, 24, 6, seed=1)
    passes = [np.concatenate([batches.at(step, one_palette=False) for step in range(start, start + 4)]) for start in (0, 4)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(24))
    assert passes[0].tolist() != passes[1].tolist()


def test_the_order_follows_from_the_seed_alone() -> None:
    one, other, third = (Batches(TRAIN, 200, 8, seed=seed) for seed in (1, 1, 2))
    for step in (30, 3, 11):
        for one_palette in (True, False):
            assert np.array_equal(one.at(step, one_palette=one_palette), other.at(step, one_palette=one_palette))
    assert not np.array_equal(one.at(3, one_palette=False), third.at(3, one_palette=False))


def test_batches_of_one_palette_have_one_but_for_every_fourth() -> None:
    batches = Batches(TRAIN, 2_000, 8, seed=1)
    for step in range(1, 41):
        palettes = {colours(int(index)) for index in batches.at(step, one_palette=True)}
        assert (len(palettes) == 1) == (step % MIXED_EVERY != 0)


def test_too_few_scenes_for_a_batch_of_one_palette_are_mixed() -> None:
    assert len(Batches(TRAIN, 8, 8, seed=1).at(1, one_palette=True)) == 8
