"""Orders of scenes: each once a pass, the same for the same seed."""

from __future__ import annotations

import numpy as np

from pipeline.scenes.order import Batches


def test_each_pass_sees_every_scene_once_less_a_partial_batch() -> None:
    batches = Batches(26, 6, seed=1)
    passes = [np.concatenate([batches.at(step) for step in range(start, start + 4)]) for start in (0, 4)]
    for one in passes:
        assert len(set(one.tolist())) == 24
        assert set(one.tolist()) <= set(range(26))
    assert passes[0].tolist() != passes[1].tolist()


def test_the_order_follows_from_the_seed_and_the_step_alone() -> None:
    one, other, third = (Batches(200, 8, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one.at(step), other.at(step)) for step in (30, 3, 11))
    other.at(77)
    assert np.array_equal(one.at(3), other.at(3))
    assert not np.array_equal(one.at(3), third.at(3))
