"""Rendered scenes as one file of pixels, so that training reads them instead of drawing them again.

Owns the file: `<split>-<size>px-<count>-v<version>.u8`, raw uint8 (count, size, size, 3), written under another name until it
is whole. Knows nothing of captions: they are drawn from the scene, which `sample_scene` gives again for the same index.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.scenes.render import pixels, render_jpeg
from pipeline.scenes.scene import SPLITS, VERSION, Split, sample_scene

Pixels = npt.NDArray[np.uint8]
CHUNK = 500  # scenes of one unit of work: about a second and a half


def render_pixels(split: Split, start: int, stop: int, size: int) -> Pixels:
    """Scenes start..stop as a model sees them: uint8 (stop - start, size, size, 3)."""
    return np.stack([pixels(render_jpeg(sample_scene(split, index)), size) for index in range(start, stop)])


def cached_pixels(
    folder: Path, split: Split, count: int, size: int, *, workers: int = 2, progress: Callable[[int], None] | None = None
) -> Pixels:
    """The first `count` scenes of a split, read-only uint8 (count, size, size, 3), rendered into `folder` unless already there.

    `progress` is called with the number of scenes as they get done. Raises OSError if the folder cannot be written.
    """
    path = folder / f"{split.name}-{size}px-{count}-v{VERSION}.u8"
    shape = (count, size, size, 3)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        np.memmap(unfinished, np.uint8, "w+", shape=shape).flush()
        render = partial(_render_chunk, unfinished, split.name, shape)
        try:
            with get_context("spawn").Pool(workers) as pool:
                for done in pool.imap_unordered(render, range(0, count, CHUNK)):
                    if progress:
                        progress(done)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return np.memmap(path, np.uint8, "r", shape=shape)


def _render_chunk(path: Path, split_name: str, shape: tuple[int, int, int, int], start: int) -> int:
    """Render one chunk into the file; returns its number of scenes."""
    stop = min(start + CHUNK, shape[0])
    file = np.memmap(path, np.uint8, "r+", shape=shape)
    file[start:stop] = render_pixels(SPLITS[split_name], start, stop, shape[1])
    file.flush()
    return stop - start
