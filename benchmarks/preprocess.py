"""JPEG bytes -> uint8 (384, 384, 3), one thread: capsieve against Pillow and against transformers' BlipImageProcessor.

    python benchmarks/preprocess.py [--rounds N] [--images N]

The pictures are smooth noise with edges, saved at quality 85: about as many bytes a pixel as photographs have.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable

import numpy as np
import torch
from harness import publish, take_turns
from PIL import Image
from transformers import BlipImageProcessor

from pipeline.images import decode

SIZES = ((640, 480), (1024, 768), (1920, 1280), (4000, 3000))
SIDE = 384


def picture(width: int, height: int, seed: int) -> bytes:
    """A JPEG with structure at all scales."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for scale in (4, 16, 64, 256):
        noise = rng.uniform(0, 255, (max(2, height // scale), max(2, width // scale), 3)).astype(np.uint8)
        image += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC), np.float32) / 4
    buffer = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def with_pillow(data: bytes) -> np.ndarray:
    """As the reference preprocesses: decode, bicubic with antialias."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def main(argv: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=4)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    processor = BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    rows, figures = [], {}
    for width, height in SIZES:
        files = [picture(width, height, seed) for seed in range(options.images)]

        def each(run: Callable[[bytes], object], files: list[bytes] = files) -> Callable[[], None]:
            def run_all() -> None:
                for data in files:
                    run(data)

            return run_all

        timings = take_turns(
            {
                "pillow": each(with_pillow),
                "transformers": each(lambda data: processor(Image.open(io.BytesIO(data)), return_tensors="pt")),
                "capsieve": each(lambda data: decode(data, SIDE)),
            },
            rounds=options.rounds,
        )
        difference = np.abs(np.stack([with_pillow(data).astype(int) - decode(data, SIDE) for data in files]))
        ours = timings["capsieve"].median_s
        figures[f"{width}x{height}"] = {name: timing._asdict() for name, timing in timings.items()}
        rows.append(
            [
                f"{width}x{height}",
                *(f"{1000 * timings[name].median_s / len(files):.1f} ms" for name in ("pillow", "transformers", "capsieve")),
                f"{timings['pillow'].median_s / ours:.2f} x",
                f"{timings['transformers'].median_s / ours:.2f} x",
                f"{max(timing.spread for timing in timings.values()):.0%}",
                f"{difference.max()}, mean {difference.mean():.2f}",
            ]
        )
    header = [
        "JPEG",
        "Pillow",
        "transformers",
        "capsieve",
        "against Pillow",
        "against transformers",
        "spread",
        "grey levels off Pillow",
    ]
    publish("preprocess", header, rows, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
