"""Bytes -> pixels: what an image file says, as one uint8 RGB square, or the reason why not.

Owns sniffing, the limits checked before decoding, orientation, colour, transparency and the resize. Only the raster
formats of the web are ever handed to a decoder, each by name: PostScript and other exotic decoders cannot be reached.
Changes no global state of Pillow or torch, except where `use_one_thread` is asked for, and releases the GIL while it decodes
and resizes. Knows nothing of where bytes come from, of rows, or of what the model wants beyond the side S.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import AvifImagePlugin, Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.config import ImagesConfig
from pipeline.errors import DecodeError
from pipeline.schema import Reason

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]

_DEFAULTS = ImagesConfig()

# A JPEG is decoded at 1/2, 1/4 or 1/8 where both sides stay at least so many times S: a quarter less time, and on photographs
# a mean difference below half a grey level (0.33 at 2.5, 0.5 at 2, 0.8 at 1.5 measured at S = 384).
_SCALED_DECODE_MARGIN = 2.5
# A side that is no multiple of the factor is padded to one, which shifts its far edge: by so much of an output pixel at most.
_SCALED_DECODE_SHIFT = 0.05
# Encoders write some ten scans. Each is a pass over all coefficients: a small file of many keeps a core busy for minutes.
_MAX_JPEG_SCANS = 100
_SNIFF_BYTES = 1024
_ORIENTATION_TAG = 0x0112
_EXIF_HEADER = b"Exif\x00\x00"


class DecodedImage(NamedTuple):
    """One decoded image, and its size as displayed: after orientation, before resizing."""

    pixels: Pixels  # (S, S, 3) RGB
    original_width: int
    original_height: int


def decode(data: bytes, size: int, config: ImagesConfig = _DEFAULTS) -> Pixels:
    """The image file `data` as uint8 RGB (size, size, 3); raises DecodeError. `decode_image` tells the original size too."""
    return decode_image(data, size, config).pixels


def decode_image(data: bytes, size: int, config: ImagesConfig = _DEFAULTS) -> DecodedImage:
    """Decode an image file, turn it upright, lay it over white and resize it to (size, size), aspect ratio not kept.

    Resizing is bicubic with antialiasing, within one grey level of Pillow's. Of an animation the first frame counts.
    Raises DecodeError, whatever the bytes: every other exception of a decoder is that image's failure.
    """
    kind = _sniff(data)
    try:
        if kind is JpegImageFile:
            head = _jpeg_head(data)
            if head.progressive and data.count(b"\xff\xda") > _MAX_JPEG_SCANS:
                raise DecodeError(Reason.CORRUPT)
            rgb = _turbo_decode(data, size, config)
            if rgb is not None:
                return _finish(rgb.pixels, size, head.orientation, rgb.original_width, rgb.original_height)
        return _pillow_decode(kind, data, size, config)
    except DecodeError:
        raise
    except Exception as error:  # decoders raise all kinds on hostile bytes; see the docstring
        logger.debug("decoding failed: %s: %s", type(error).__name__, error)
        raise DecodeError(_reason(error, kind, data)) from error


def use_one_thread() -> None:
    """Keep torch's and Pillow's decoders to one thread each: for a process that does nothing else, beside others like it."""
    torch.set_num_threads(1)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _check_size(width: int, height: int, config: ImagesConfig) -> None:
    if width * height > config.max_pixels:
        raise DecodeError(Reason.TOO_MANY_PIXELS)
    if min(width, height) < config.min_side:
        raise DecodeError(Reason.TOO_SMALL)
    if max(width, height) > config.max_aspect_ratio * min(width, height):
        raise DecodeError(Reason.EXTREME_ASPECT)


# What kind of file

_MAGIC: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"GIF8", GifImageFile),
    (b"BM", BmpImageFile),
    (b"II*\x00", TiffImageFile),
    (b"MM\x00*", TiffImageFile),
    (b"II+\x00", TiffImageFile),
    (b"MM\x00+", TiffImageFile),
)
_AVIF_BRANDS = (b"avif", b"avis", b"mif1", b"msf1")
_HTML_STARTS = tuple(b"<" + tag for tag in b"!doctype html,html,head,body,title,script,meta,div,iframe,h1,p>".split(b","))


def _sniff(data: bytes) -> type[ImageFile]:
    """The Pillow class that opens `data`, by its first bytes; raises DecodeError for what is no raster image of the web."""
    if not data:
        raise DecodeError(Reason.EMPTY)
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WebPImageFile
    if data[4:8] == b"ftyp" and data[8:12] in _AVIF_BRANDS:
        return AvifImageFile
    text = data[:_SNIFF_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_HTML_STARTS):
        raise DecodeError(Reason.HTML)
    if text.startswith((b"<?xml", b"<!--", b"<!doctype", b"<svg")):
        raise DecodeError(Reason.SVG if b"<svg" in text else Reason.HTML if b"<html" in text else Reason.NOT_AN_IMAGE)
    raise DecodeError(Reason.NOT_AN_IMAGE)


def _reason(error: Exception, kind: type[ImageFile], data: bytes) -> Reason:
    if isinstance(error, MemoryError) or "allocate memory" in str(error):  # numpy and Pillow; torch
        return Reason.TOO_MUCH_MEMORY
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):  # parts of a file, judged by Pillow
        return Reason.TOO_MANY_PIXELS
    return Reason.TRUNCATED if _is_truncation(error) or _ends_early(kind, data) else Reason.CORRUPT


def _is_truncation(error: Exception) -> bool:
    return isinstance(error, EOFError) or "truncated" in str(error).lower()


def _ends_early(kind: type[ImageFile], data: bytes) -> bool:
    """Whether a file that could not be decoded lacks its end, for formats whose decoders do not say so."""
    if kind is JpegImageFile:
        return b"\xff\xd9" not in data[-64:]
    if kind is PngImageFile:
        return b"IEND" not in data[-64:]
    if kind is WebPImageFile:
        return len(data) < 12 or len(data) < 8 + int(struct.unpack_from("<I", data, 4)[0])
    if kind is AvifImageFile:
        at = 0
        while at + 8 <= len(data) and (length := int.from_bytes(data[at : at + 4], "big")) >= 8:
            at += length
        return at > len(data)
    return False


# JPEG, the fast way


class _JpegHead(NamedTuple):
    orientation: int
    progressive: bool


def _jpeg_head(data: bytes) -> _JpegHead:
    """EXIF orientation and kind of a JPEG, from its marker segments up to the frame header: a few microseconds."""
    orientation, at, end = 1, 2, len(data)
    while at + 4 <= end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xDA or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):  # scan, or frame header
            return _JpegHead(orientation, marker in (0xC2, 0xC6, 0xCA, 0xCE))
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1 and data.startswith(_EXIF_HEADER, at + 4):
            orientation = _exif_orientation(data[at + 10 : at + 2 + length])
        at += 2 + max(length, 2)
    return _JpegHead(orientation, False)


def _exif_orientation(tiff: bytes) -> int:
    """The orientation (1 to 8) in the first directory of an EXIF block (its `Exif` header removed); 1 where there is none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", tiff, entry)
            if tag == _ORIENTATION_TAG and count == 1 and kind in (3, 4):  # SHORT, LONG
                (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), tiff, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _turbo_decode(data: bytes, size: int, config: ImagesConfig) -> DecodedImage | None:
    """A JPEG's (h, w, 3) pixels by libjpeg-turbo, maybe scaled down, not turned; None where Pillow had better judge."""
    strict = not config.allow_truncated
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=strict)
        if colours not in ("YCbCr", "RGB", "Gray"):  # CMYK, YCCK
            return None
        _check_size(width, height, config)
        factor = _decode_factor(width, height, size)
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=-(-height // factor), min_width=-(-width // factor), min_factor=factor, strict=strict
        )
    except (ValueError, RuntimeError, OverflowError, MemoryError) as error:
        logger.debug("simplejpeg: %s", error)
        return None
    return DecodedImage(pixels, width, height)


def _decode_factor(width: int, height: int, size: int) -> int:
    """By how much to shrink a JPEG while decoding it: 1, or one of the factors that libjpeg-turbo is fast at."""

    def suits(side: int, factor: int) -> bool:
        return side >= factor * _SCALED_DECODE_MARGIN * size and (-side % factor) * size <= _SCALED_DECODE_SHIFT * side

    return next((factor for factor in (8, 4, 2) if suits(width, factor) and suits(height, factor)), 1)


# Everything else, through Pillow


def _pillow_decode(kind: Callable[[io.BytesIO], ImageFile], data: bytes, size: int, config: ImagesConfig) -> DecodedImage:
    if kind is WebPImageFile and data[12:16] == b"VP8X" and len(data) >= 30:  # its canvas is allocated when it is opened
        _check_size(int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1, config)
    # The plugin itself instead of Image.open: no other decoder is tried, and the only pixel limit is ours.
    with kind(io.BytesIO(data)) as image:
        _check_size(*image.size, config)
        _load(image, config.allow_truncated)
        width, height = image.size
        return _finish(_rgb(image), size, _pillow_orientation(image), width, height)


def _load(image: ImageFile, allow_truncated: bool) -> None:
    """Decode; where accepted, keep the rows that a truncated file had (Pillow's own switch for that is global)."""
    try:
        image.load()
    except (OSError, SyntaxError) as error:
        if not (allow_truncated and _is_truncation(error)):
            raise
        image.tile = []  # nothing left to decode
        image.load()


def _pillow_orientation(image: ImageFile) -> int:
    if isinstance(image, TiffImageFile):
        value = image.tag_v2.get(_ORIENTATION_TAG, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    exif = image.info.get("exif")
    return _exif_orientation(exif.removeprefix(_EXIF_HEADER)) if isinstance(exif, bytes) else 1


def _rgb(image: ImageFile) -> Pixels:
    """A loaded image of any mode as (h, w, 3), transparency laid over white."""
    if image.mode.startswith(("I", "F")):  # 16-bit grey (which Pillow's convert would clip), 32-bit integers, floats
        grey = np.nan_to_num(np.asarray(image)) if image.mode == "F" else np.asarray(image) >> 8
        return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., np.newaxis], 3, axis=2)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(rgba, mask=rgba.getchannel("A"))
        return np.asarray(canvas)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


# To the square


def _finish(pixels: Pixels, size: int, orientation: int, width: int, height: int) -> DecodedImage:
    """(h, w, 3) as decoded -> (size, size, 3) upright. Turning commutes with resizing to a square, and costs less after it."""
    if orientation >= 5:
        width, height = height, width
    return DecodedImage(_upright(_resize(pixels, size), orientation), width, height)


def _resize(pixels: Pixels, size: int) -> Pixels:
    # One image as NHWC memory seen as NCHW: torch's uint8 kernel then works on it without repacking (batch axis first, or it
    # does not notice).
    tensor = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)  # (1, 3, h, w) uint8
    resized = torch.nn.functional.interpolate(tensor, size=(size, size), mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1)[0].numpy())


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
