"""JPEG bytes -> uint8 (384, 384, 3), one thread: capsieve against Pillow and against transformers' BlipImageProcessor.

    python benchmarks/preprocess.py [--rounds N]

For each size the files are three contents at three qualities (`pictures`). transformers' processor exists over torchvision
and over Pillow; both are measured, and the ratio is to the faster one of that size. They are given what PIL.Image.open gives,
as their users do, and make float32 of it, as the model's own preprocessing does; capsieve does that on the device.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from harness import publish, take_turns
from pictures import CONTENTS, QUALITIES, jpeg
from PIL import Image
from transformers import BlipImageProcessor, BlipImageProcessorPil

from pipeline.images import decode

SIZES = ((640, 480), (1024, 768), (1920, 1280), (4000, 3000))
SIDE = 384
SQUARE = {"height": SIDE, "width": SIDE}


def with_pillow(data: bytes) -> npt.NDArray[np.uint8]:
    """As the reference preprocesses: decode, bicubic with antialias."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def each(run: Callable[[bytes], object], files: list[bytes]) -> Callable[[], None]:
    """Run over all files."""

    def run_all() -> None:
        for data in files:
            run(data)

    return run_all


def main(argv: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    torchvision, pil = BlipImageProcessor(size=SQUARE), BlipImageProcessorPil(size=SQUARE)
    rows, figures = [], {}
    for width, height in SIZES:
        images = [make(width, height, seed) for seed, make in enumerate(CONTENTS.values())]
        files = [jpeg(image, quality) for image in images for quality in QUALITIES]
        timings = take_turns(
            {
                "pillow": each(with_pillow, files),
                "torchvision": each(lambda data: torchvision(Image.open(io.BytesIO(data)), return_tensors="pt"), files),
                "pil": each(lambda data: pil(Image.open(io.BytesIO(data)), return_tensors="pt"), files),
                "capsieve": each(lambda data: decode(data, SIDE), files),
            },
            rounds=options.rounds,
        )
        differences = [np.abs(with_pillow(data).astype(int) - decode(data, SIDE)) for data in files]
        ours = timings["capsieve"].median_s
        most, mean = int(max(d.max() for d in differences)), max(float(d.mean()) for d in differences)
        figures[f"{width}x{height}"] = {name: timing._asdict() for name, timing in timings.items()} | {
            "files": len(files),
            "bits_a_pixel": [round(8 * len(data) / width / height, 2) for data in files],
            "largest_difference": most,
            "mean_difference_of_the_worst_file": mean,
        }
        rows.append(
            [
                f"{width}x{height}",
                *(f"{1000 * timing.median_s / len(files):.1f} ms" for timing in timings.values()),
                f"{timings['pillow'].median_s / ours:.2f} x",
                f"{min(timings['torchvision'].median_s, timings['pil'].median_s) / ours:.2f} x",
                f"{max(timing.spread for timing in timings.values()):.0%}",
                f"{most}; {mean:.2f}",
            ]
        )
    header = [
        "JPEG",
        "Pillow",
        "transformers (torchvision)",
        "transformers (Pillow)",
        "capsieve",
        "against Pillow",
        "against transformers' faster",
        "spread",
        "grey levels off Pillow: most; mean of the worst file",
    ]
    publish("preprocess", header, rows, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
