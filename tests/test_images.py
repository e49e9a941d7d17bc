"""Decoding: a corpus of awkward and broken files made here, parity with Pillow, and mutated files of every format."""

from __future__ import annotations

import io
import struct
import sys
import threading
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile, ImageOps

from pipeline.config import ImagesConfig
from pipeline.errors import DecodeError
from pipeline.images import decode, decode_image
from pipeline.schema import Reason, Status

Pixels = npt.NDArray[np.uint8]
RED, WHITE, GREY = (255, 0, 0), (255, 255, 255), (128, 128, 128)
LENIENT = ImagesConfig(allow_truncated=True)


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


# Pixels

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


def grey16() -> Image.Image:
    return Image.fromarray(np.full((40, 40), 128 * 257, np.uint16))


def two_frames() -> list[Image.Image]:
    return [Image.new("RGB", (40, 40), RED), Image.new("RGB", (40, 40), (0, 255, 0))]


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


# Reasons


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


JPEG, PNG, GIF, WEBP, AVIF, BMP, TIFF = (
    saved(picture(), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF")
)
CMYK_JPEG = saved(picture().convert("CMYK"), "JPEG")

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


def test_no_other_decoder_is_loaded() -> None:
    assert "PIL.EpsImagePlugin" not in sys.modules or reason_of(b"%!PS-Adobe-3.0 EPSF-3.0\n") == Reason.NOT_AN_IMAGE


# Fuzzing

SEEDS = {
    "jpeg": JPEG,
    "progressive jpeg": saved(picture(), "JPEG", progressive=True),
    "cmyk jpeg": CMYK_JPEG,
    "png": PNG,
    "palette png": saved(palette(True), "PNG", transparency=1),
    "animated gif": saved(two_frames()[0], "GIF", save_all=True, append_images=two_frames()[1:]),
    "webp": WEBP,
    "animated webp": saved(two_frames()[0], "WEBP", save_all=True, append_images=two_frames()[1:]),
    "avif": AVIF,
    "bmp": BMP,
    "tiff": TIFF,
    "tiff lzw": saved(picture(), "TIFF", compression="tiff_lzw"),
    "tiff jpeg": saved(picture(), "TIFF", compression="jpeg"),
    "tiff group 4": saved(picture().convert("1"), "TIFF", compression="group4"),
}

Edit = tuple[str, float, bytes]
edits = st.tuples(st.sampled_from(["replace", "insert", "delete", "cut"]), st.floats(0, 1), st.binary(min_size=1, max_size=8))


def mutated(data: bytes, changes: list[Edit]) -> bytes:
    """`data` with some bytes changed; positions are shares of the length, most of them near the front, where headers are."""
    for action, where, piece in changes:
        at = int(where**3 * len(data))
        if action == "replace":
            data = data[:at] + piece + data[at + len(piece) :]
        elif action == "insert":
            data = data[:at] + piece + data[at:]
        elif action == "delete":
            data = data[:at] + data[at + len(piece) :]
        else:
            data = data[: len(data) - at]
    return data


ALLOWED = {(16, 16, 3), *Reason}


def shape_or_reason(data: bytes, config: ImagesConfig) -> tuple[int, ...] | str:
    try:
        return decode(data, 16, config).shape
    except DecodeError as error:
        return error.reason


# Pillow warns of odd metadata, which does not matter here.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")
@pytest.mark.parametrize("name", SEEDS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(changes=st.lists(edits, min_size=1, max_size=6), lenient=st.booleans())
def test_mutated_files_give_pixels_or_a_reason(name: str, changes: list[Edit], lenient: bool) -> None:
    config = ImagesConfig(allow_truncated=lenient, max_pixels=1_000_000)
    assert shape_or_reason(mutated(SEEDS[name], changes), config) in ALLOWED


@given(st.binary(max_size=200), st.sampled_from([b"", *(seed[:12] for seed in SEEDS.values())]))
def test_any_bytes_give_pixels_or_a_reason(data: bytes, magic: bytes) -> None:
    assert shape_or_reason(magic + data, ImagesConfig()) in ALLOWED
