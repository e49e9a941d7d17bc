"""Mutated image files, the same for the same seed: bit flips, cuts, splices, edited lengths and headers, doubled pieces.

python -m tests.isolation.mutations [COUNT]     decode COUNT mutations of each file, isolated; count what became of them
"""

from __future__ import annotations

import io
import random
import struct
import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL import Image

from pipeline.config import MIB, ImagesConfig
from pipeline.isolation import Decoder

# Whatever a mutation claims of itself, a decoder that needs more than this for files of some KB is broken.
LIMITS = ImagesConfig(max_pixels=1_000_000, timeout_s=5.0, max_memory_bytes=256 * MIB)
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def seeds() -> dict[str, bytes]:
    """Small valid files of every format and of the variants whose code differs."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((96, 64), Image.Resampling.BICUBIC)
    frames = {"save_all": True, "append_images": [smooth.rotate(90), smooth.rotate(180)]}
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: dict[str, tuple[str, Image.Image, dict[str, object]]] = {
        "jpeg": ("JPEG", smooth, {"exif": exif}),
        "progressive jpeg": ("JPEG", smooth, {"progressive": True}),
        "cmyk jpeg": ("JPEG", smooth.convert("CMYK"), {}),
        "multi-picture jpeg": ("MPO", smooth, frames),
        "png": ("PNG", smooth, {"exif": exif}),
        "palette png": ("PNG", smooth.quantize(), {"transparency": 3}),
        "16-bit png": ("PNG", Image.fromarray(rng.integers(0, 65536, (64, 96), dtype=np.uint16)), {}),
        "animated png": ("PNG", smooth, frames),
        "gif": ("GIF", smooth.quantize(), frames),
        "webp": ("WEBP", smooth, {"exif": exif}),
        "lossless webp": ("WEBP", smooth.convert("RGBA"), {"lossless": True}),
        "animated webp": ("WEBP", smooth, frames),
        "avif": ("AVIF", smooth, {"exif": exif}),
        "animated avif": ("AVIF", smooth, frames),
        "bmp": ("BMP", smooth, {}),
        "palette bmp": ("BMP", smooth.quantize(), {}),
        "tiff": ("TIFF", smooth, {}),
        "tiff lzw": ("TIFF", smooth, {"compression": "tiff_lzw"}),
        "tiff deflate": ("TIFF", smooth, {"compression": "tiff_adobe_deflate"}),
        "tiff jpeg": ("TIFF", smooth, {"compression": "jpeg"}),
        "tiff group 4": ("TIFF", smooth.convert("1"), {"compression": "group4"}),
    }
    files = {}
    for name, (kind, image, options) in variants.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files[name] = buffer.getvalue()
    return files


def mutate(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One to eight changes; most of them near the front, where headers are."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = int(rng.random() ** rng.choice((1, 3)) * len(changed))
        end = min(len(changed), at + rng.choice((1, 4, 16, 256)))
        action = rng.randrange(8)
        if action == 0 and changed:  # flip a bit
            at = min(at, len(changed) - 1)
            changed[at] ^= 1 << rng.randrange(8)
        elif action == 1:  # overwrite
            changed[at:end] = rng.randbytes(end - at)
        elif action == 2:  # a number at its extreme: lengths, counts, sides
            changed[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(EXTREMES))
        elif action == 3:
            changed[at : at + 2] = struct.pack(rng.choice("<>") + "H", rng.choice(EXTREMES) & 0xFFFF)
        elif action == 4:  # remove a piece, or all that follows
            del changed[at : rng.choice((end, end, len(changed)))]
        elif action == 5:  # a piece twice
            changed[at:at] = changed[at:end] * rng.choice((1, 2, 50))
        elif action == 6:  # a piece elsewhere
            target = rng.randrange(len(changed) + 1)
            changed[target:target] = changed[at:end]
        else:  # splice: this file's front, another one's rest
            other = rng.choice(others)
            changed[at:] = other[min(at, len(other)) :]
    return bytes(changed)


def mutations(name: str, count: int, files: dict[str, bytes]) -> Iterator[bytes]:
    """`count` mutations of one of `seeds`."""
    rng = random.Random(name)
    others = list(files.values())
    for _ in range(count):
        yield mutate(files[name], others, rng)


def verdicts(name: str, count: int, files: dict[str, bytes]) -> Counter[str]:
    """What became of a file's mutations: reasons, and `pixels`."""
    counts: Counter[str] = Counter()
    with Decoder[None](16, LIMITS) as decoder:
        for data in mutations(name, count, files):
            counts.update("pixels" if image.error is None else image.error.reason for image in decoder.submit(None, data))
        counts.update("pixels" if image.error is None else image.error.reason for image in decoder.drain())
    return counts


if __name__ == "__main__":
    everything = seeds()
    for kind in everything:
        found = verdicts(kind, int(sys.argv[1]) if len(sys.argv) > 1 else 20_000, everything)
        sys.stdout.write(f"{kind}: {dict(found.most_common())}\n")
