"""Decoding of every kind of colour: grey, CMYK, palettes, transparency, 16 bits, ICC profiles."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.config import ImagesConfig
from pipeline.images import decode
from tests.pictures import GREY, RED, WHITE, by_pillow, difference, half_transparent, palette, saved, two_frames


def grey16() -> Image.Image:
    return Image.fromarray(np.full((40, 40), 128 * 257, np.uint16))


def png16_rgb() -> bytes:
    """Pillow writes no 16-bit RGB."""
    row = b"\x00" + struct.pack(">3H", 255 * 257, 0, 128 * 257) * 8
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(row * 8)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


Colour = tuple[int, int, int]
# What the left and the right half of the image should look like.
COLOURS: dict[str, tuple[Callable[[], bytes], Colour, Colour]] = {
    "grey jpeg": (lambda: saved(Image.new("L", (40, 40), 128), "JPEG"), GREY, GREY),
    "cmyk jpeg": (lambda: saved(Image.new("RGB", (40, 40), RED).convert("CMYK"), "JPEG", quality=95), RED, RED),
    "cmyk tiff": (lambda: saved(Image.new("RGB", (40, 40), RED).convert("CMYK"), "TIFF"), RED, RED),
    "grey png": (lambda: saved(Image.new("L", (40, 40), 128), "PNG"), GREY, GREY),
    "bilevel png": (lambda: saved(Image.new("1", (40, 40), 1), "PNG"), WHITE, WHITE),
    "bilevel tiff": (lambda: saved(Image.new("1", (40, 40), 1), "TIFF", compression="group4"), WHITE, WHITE),
    "16-bit grey png": (lambda: saved(grey16(), "PNG"), GREY, GREY),
    "16-bit grey tiff": (lambda: saved(grey16(), "TIFF"), GREY, GREY),
    "16-bit rgb png": (png16_rgb, (255, 0, 128), (255, 0, 128)),
    "32-bit grey tiff": (lambda: saved(Image.new("I", (40, 40), 128 * 257), "TIFF"), GREY, GREY),
    "float tiff": (lambda: saved(Image.new("F", (40, 40), 128.0), "TIFF"), GREY, GREY),
    "rgba png": (lambda: saved(half_transparent("RGBA"), "PNG"), RED, WHITE),
    "rgba webp": (lambda: saved(half_transparent("RGBA"), "WEBP", lossless=True), RED, WHITE),
    "rgba avif": (lambda: saved(half_transparent("RGBA"), "AVIF", quality=100), RED, WHITE),
    "la png": (lambda: saved(half_transparent("LA"), "PNG"), (76, 76, 76), WHITE),
    "palette png": (lambda: saved(palette(False), "PNG"), RED, (0, 0, 255)),
    "transparent palette png": (lambda: saved(palette(True), "PNG", transparency=1), RED, WHITE),
    "rgb png with a transparent colour": (
        lambda: saved(palette(False).convert("RGB"), "PNG", transparency=(0, 0, 255)),
        RED,
        WHITE,
    ),
    "gif": (lambda: saved(palette(False), "GIF"), RED, (0, 0, 255)),
    "transparent gif": (lambda: saved(palette(True), "GIF", transparency=1), RED, WHITE),
    "animated gif": (lambda: saved(two_frames()[0], "GIF", save_all=True, append_images=two_frames()[1:]), RED, RED),
    "animated webp": (lambda: saved(two_frames()[0], "WEBP", save_all=True, append_images=two_frames()[1:]), RED, RED),
    "animated png": (lambda: saved(two_frames()[0], "PNG", save_all=True, append_images=two_frames()[1:]), RED, RED),
    "two-page tiff": (lambda: saved(two_frames()[0], "TIFF", save_all=True, append_images=two_frames()[1:]), RED, RED),
    "multi-picture jpeg": (lambda: saved(two_frames()[0], "MPO", save_all=True, append_images=two_frames()[1:]), RED, RED),
    "palette bmp": (lambda: saved(palette(False), "BMP"), RED, (0, 0, 255)),
}


@pytest.mark.parametrize("name", COLOURS)
def test_colours(name: str) -> None:
    make, left, right = COLOURS[name]
    pixels = decode(make(), 40).astype(np.int16)
    assert np.abs(pixels[20, 5] - left).max() <= 6
    assert np.abs(pixels[20, 35] - right).max() <= 6


def profile_that_swaps_red_and_blue() -> bytes:
    """An sRGB profile whose red and blue primaries have changed places."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    profile[red + 4 : red + 12], profile[blue + 4 : blue + 12] = profile[blue + 4 : blue + 12], profile[red + 4 : red + 12]
    return bytes(profile)


BLUE = (0, 0, 255)
PROFILED: dict[str, Callable[[bytes], bytes]] = {
    "jpeg": lambda icc: saved(Image.new("RGB", (40, 40), RED), "JPEG", quality=95, icc_profile=icc),
    "png": lambda icc: saved(Image.new("RGB", (40, 40), RED), "PNG", icc_profile=icc),
    "rgba png": lambda icc: saved(Image.new("RGBA", (40, 40), (*RED, 255)), "PNG", icc_profile=icc),
    "palette png": lambda icc: saved(palette(False).crop((0, 0, 20, 40)).resize((40, 40)), "PNG", icc_profile=icc),
    "webp": lambda icc: saved(Image.new("RGB", (40, 40), RED), "WEBP", lossless=True, icc_profile=icc),
    "tiff": lambda icc: saved(Image.new("RGB", (40, 40), RED), "TIFF", icc_profile=icc),
    "avif": lambda icc: saved(Image.new("RGB", (40, 40), RED), "AVIF", quality=100, icc_profile=icc),
}


@pytest.mark.parametrize("name", PROFILED)
def test_icc_profiles_are_applied_where_the_setting_says_so(name: str) -> None:
    data = PROFILED[name](profile_that_swaps_red_and_blue())
    assert np.abs(decode(data, 16).astype(np.int16) - RED).max() <= 6, "off: as it is stored"
    assert np.abs(decode(data, 16, ImagesConfig(apply_icc=True)).astype(np.int16) - BLUE).max() <= 6


@pytest.mark.parametrize("icc", [b"", b"junk", profile_that_swaps_red_and_blue()[:200], bytes(3000)])
@pytest.mark.parametrize("name", ["jpeg", "png"])
def test_a_malformed_profile_is_ignored(name: str, icc: bytes) -> None:
    data = PROFILED[name](icc)
    assert np.abs(decode(data, 16, ImagesConfig(apply_icc=True)).astype(np.int16) - RED).max() <= 6


def test_a_profile_of_another_kind_of_colours_is_ignored() -> None:
    grey = saved(Image.new("L", (40, 40), 128), "PNG", icc_profile=profile_that_swaps_red_and_blue())
    cmyk = saved(Image.new("RGB", (40, 40), RED).convert("CMYK"), "JPEG", icc_profile=profile_that_swaps_red_and_blue())
    for data in (grey, cmyk):
        assert difference(decode(data, 16, ImagesConfig(apply_icc=True)), decode(data, 16)) == 0


def ycck_jpeg(colour: Colour) -> bytes:
    """Four components with Adobe's transform 2: YCC of the inverted colours, and black. Pillow writes CMYK only."""
    cmyk = np.asarray(Image.new("RGB", (40, 40), colour).convert("CMYK"))
    ycc = np.asarray(Image.fromarray(np.ascontiguousarray(cmyk[..., :3])).convert("YCbCr"))
    stored = Image.fromarray(np.dstack([255 - ycc, cmyk[..., 3:]]), "CMYK")  # the encoder inverts what it is given
    data = saved(stored, "JPEG", quality=95)
    adobe = data.index(b"Adobe")
    assert data[adobe + 11] == 0
    return data[: adobe + 11] + b"\x02" + data[adobe + 12 :]


@pytest.mark.parametrize("colour", [RED, WHITE, GREY, (0, 128, 255)])
def test_ycck(colour: Colour) -> None:
    data = ycck_jpeg(colour)
    pixels = decode(data, 16).astype(np.int16)
    assert np.abs(pixels - by_pillow(Image.open(io.BytesIO(data)), 16)).max() <= 1
    assert np.abs(pixels - colour).max() <= 8
