"""Decoding: parity with Pillow, orientation, and what surrounds an image in its file."""

from __future__ import annotations

import io
import struct
import threading

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.images import decode, decode_image
from tests.pictures import RED, WHITE, by_pillow, difference, picture, saved

FORMATS: dict[str, tuple[str, dict[str, object]]] = {
    "jpeg": ("JPEG", {"quality": 90}),
    "jpeg 4:4:4": ("JPEG", {"quality": 95, "subsampling": 0}),
    "jpeg progressive": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"quality": 90}),
    "webp lossless": ("WEBP", {"lossless": True}),
    "avif": ("AVIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff jpeg": ("TIFF", {"compression": "jpeg"}),
}
GRID = [(96, 64), (64, 96), (37, 41), (8, 5), (300, 159)]  # too small to be decoded at a smaller scale


@pytest.mark.parametrize(("width", "height"), GRID)
@pytest.mark.parametrize("name", FORMATS)
def test_at_most_one_grey_level_from_pillow(name: str, width: int, height: int) -> None:
    kind, options = FORMATS[name]
    data = saved(picture(width, height), kind, **options)
    decoded = decode_image(data, 64)
    assert decoded.pixels.shape == (64, 64, 3)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    assert decoded.pixels.flags.writeable
    assert (decoded.original_width, decoded.original_height) == (width, height)
    tolerance = 1 if width >= 32 else 2  # blown up eight times, overshoot is rounded differently
    assert difference(decoded.pixels, by_pillow(Image.open(io.BytesIO(data)), 64)) <= tolerance
    assert difference(decode(data, 64), decoded.pixels) == 0


@pytest.mark.parametrize(("width", "height"), [(12, 10), (12.02, 10.01), (6, 5), (6.01, 5.01), (21, 20)])
@pytest.mark.parametrize("size", [56, 112, 224])
def test_scaled_decoding_stays_close_to_pillow(size: int, width: float, height: float) -> None:
    image = picture(round(size * width), round(size * height))
    data = saved(image, "JPEG", quality=90)
    decoded = decode_image(data, size)
    expected = by_pillow(Image.open(io.BytesIO(data)), size)
    assert np.abs(decoded.pixels.astype(np.int16) - expected).mean() < 0.5
    assert (decoded.original_width, decoded.original_height) == image.size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "some description before the orientation"
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    data = saved(picture(), kind, exif=exif, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    decoded = decode_image(data, 48)
    assert (decoded.original_width, decoded.original_height) == upright.size
    assert difference(decoded.pixels, by_pillow(upright, 48)) <= 1
    out = np.zeros((48, 48, 3), np.uint8)
    assert decode_image(data, 48, out=out).pixels is out
    assert difference(decoded.pixels, out) == 0
    assert decoded.pixels.flags.c_contiguous


def test_a_broken_exif_block_is_ignored() -> None:
    plain = saved(picture(), "JPEG")
    for exif in (b"", b"II", b"II*\x00\xff\xff\xff\xff", b"MM\x00*\x00\x00\x00\x08\xff\xff" + b"\x01\x12" * 50, b"XX*\x00\x08"):
        segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\x00\x00" + exif
        assert difference(decode(plain[:2] + segment + plain[2:], 32), decode(plain, 32)) == 0


def test_the_aspect_ratio_is_not_kept() -> None:
    image = Image.new("RGB", (200, 20), RED)
    image.paste(WHITE, (100, 0, 200, 20))
    pixels = decode(saved(image, "PNG"), 32)
    assert pixels[:, :15].reshape(-1, 3).tolist() == [[*RED]] * (32 * 15)
    assert pixels[:, 17:].reshape(-1, 3).tolist() == [[*WHITE]] * (32 * 15)


def test_junk_before_the_frame_header_of_a_jpeg() -> None:
    data = saved(picture(), "JPEG")
    assert difference(decode(data[:2] + b"\xff\xfe\x00\x06junk" + data[2:], 32), decode(data, 32)) == 0
    assert difference(decode(data + b"trailing junk", 32), decode(data, 32)) == 0


def test_threads_decode_at_the_same_time() -> None:
    files = [saved(picture(200, 150, seed), kind) for seed, kind in enumerate(["JPEG", "PNG", "WEBP", "GIF"])]
    expected = [decode(data, 64) for data in files]
    failures: list[int] = []

    def work(which: int) -> None:
        failures.extend(which for _ in range(20) if difference(decode(files[which], 64), expected[which]))

    threads = [threading.Thread(target=work, args=(index % len(files),)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
