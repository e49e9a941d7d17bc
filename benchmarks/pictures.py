"""Pictures to measure decoding with: made here, of several contents, at any size. None is a photograph.

Files of them at quality 75 to 95 have 0.8 to 5 bits a pixel, as photographs on the web have.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from pipeline.scenes.render import render
from pipeline.scenes.scene import TEST, sample_scene


def texture(width: int, height: int, seed: int) -> Image.Image:
    """Structure at all scales from 4 to 256 pixels, and some hard edges."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for scale in (4, 16, 64, 256):
        noise = rng.uniform(0, 255, (max(2, height // scale), max(2, width // scale), 3)).astype(np.uint8)
        image += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC), np.float32) / 4
    for _ in range(20):
        top, left = rng.integers(0, height), rng.integers(0, width)
        image[top : top + height // 8, left : left + width // 8] += rng.uniform(-80, 80, 3)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def gradients(width: int, height: int, seed: int) -> Image.Image:
    """Smooth light over a field of view, with the grain of a sensor."""
    rng = np.random.default_rng(seed)
    light = Image.fromarray(rng.uniform(0, 255, (3, 4, 3)).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 3, (height, width, 1)).astype(np.float32)
    return Image.fromarray((np.asarray(light, np.float32) + grain).clip(0, 255).astype(np.uint8))


def scenes(width: int, height: int, seed: int) -> Image.Image:
    """A mosaic of the demo's rendered scenes: flat areas and sharp edges."""
    image = Image.new("RGB", (width, height))
    top = number = 0
    while top < height:
        left = row = 0
        while left < width:
            tile = render(sample_scene(TEST, 10_000 * seed + number))
            image.paste(tile, (left, top))
            left, row, number = left + tile.width, max(row, tile.height), number + 1
        top += row
    return image


CONTENTS: dict[str, Callable[[int, int, int], Image.Image]] = {"texture": texture, "gradients": gradients, "scenes": scenes}
QUALITIES = (75, 85, 95)


def jpeg(image: Image.Image, quality: int) -> bytes:
    """As a JPEG file; colours at half the resolution below 90, as cameras and sites do."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    return buffer.getvalue()


def web_image(width: int, height: int, seed: int) -> bytes:
    """A JPEG as the web has them: the contents in turn, at the middle quality."""
    make = list(CONTENTS.values())[seed % len(CONTENTS)]
    return jpeg(make(width, height, seed), QUALITIES[1])
