"""Bytes -> pixels: what an image file says, as one uint8 RGB square, or the reason why not.

Owns the limits checked before decoding, orientation, colour, transparency and the resize. Only the raster formats of the web
are ever handed to a decoder, each by name (`image_files` finds out which): PostScript and other exotic decoders cannot be
reached. Changes no global state of Pillow or torch, except where `use_one_thread` is asked for, and releases the GIL while it
decodes and resizes. Knows nothing of where bytes come from, of rows, or of what the model wants beyond the side S.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import AvifImagePlugin, Image, ImageCms
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.config import ImagesConfig
from pipeline.errors import DecodeError
from pipeline.image_files import EXIF_HEADER, ORIENTATION_TAG, ends_early, exif_orientation, jpeg_head, sniff
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


class DecodedImage(NamedTuple):
    """One decoded image, and its size as displayed: after orientation, before resizing."""

    pixels: Pixels  # (S, S, 3) RGB
    original_width: int
    original_height: int


def decode(data: bytes, size: int, config: ImagesConfig = _DEFAULTS) -> Pixels:
    """The image file `data` as uint8 RGB (size, size, 3); raises DecodeError. `decode_image` tells the original size too."""
    return decode_image(data, size, config).pixels


def decode_image(data: bytes, size: int, config: ImagesConfig = _DEFAULTS, out: Pixels | None = None) -> DecodedImage:
    """Decode an image file, turn it upright, lay it over white and resize it to (size, size), aspect ratio not kept.

    Resizing is bicubic with antialiasing, within one grey level of Pillow's. Of an animation the first frame counts.
    `out`, uint8 (size, size, 3): memory that the pixels are to be in; without a copy, unless the image has to be turned.
    Raises DecodeError, whatever the bytes: every other exception of a decoder is that image's failure.
    """
    kind = sniff(data)
    out = np.empty((size, size, 3), np.uint8) if out is None else out
    try:
        if kind is JpegImageFile:
            head = jpeg_head(data)
            if head.progressive and data.count(b"\xff\xda") > _MAX_JPEG_SCANS:
                raise DecodeError(Reason.CORRUPT)
            rgb = None if config.apply_icc and head.has_profile else _turbo_decode(data, size, config)
            if rgb is not None:
                return _finish(rgb.pixels, out, head.orientation, rgb.original_width, rgb.original_height)
        return _pillow_decode(kind, data, config, out)
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


def _reason(error: Exception, kind: type[ImageFile], data: bytes) -> Reason:
    if isinstance(error, MemoryError) or "allocate memory" in str(error):  # numpy and Pillow; torch
        return Reason.TOO_MUCH_MEMORY
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):  # parts of a file, judged by Pillow
        return Reason.TOO_MANY_PIXELS
    return Reason.TRUNCATED if _is_truncation(error) or ends_early(kind, data) else Reason.CORRUPT


def _is_truncation(error: Exception) -> bool:
    return isinstance(error, EOFError) or "truncated" in str(error).lower()


# JPEG, the fast way


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


def _pillow_decode(kind: Callable[[io.BytesIO], ImageFile], data: bytes, config: ImagesConfig, out: Pixels) -> DecodedImage:
    if kind is WebPImageFile and data[12:16] == b"VP8X" and len(data) >= 30:  # its canvas is allocated when it is opened
        _check_size(int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1, config)
    # The plugin itself instead of Image.open: no other decoder is tried, and the only pixel limit is ours.
    with kind(io.BytesIO(data)) as image:
        _check_size(*image.size, config)
        _load(image, config.allow_truncated)
        width, height = image.size
        return _finish(_rgb(_to_srgb(image) if config.apply_icc else image), out, _pillow_orientation(image), width, height)


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
        value = image.tag_v2.get(ORIENTATION_TAG, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    exif = image.info.get("exif")
    return exif_orientation(exif.removeprefix(EXIF_HEADER)) if isinstance(exif, bytes) else 1


def _to_srgb(image: Image.Image) -> Image.Image:
    """Colours as the file's own ICC profile means them; as they are where it has none that can be used."""
    profile = image.info.get("icc_profile")
    if profile is None or image.mode.startswith(("I", "F")):
        return image
    if image.mode == "P":
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = image.mode if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        logger.debug("ICC profile ignored: %s", error)
        return image
    return converted or image


def _rgb(image: Image.Image) -> Pixels:
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


def _finish(pixels: Pixels, out: Pixels, orientation: int, width: int, height: int) -> DecodedImage:
    """(h, w, 3) as decoded -> `out`, upright. Turning commutes with resizing to a square, and costs less after it."""
    if orientation >= 5:
        width, height = height, width
    _resize(pixels, out)
    if orientation > 1:
        out[:] = _upright(out, orientation).copy()
    return DecodedImage(out, width, height)


def _resize(pixels: Pixels, out: Pixels) -> None:
    # One image as NHWC memory seen as NCHW: torch's uint8 kernel then works on it without repacking (batch axis first, or it
    # does not notice).
    source = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)  # (1, 3, h, w) uint8
    target = torch.from_numpy(out)[None].permute(0, 3, 1, 2)
    # What F.interpolate(mode="bicubic", antialias=True) calls, which has no `out`.
    torch.ops.aten._upsample_bicubic2d_aa.out(source, target.shape[2:], align_corners=False, out=target)


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
