"""The pointing game: who points at a scene's things wins it, who does not loses."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.explain.explainer import CaptionMaps, WordMap
from pipeline.scenes.localisation import localise
from pipeline.scenes.scene import TEST, sample_scene


def test_the_game_knows_where_things_are() -> None:
    """A map that is made of the scene's own places wins; one that points at the corner rarely does."""

    def player(point: Any) -> Any:
        scenes = iter(range(40))

        def play(pixels: np.ndarray, captions: list[str]) -> list[CaptionMaps]:
            scene = sample_scene(TEST, next(scenes))
            heat = np.zeros((14, 14), np.float32)
            thing = scene.things[0]
            column, row = point(thing)
            heat[int(row * 14), int(column * 14)] = 1
            name = str(thing.kind.shape) if len({other.kind.shape for other in scene.things}) == 1 else "picture"
            return [CaptionMaps(0.5, 0.0, heat, (WordMap(name, heat),))]

        return play

    assert localise(player(lambda thing: (thing.x, thing.y)), TEST, 40, 112).nouns.hits == 1
    corner = localise(player(lambda thing: (0.0, 0.0)), TEST, 40, 112)
    assert corner.captions.hits < 0.1
    assert 0.05 < corner.captions.chance < 0.5
