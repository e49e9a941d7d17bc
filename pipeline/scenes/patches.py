"""What each square patch of a picture shows: the attributes of the thing that covers its centre.

Knows nothing of models beyond the grid that their patches form.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.scenes.scene import COLOURS, FILLS, MAX_THINGS, RELATIONS, SHAPES, SIZES, Scene

NOTHING = -1
ATTRIBUTES = {  # name -> number of values; a patch's value is an index, or NOTHING
    "shape": len(SHAPES),
    "colour": len(COLOURS),
    "size": len(SIZES),
    "fill": len(FILLS),
    "count": MAX_THINGS,  # of things of its kind, less one
    "place": len(RELATIONS) + 1,  # relation to the other thing of a pair; the last: no pair
}


def patch_attributes(scene: Scene, grid: int) -> npt.NDArray[np.int64]:
    """(grid * grid, attributes): for each patch, row by row, the values of `ATTRIBUTES` in order, NOTHING on the backdrop."""
    labels = np.full((grid * grid, len(ATTRIBUTES)), NOTHING, np.int64)
    centres = (np.arange(grid) + 0.5) / grid
    across, down = np.tile(centres, grid), np.repeat(centres, grid)
    side = min(scene.width, scene.height)
    for index, thing in enumerate(scene.things):
        half_width, half_height = thing.radius * side / scene.width, thing.radius * side / scene.height
        distance = ((across - thing.x) / half_width) ** 2 + ((down - thing.y) / half_height) ** 2
        covered = distance < 1
        covered[distance.argmin()] = True  # the smallest things may lie between the centres
        count = sum(other.kind == thing.kind for other in scene.things)
        labels[covered] = (
            SHAPES.index(thing.kind.shape),
            COLOURS.index(thing.kind.colour),
            SIZES.index(thing.kind.size),
            FILLS.index(thing.kind.fill),
            count - 1,
            _place(scene, index),
        )
    return labels


def _place(scene: Scene, index: int) -> int:
    """Where a thing of a related pair is, seen from the other."""
    if scene.relation is None:
        return len(RELATIONS)
    place = RELATIONS.index(scene.relation)
    return place if index == 0 else place ^ 1  # opposites are neighbours in the list
