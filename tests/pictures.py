"""Pictures as files of every format, and how far two of them differ."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.config import ImagesConfig
from pipeline.errors import DecodeError
from pipeline.images import decode
from pipeline.schema import Status

Pixels = npt.NDArray[np.uint8]
RED, WHITE, GREY = (255, 0, 0), (255, 255, 255), (128, 128, 128)


def picture(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """A smooth picture with a few hard edges; no two of its corners alike."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    pixels = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    pixels[: height // 4, : width // 3] = (200, 30, 60)
    pixels[-height // 5 :, -width // 6 :] = (10, 220, 90)
    return Image.fromarray(pixels)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(image: Image.Image, size: int) -> Pixels:
    """What Pillow alone makes of an RGB image."""
    return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


def difference(left: Pixels, right: Pixels) -> int:
    """The largest difference, in grey levels."""
    return int(np.abs(left.astype(np.int16) - right.astype(np.int16)).max())


def reason_of(data: bytes, config: ImagesConfig | None = None) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(data, 16, config or ImagesConfig())
    assert caught.value.status == Status.FAILED_TO_DECODE
    return caught.value.reason


def half_transparent(mode: str) -> Image.Image:
    image = Image.new("RGBA", (40, 40), (*RED, 255))
    image.paste((0, 0, 0, 0), (20, 0, 40, 40))
    return image.convert(mode)


def palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (40, 40), 0)
    image.putpalette([*RED, 0, 0, 255])
    image.paste(1, (20, 0, 40, 40))
    if transparent:
        image.info["transparency"] = 1
    return image


def two_frames() -> list[Image.Image]:
    return [Image.new("RGB", (40, 40), RED), Image.new("RGB", (40, 40), (0, 255, 0))]


JPEG, PNG, GIF, WEBP, AVIF, BMP, TIFF = (
    saved(picture(), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF")
)
CMYK_JPEG = saved(picture().convert("CMYK"), "JPEG")
