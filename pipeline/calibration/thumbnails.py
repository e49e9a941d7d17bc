"""Small JPEGs of images that lie in the data, for a page that needs no network.

Only rows with a score are sampled, whose images the scoring run has decoded before, in a process apart. All the same, no
format is tried but the one that the first bytes say, and nothing that is large. Knows nothing of pages.
"""

from __future__ import annotations

import io
import warnings

from PIL import Image, ImageOps

from pipeline.columns import KINDS, NAMES, kind_of
from pipeline.config import Config
from pipeline.errors import ConfigError, DecodeError
from pipeline.filters.source import Dataset
from pipeline.image_files import sniff
from pipeline.schema import Reason

SIDE = 512  # pixels at most: what a page shows beside a caption
QUALITY = 80


def image_column(dataset: Dataset, config: Config) -> str:
    """The column of image bytes. Raises ConfigError where there is none."""
    wanted = config.input.columns.image
    for url, schema in dataset.schemas.items():
        for name in [wanted] if wanted else schema.names:
            known = wanted or name.lower() in NAMES["image"]
            if known and name in schema.names and kind_of(schema.field(name).type) in KINDS["image"]:
                return str(name)
        named = f"no column {wanted!r} of image bytes" if wanted else "no column of image bytes"
        raise ConfigError(f"{named} in {url}: leave out --thumbnails, or set --input.columns.image NAME")
    raise ConfigError("no files to take images from")


def thumbnail(value: object, max_pixels: int) -> bytes | None:
    """A JPEG of at most `SIDE` pixels a side; None for what is no image, or too large. value: bytes, or a dict of them."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        return None
    try:
        return _shrink(data, max_pixels)
    except DecodeError:
        return None


def _shrink(data: bytes, max_pixels: int) -> bytes:
    kind = sniff(data)
    try:
        with warnings.catch_warnings(), kind(io.BytesIO(data)) as image:
            warnings.simplefilter("ignore")  # of Pillow, about broken metadata
            if image.width * image.height > max_pixels:
                raise DecodeError(Reason.TOO_MANY_PIXELS)
            image.draft("RGB", (SIDE, SIDE))
            small = ImageOps.exif_transpose(image)
            small.thumbnail((SIDE, SIDE))
            return _jpeg(small)
    except DecodeError:
        raise
    except Exception as error:  # decoders raise all kinds on hostile bytes
        raise DecodeError(Reason.CORRUPT) from error


def _jpeg(image: Image.Image) -> bytes:
    opaque = Image.new("RGB", image.size, "white")
    layer = image.convert("RGBA")
    opaque.paste(layer, mask=layer.getchannel("A"))
    sink = io.BytesIO()
    opaque.save(sink, "JPEG", quality=QUALITY)
    return sink.getvalue()
