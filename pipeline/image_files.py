"""What the bytes of an image file say before anything decodes it: its kind, a JPEG's orientation, whether its end is missing.

Plain parsing of bytes in Python: whatever they are, it ends soon, and raises nothing but DecodeError. Knows nothing of pixels.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.errors import DecodeError
from pipeline.schema import Reason

ORIENTATION_TAG = 0x0112
EXIF_HEADER = b"Exif\x00\x00"
_ICC_HEADER = b"ICC_PROFILE\x00"
_SNIFF_BYTES = 1024

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


def sniff(data: bytes) -> type[ImageFile]:
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


def ends_early(kind: type[ImageFile], data: bytes) -> bool:
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


class JpegHead(NamedTuple):
    """What matters of a JPEG's marker segments."""

    orientation: int
    progressive: bool
    has_profile: bool  # an ICC profile


def jpeg_head(data: bytes) -> JpegHead:
    """Orientation and kind of a JPEG, from its marker segments up to the frame header: a few microseconds."""
    orientation, has_profile, at, end = 1, False, 2, len(data)
    while at + 4 <= end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xDA or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):  # scan, or frame header
            return JpegHead(orientation, marker in (0xC2, 0xC6, 0xCA, 0xCE), has_profile)
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1 and data.startswith(EXIF_HEADER, at + 4):
            orientation = exif_orientation(data[at + 10 : at + 2 + length])
        elif marker == 0xE2 and data.startswith(_ICC_HEADER, at + 4):
            has_profile = True
        at += 2 + max(length, 2)
    return JpegHead(orientation, False, has_profile)


def exif_orientation(tiff: bytes) -> int:
    """The orientation (1 to 8) in the first directory of an EXIF block (its `Exif` header removed); 1 where there is none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", tiff, entry)
            if tag == ORIENTATION_TAG and count == 1 and kind in (3, 4):  # SHORT, LONG
                (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), tiff, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
