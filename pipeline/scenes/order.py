"""In which order scenes are seen: passes through all of them, each in an order of its own. All follows from the seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


class Batches:
    """The batches of `size` that steps take from `count` scenes."""

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.count, self.size, self.seed = count, size, seed
        self._made: tuple[int, Numbers] | None = None  # the pass that the last step was in

    def at(self, step: int) -> Numbers:
        """(size,) scene numbers of a step. A pass goes through all scenes once, less a partial batch at its end."""
        number, index = divmod(step, self.count // self.size)
        if self._made is None or self._made[0] != number:
            order = np.random.default_rng([self.seed, number]).permutation(self.count)
            self._made = number, order[: self.count // self.size * self.size].reshape(-1, self.size)
        chosen: Numbers = self._made[1][index]
        return chosen
