"""In which order scenes are seen: passes through all of them, in mixed batches or in batches of one palette.

Scenes of one palette have the same colours, so that what else there is to see must tell them apart. All follows from the seed.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.scenes.scene import COLOURS, Split, sample_scene

Numbers = npt.NDArray[np.int64]
MIXED_EVERY = 4  # batches; among those of one palette every fourth is mixed: what tells colours apart must not be forgotten


class Batches:
    """The batches of `size` scenes that steps take from a split's first `count`."""

    def __init__(self, split: Split, count: int, size: int, seed: int) -> None:
        self.split, self.count, self.size, self.seed = split, count, size, seed
        self._made: dict[tuple[int, bool], Numbers] = {}

    def at(self, step: int, *, one_palette: bool) -> Numbers:
        """(size,) scene numbers of a step. A pass goes through all scenes once, less partial batches at its end."""
        key = (step // (self.count // self.size), not one_palette or step % MIXED_EVERY == 0)
        if key not in self._made:
            self._made = {known: batches for known, batches in self._made.items() if known[0] == key[0]}
            self._made[key] = self._make(*key)
        batches = self._made[key]
        chosen: Numbers = batches[step % len(batches)]
        return chosen

    @cached_property
    def palettes(self) -> Numbers:
        """(count,) for each scene a number that stands for the set of its things' colours."""
        bits = {colour: 1 << bit for bit, colour in enumerate(COLOURS)}
        colours = ({thing.kind.colour for thing in sample_scene(self.split, index).things} for index in range(self.count))
        return np.array([sum(bits[colour] for colour in palette) for palette in colours], np.int64)

    def _make(self, number: int, mixed: bool) -> Numbers:
        """(batches, size) of pass `number`."""
        rng = np.random.default_rng([self.seed, number, mixed])
        order = rng.permutation(self.count)
        if mixed:
            groups = [order]
        else:
            palette = self.palettes[order]
            groups = [order[palette == one] for one in np.unique(palette)]
        whole = [group[: len(group) // self.size * self.size].reshape(-1, self.size) for group in groups]
        batches = np.concatenate(whole)
        return rng.permutation(batches) if len(batches) else order[: self.size][None]
