"""Heat maps as pictures: a grid of values laid over an image, in colours whose lightness grows evenly with the value.

Pure numpy and Pillow; knows nothing of models, captions or files.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.schema import FloatArray

Pixels = npt.NDArray[np.uint8]

# viridis (S. van der Walt, N. Smith; CC0) at 16 places, 17 of 256 apart: linear between them, at most 7 levels off
VIRIDIS = (
    *((68, 1, 84), (72, 26, 108), (71, 47, 125), (65, 68, 135), (57, 86, 140), (49, 104, 142), (42, 120, 142), (35, 136, 142)),
    *((31, 152, 139), (34, 168, 132), (53, 183, 121), (84, 197, 104), (122, 209, 81), (165, 219, 54), (210, 226, 27)),
    (253, 231, 37),
)
COLOUR_SHARE = 0.6  # of the map's colour in an overlay; the rest is the image in grey, so that every hue is the map's
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L"


def colours(values: FloatArray) -> Pixels:
    """(...) values in [0, 1] -> uint8 (..., 3)."""
    table = np.array(VIRIDIS, np.float64)
    places = np.linspace(0, 1, len(table))
    return np.stack([np.interp(values, places, channel) for channel in table.T], axis=-1).round().astype(np.uint8)


def enlarge(heat: FloatArray, size: int, top: float) -> FloatArray:
    """(g, g) values >= 0 -> (size, size) in [0, 1], bicubic; `top` becomes 1 (all is 0 where it is 0)."""
    scaled = heat / top if top > 0 else np.zeros_like(heat)
    image = Image.fromarray(scaled.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).clip(0, 1)  # bicubic overshoots


def overlay(pixels: Pixels, heat: FloatArray, top: float | None = None) -> Pixels:
    """The map's colours over the image in grey: uint8 (S, S, 3) and (g, g) -> uint8 (S, S, 3).

    top: the value that gets the last colour; None: the map's highest.
    """
    own = colours(enlarge(heat, len(pixels), float(heat.max()) if top is None else top))
    grey = (pixels @ np.array(LUMA))[..., np.newaxis]
    blended: npt.NDArray[np.float64] = COLOUR_SHARE * own + (1 - COLOUR_SHARE) * grey
    return blended.round().astype(np.uint8)


def shrink(pixels: Pixels, side: int) -> Pixels:
    """(S, S, 3) -> at most (side, side, 3)."""
    if len(pixels) <= side:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def beside(*pictures: Pixels) -> Pixels:
    """Pictures of one height, from left to right."""
    return np.concatenate(pictures, axis=1)


def png(pixels: Pixels) -> bytes:
    """(h, w, 3) uint8 -> a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
