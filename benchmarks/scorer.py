"""Both scores of base at 384 px on the CPU: capsieve's one pass against transformers called for each head, and against sgemm.

    python benchmarks/scorer.py [--rounds N] [--images N] [--threads N]

Random weights, the same in both models; captions of 8 to 16 tokens. The limit is what the machine's own
matrix multiplication reaches, over the GFLOP of one pass (image 111, cross-attention keys and values 16, 0.4 a token).
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from harness import publish, take_turns
from transformers import BlipForImageTextRetrieval

from pipeline.model import BLIP_ITM, save_checkpoint
from pipeline.scorer import MEAN, STD, Scorer

SIDE = 384
GFLOP_IMAGE = 127.0
GFLOP_TOKEN = 14.0 / 35
WORDS = [
    "a",
    "the",
    "red",
    "small",
    "large",
    "dog",
    "cat",
    "house",
    "tree",
    "on",
    "under",
    "with",
    "photo",
    "of",
    "old",
    "street",
]


def captions(count: int, rng: random.Random) -> list[str]:
    """English-like captions of 6 to 14 words."""
    return [" ".join(rng.choices(WORDS, k=rng.randint(6, 14))) for _ in range(count)]


def sgemm_gflops(seconds: float = 2.0) -> float:
    """GFLOP/s of float32 matrix products of the model's own sizes."""
    a, b = torch.rand(577 * 4, 768), torch.rand(768, 3072)
    torch.mm(a, b)
    began, runs = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        torch.mm(a, b)
        runs += 1
    return 2 * a.shape[0] * a.shape[1] * b.shape[1] * runs / (time.perf_counter() - began) / 1e9


class Reference:
    """transformers' model with the same weights: one call for itm and one for itc, as people write it."""

    def __init__(self, model: BLIP_ITM) -> None:
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(model, Path(folder), format="huggingface")
            self.model = BlipForImageTextRetrieval.from_pretrained(folder).eval()
        self.tokenizer = model.tokenizer
        mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
        self.mean, self.std = mean, std

    def score(self, pixels: np.ndarray, texts: list[list[str]]) -> tuple[torch.Tensor, torch.Tensor]:
        """One pair after another in batches of the images: every caption is a pair of its own."""
        repeats = torch.tensor([len(own) for own in texts])
        image = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        image = image.repeat_interleave(repeats, dim=0)
        batch = self.tokenizer([text for own in texts for text in own])
        ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        with torch.inference_mode():
            itm = self.model(ids, image, attention_mask=mask, use_itm_head=True).itm_score
            itc = self.model(ids, image, attention_mask=mask, use_itm_head=False).itm_score
        return itm, itc


def main(argv: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = BLIP_ITM().eval()
    reference, scorer = Reference(model), Scorer(model, "cpu", "float32")
    rng = random.Random(0)
    pixels = np.random.default_rng(0).integers(0, 256, (options.images, SIDE, SIDE, 3), dtype=np.uint8)
    rows, figures = [], {}
    for per_image in (1, 5):
        texts = [captions(per_image, rng) for _ in range(options.images)]
        pairs = options.images * per_image
        gemm_before = sgemm_gflops()
        timings = take_turns(
            {
                "transformers": lambda texts=texts: reference.score(pixels, texts),
                "capsieve": lambda texts=texts: scorer.score(pixels, texts),
            },
            rounds=options.rounds,
        )
        gemm = (gemm_before + sgemm_gflops()) / 2
        itm, _ = reference.score(pixels, texts)
        difference = float(np.abs(itm.numpy() - scorer.score(pixels, texts).itm_logits).max())
        tokens = int(scorer.model.tokenizer([text for own in texts for text in own]).attention_mask.sum())
        share = (GFLOP_IMAGE * options.images + GFLOP_TOKEN * tokens) / gemm / timings["capsieve"].median_s
        figures[f"{per_image} captions"] = {name: timing._asdict() for name, timing in timings.items()} | {"sgemm_gflops": gemm}
        rows.append(
            [
                str(per_image),
                *(f"{pairs / timings[name].median_s:.2f} pairs/s" for name in ("transformers", "capsieve")),
                f"{timings['transformers'].median_s / timings['capsieve'].median_s:.2f} x",
                f"{share:.0%} of {gemm:.0f} GFLOP/s",
                f"{max(timing.spread for timing in timings.values()):.0%}",
                f"{difference:.1e}",
            ]
        )
    header = ["captions an image", "transformers", "capsieve", "ratio", "share of sgemm", "spread", "largest logit difference"]
    publish("scorer", header, rows, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
