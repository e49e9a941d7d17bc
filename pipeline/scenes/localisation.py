"""How often a heat map points at the thing that its word names, on rendered scenes, whose things have known places.

The pointing game (Zhang et al., arXiv:1608.00507): a map hits if its highest patch lies on the named thing; by chance it would
as often as the thing's share of the area. Knows nothing of how maps are made.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.scenes.captions import SHAPE_WORDS, describe, word
from pipeline.scenes.render import pixels, render_jpeg
from pipeline.scenes.scene import Scene, Shape, Split, Thing, sample_scene
from pipeline.schema import FloatArray

if TYPE_CHECKING:
    from pipeline.explain.explainer import CaptionMaps


class Pointing(NamedTuple):
    """What became of the maps of one kind."""

    maps: int
    hits: float  # share of maps whose highest patch lies on a named thing's bounding box
    chance: float  # share that a patch chosen at random would hit, on average

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of `hits`: Wilson's interval."""
        n, p, z = self.maps, self.hits, 1.96
        centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return float((centre - half) / (1 + z * z / n)), float((centre + half) / (1 + z * z / n))


class Localisation(NamedTuple):
    """Maps of the nouns that name a shape, and of whole captions (which name all things, or some of them)."""

    nouns: Pointing
    captions: Pointing


def localise(
    explain: Callable[[npt.NDArray[np.uint8], Sequence[str]], Sequence[CaptionMaps]],
    split: Split,
    n_scenes: int,
    size: int,
) -> Localisation:
    """Play the pointing game with a true caption of each of the split's first `n_scenes`, rendered at `size` pixels.

    A noun's things are all those of its shape; a caption's, those of the shapes that it names (all, for "object" or "thing").
    """
    nouns: list[tuple[bool, float]] = []
    captions: list[tuple[bool, float]] = []
    for index in range(n_scenes):
        scene = sample_scene(split, index)
        rng = random.Random(f"localisation/{split.name}/{index}")
        claim = describe(scene, rng)
        (found,) = explain(pixels(render_jpeg(scene), size), [word(claim, str(rng.getrandbits(32)))])
        named = {phrase.shape for phrase in claim.phrases}
        captions.append(
            _play(found.map, [thing for thing in scene.things if thing.kind.shape in named or None in named], scene)
        )
        for noun in found.words:
            shape = _shape_of(noun.word)
            if shape in named and shape is not None:
                nouns.append(_play(noun.map, [thing for thing in scene.things if thing.kind.shape is shape], scene))
    return Localisation(_pointing(nouns), _pointing(captions))


def _play(heat: FloatArray, things: Sequence[Thing], scene: Scene) -> tuple[bool, float]:
    """Whether the highest patch is one of the things' own, and the share of all patches that are."""
    own = _covered(things, scene, len(heat))
    return bool(own[np.unravel_index(int(heat.argmax()), heat.shape)]), float(own.mean())


def _covered(things: Sequence[Thing], scene: Scene, grid: int) -> npt.NDArray[np.bool_]:
    """(grid, grid): patches whose centre lies in a bounding box; at least one a thing."""
    centres = (np.arange(grid) + 0.5) / grid
    covered = np.zeros((grid, grid), np.bool_)
    side = min(scene.width, scene.height)
    for thing in things:
        half_width, half_height = thing.radius * side / scene.width, thing.radius * side / scene.height
        across, down = np.abs(centres - thing.x), np.abs(centres - thing.y)
        covered |= (down <= max(half_height, down.min()))[:, None] & (across <= max(half_width, across.min()))
    return covered


def _shape_of(noun: str) -> Shape | None:
    """The shape that a word names, in singular or plural; of "plus sign" the second word."""
    for shape, nouns in SHAPE_WORDS.items():
        if shape is not None and noun.lower() in _forms(nouns):
            return shape
    return None


def _forms(nouns: Sequence[str]) -> Iterator[str]:
    for noun in nouns:
        last = noun.rpartition(" ")[2]
        yield from (last, f"{last}s", f"{last}es")


def _pointing(games: Sequence[tuple[bool, float]]) -> Pointing:
    hits, shares = np.array(games, np.float64).reshape(-1, 2).T
    return Pointing(len(games), float(hits.mean()), float(shares.mean()))
