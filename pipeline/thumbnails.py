"""Small JPEGs of images, for pages: fetched under the same rules as for scoring, decoded as safely.

Knows nothing of which images are shown, or of HTML.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.config import Config, ImagesConfig
from pipeline.errors import RowError
from pipeline.fetch import Fetcher, FetchRequest
from pipeline.isolation import Decoded, Decoder, InProcessDecoder
from pipeline.schema import Reason

SIDE = 288  # pixels of the longer side: sharp at 144 on a display of double density
QUALITY = 80  # of JPEG: some 10 KB


class Wanted(NamedTuple):
    """An image that is to be shown."""

    data: bytes | None = None
    url: str | None = None  # read where there is no data
    base: str | None = None  # folder that a relative path starts from
    sha256: str = ""  # of the bytes that were scored; empty: unknown


class Thumbnail(NamedTuple):
    """A small image, or why there is none. Either `data` or `error` is set."""

    data: bytes | None = None  # a JPEG
    error: str | None = None  # of schema.Reason, or `http 404`
    width: int = 0  # pixels of the small image
    height: int = 0

    def as_json(self) -> dict[str, Any]:
        """For a page: the JPEG as `uri`, data:image/jpeg;base64,..."""
        uri = None if self.data is None else f"data:image/jpeg;base64,{base64.b64encode(self.data).decode()}"
        return {"uri": uri, "error": self.error, "width": self.width, "height": self.height}


def thumbnails(wanted: Sequence[Wanted], config: Config, side: int = SIDE) -> list[Thumbnail]:
    """Small versions of images, in their order; no image raises."""
    found: list[Thumbnail] = [Thumbnail(error=Reason.NO_IMAGE)] * len(wanted)
    decoder: Decoder[int] | InProcessDecoder[int] = _decoder(config.images, side)
    with decoder:
        for index, data in _bytes(wanted, config):
            expected = wanted[index].sha256
            if isinstance(data, RowError):
                found[index] = Thumbnail(error=data.reason)
            elif expected and hashlib.sha256(data).hexdigest() != expected:
                found[index] = Thumbnail(error=Reason.CONTENT_CHANGED)  # another image than the one that was scored
            else:
                for image in decoder.submit(index, data):
                    found[image.token] = _thumbnail(image, side)
        for image in decoder.drain():
            found[image.token] = _thumbnail(image, side)
    return found


def _decoder(config: ImagesConfig, side: int) -> Decoder[int] | InProcessDecoder[int]:
    return Decoder(side, config) if config.isolate else InProcessDecoder(side, config)


def _bytes(wanted: Sequence[Wanted], config: Config) -> Iterator[tuple[int, bytes | RowError]]:
    """Number and bytes of each image that there is, those at hand first, then the others as downloads end."""
    by_base: dict[str | None, list[FetchRequest]] = defaultdict(list)
    for index, image in enumerate(wanted):
        if image.data is not None:
            yield index, image.data
        elif image.url:
            by_base[image.base].append(FetchRequest(index, image.url))
    if by_base:
        with Fetcher(config.fetch, config.storage) as fetcher:
            for base, requests in by_base.items():
                for result in fetcher.fetch(requests, base):
                    yield result.index, result.error if result.error is not None else result.data or b""


def _thumbnail(image: Decoded[int], side: int) -> Thumbnail:
    if image.pixels is None:
        return Thumbnail(error=image.error.reason if image.error else Reason.CORRUPT)
    return encode(image.pixels, *fit(image.width, image.height, side))


def fit(width: int, height: int, side: int) -> tuple[int, int]:
    """Size of an image within a square; never larger than it is."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def encode(pixels: npt.NDArray[np.uint8], width: int, height: int) -> Thumbnail:
    """A square (S, S, 3), given its proportions back, as JPEG."""
    buffer = io.BytesIO()
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return Thumbnail(buffer.getvalue(), None, width, height)
