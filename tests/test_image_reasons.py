"""Files that are no images, or none that we decode: why, and what settings change."""

from __future__ import annotations

import struct
import sys
import zlib

import pytest
from PIL import Image, ImageFile

from pipeline.config import ImagesConfig
from pipeline.images import decode
from pipeline.schema import Reason
from tests.pictures import AVIF, BMP, CMYK_JPEG, GIF, JPEG, PNG, WEBP, difference, picture, reason_of, saved

LENIENT = ImagesConfig(allow_truncated=True)


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d"
        + header
        + struct.pack(">I", zlib.crc32(header))
        + b"\x00\x00\x00\x00IDAT5\xaf\x06\x1e"
    )


def jpeg_of_size(width: int, height: int) -> bytes:
    data = bytearray(saved(picture(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_of_many_scans() -> bytes:
    data = saved(picture(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 200 + data[-2:]


REASONS: dict[str, tuple[bytes, Reason]] = {
    "nothing": (b"", Reason.EMPTY),
    "one byte": (b"\x00", Reason.NOT_AN_IMAGE),
    "text": (b"Not Found", Reason.NOT_AN_IMAGE),
    "json": (b'{"error": "not found"}', Reason.NOT_AN_IMAGE),
    "zeros": (bytes(1000), Reason.NOT_AN_IMAGE),
    "html": (b"<!DOCTYPE html><html><body>gone", Reason.HTML),
    "html after a byte order mark": (b"\xef\xbb\xbf\r\n  <HTML>", Reason.HTML),
    "html after a comment": (b"<!-- cached --><html>", Reason.HTML),
    "xhtml": (b'<?xml version="1.0"?><!DOCTYPE html><html>', Reason.HTML),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', Reason.SVG),
    "svg with a prologue": (b'<?xml version="1.0"?>\n<!-- x --><!DOCTYPE svg>\n<svg/>', Reason.SVG),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', Reason.NOT_AN_IMAGE),
    "pdf": (b"%PDF-1.7 ...", Reason.NOT_AN_IMAGE),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n", Reason.NOT_AN_IMAGE),
    "heic": (b"\x00\x00\x00\x18ftypheic" + bytes(100), Reason.NOT_AN_IMAGE),
    "icon": (saved(picture(), "ICO"), Reason.NOT_AN_IMAGE),
    "netpbm": (saved(picture(), "PPM"), Reason.NOT_AN_IMAGE),
    "mp4": (b"\x00\x00\x00\x18ftypisom" + bytes(100), Reason.NOT_AN_IMAGE),
    "half a jpeg": (JPEG[: len(JPEG) // 2], Reason.TRUNCATED),
    "a jpeg's first bytes": (JPEG[:20], Reason.TRUNCATED),
    "half a cmyk jpeg": (CMYK_JPEG[: len(CMYK_JPEG) // 2], Reason.TRUNCATED),
    "half a png": (PNG[: len(PNG) // 2], Reason.TRUNCATED),
    "a png's first bytes": (PNG[:20], Reason.TRUNCATED),
    "half a webp": (WEBP[: len(WEBP) // 2], Reason.TRUNCATED),
    "half an avif": (AVIF[: len(AVIF) // 2], Reason.TRUNCATED),
    "half a bmp": (BMP[: len(BMP) // 2], Reason.TRUNCATED),
    "half a gif": (GIF[: len(GIF) // 2], Reason.TRUNCATED),
    "a jpeg of nothing": (b"\xff\xd8\xff\xd9", Reason.CORRUPT),
    "a png of nothing": (b"\x89PNG\r\n\x1a\n" + bytes(100), Reason.TRUNCATED),
    "a jpeg of many scans": (jpeg_of_many_scans(), Reason.CORRUPT),
    "a png of 10 gigapixels": (png_header(100_000, 100_000), Reason.TOO_MANY_PIXELS),
    "a jpeg of 3 gigapixels": (jpeg_of_size(60_000, 50_000), Reason.TOO_MANY_PIXELS),
    "a gif of 4 gigapixels": (GIF[:6] + b"\xff\xff\xff\xff" + GIF[10:], Reason.TOO_MANY_PIXELS),
    "a bmp of many pixels": (BMP[:18] + struct.pack("<ii", 50_000, 50_000) + BMP[26:], Reason.TOO_MANY_PIXELS),
    "a webp of 268 megapixels": (
        b"RIFF\x16\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00\xff\x3f\x00\xff\x3f\x00",
        Reason.TOO_MANY_PIXELS,
    ),
    "a tracking pixel": (saved(Image.new("RGB", (1, 1)), "GIF"), Reason.TOO_SMALL),
    "a line": (saved(Image.new("RGB", (500, 2)), "PNG"), Reason.TOO_SMALL),
    "a banner": (saved(Image.new("RGB", (1000, 40)), "JPEG"), Reason.EXTREME_ASPECT),
    "a tower": (saved(Image.new("RGB", (40, 1000)), "PNG"), Reason.EXTREME_ASPECT),
}


@pytest.mark.parametrize("name", REASONS)
def test_reasons(name: str) -> None:
    data, reason = REASONS[name]
    assert reason_of(data) == reason


def test_the_limits_are_settings() -> None:
    data = saved(picture(100, 50), "JPEG")
    assert reason_of(data, ImagesConfig(max_pixels=4999)) == Reason.TOO_MANY_PIXELS
    assert reason_of(data, ImagesConfig(min_side=51)) == Reason.TOO_SMALL
    assert reason_of(data, ImagesConfig(max_aspect_ratio=1.9)) == Reason.EXTREME_ASPECT
    assert decode(data, 16, ImagesConfig(max_pixels=5000, min_side=50, max_aspect_ratio=2)).shape == (16, 16, 3)


def test_an_image_above_pillows_own_limit_is_ours_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "AVIF"):
        assert decode(saved(picture(), kind), 16).shape == (16, 16, 3)


@pytest.mark.parametrize(
    "data", [JPEG, CMYK_JPEG, PNG, GIF, BMP, saved(picture(), "TIFF")], ids=["jpeg", "cmyk", "png", "gif", "bmp", "tiff"]
)
def test_truncated_files_where_they_are_accepted(data: bytes) -> None:
    whole = decode(data, 64)
    cut = decode(data[: len(data) * 3 // 4], 64, LENIENT)
    shared = slice(-20, None) if data is BMP else slice(20)  # stored from the bottom up
    assert difference(cut[shared], whole[shared]) <= 8
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_accepting_truncated_files_does_not_accept_anything() -> None:
    assert reason_of(PNG[:20], LENIENT) == Reason.TRUNCATED
    assert reason_of(b"", LENIENT) == Reason.EMPTY
    assert reason_of(b"<html>", LENIENT) == Reason.HTML


def test_no_other_decoder_is_loaded() -> None:
    assert "PIL.EpsImagePlugin" not in sys.modules or reason_of(b"%!PS-Adobe-3.0 EPSF-3.0\n") == Reason.NOT_AN_IMAGE
