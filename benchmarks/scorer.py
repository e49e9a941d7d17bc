"""Both scores of base at a side of 384: capsieve's one pass against transformers called for each head, and against bare GEMM.

    python benchmarks/scorer.py [--rounds N] [--images N] [--threads N] [--captions N ...] [--precision P ...]
    python benchmarks/scorer.py --agreement [--scenes N]          # of int8 and bfloat16 with float32
    python benchmarks/scorer.py --device cuda --precision bfloat16 --compile --images 256 --batch-size 64

Random weights, the same in both models; captions of 8 to 16 tokens. What is compared takes turns, bare matrix products too.
FLOPs are those of one pass, a multiply-add counted as two: 111 G an image for the vision encoder, 16 G an image for keys and
values of cross-attention, and by its real tokens, 14 G for a caption of 35 (8 with the image, 6 alone). A share is those
FLOPs a second over what bare products of the vision encoder's sizes reach in the same run, in float32 or, on a GPU, in
the same type.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Timing, publish, take_turns
from transformers import BlipForImageTextRetrieval

from pipeline.device import MEAN, STD, choose_precision
from pipeline.model import BLIP_ITM, load_model, save_checkpoint
from pipeline.scenes.evaluation import HEADS, score_scenes
from pipeline.scenes.scene import SPLITS
from pipeline.scorer import Scorer

SIDE = 384
GFLOP_IMAGE = 111.0 + 16.0
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
PRODUCTS = ((768, 2304), (768, 768), (768, 3072), (3072, 768))  # (in, out) of a vision block's linear layers


def captions(count: int, rng: random.Random) -> list[str]:
    """English-like captions of 6 to 14 words."""
    return [" ".join(rng.choices(WORDS, k=rng.randint(6, 14))) for _ in range(count)]


class BareProducts:
    """Matrix products of the vision encoder's sizes, and nothing else."""

    def __init__(self, images: int, device: torch.device, dtype: torch.dtype) -> None:
        rows = images * (1 + (SIDE // 16) ** 2)
        self.pairs = [
            (torch.rand(rows, a, dtype=dtype, device=device), torch.rand(a, b, dtype=dtype, device=device)) for a, b in PRODUCTS
        ]
        self.gflop = sum(2 * rows * a * b for a, b in PRODUCTS) / 1e9 * 3

    def __call__(self) -> None:
        """Each of them three times."""
        for _ in range(3):
            for a, b in self.pairs:
                torch.mm(a, b)
        if a.device.type == "cuda":
            torch.cuda.synchronize()


class Reference:
    """transformers' model with the same weights: one call for itm and one for itc, as people write it."""

    def __init__(self, model: BLIP_ITM, device: torch.device, dtype: torch.dtype) -> None:
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(model, Path(folder), format="huggingface")
            self.model = BlipForImageTextRetrieval.from_pretrained(folder).eval().to(device, dtype)
        self.tokenizer, self.device, self.dtype = model.tokenizer, device, dtype
        self.mean, self.std = (torch.tensor(value, device=device).view(1, 3, 1, 1) for value in (MEAN, STD))

    def score(self, pixels: np.ndarray, texts: list[list[str]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Batches of as many pairs as there are images: every caption is a pair of its own."""
        owner = [index for index, own in enumerate(texts) for _ in own]
        batch = self.tokenizer([text for own in texts for text in own])
        ids, mask = (torch.from_numpy(part).to(self.device) for part in batch[:2])
        itm, itc = [], []
        with torch.inference_mode():
            for start in range(0, len(owner), len(texts)):
                rows = slice(start, start + len(texts))
                image = torch.from_numpy(pixels[owner[rows]]).to(self.device).permute(0, 3, 1, 2).float() / 255
                image = ((image - self.mean) / self.std).to(self.dtype)
                itm.append(self.model(ids[rows], image, attention_mask=mask[rows], use_itm_head=True).itm_score)
                itc.append(self.model(ids[rows], image, attention_mask=mask[rows], use_itm_head=False).itm_score)
        return torch.cat(itm).float().cpu(), torch.cat([part.diagonal() for part in itc]).float().cpu()


def compare(options: argparse.Namespace) -> None:
    """The table of ratios: one line for each number of captions and precision."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    base = BLIP_ITM().eval()
    state = base.state_dict()
    dtype = torch.float32 if device.type == "cpu" else choose_precision(options.precision[0], device)
    reference = Reference(base, device, dtype)
    scorers = {}
    for precision in options.precision:
        model = BLIP_ITM()
        model.load_state_dict(state)
        scorers[precision] = Scorer(
            model, device, precision, batch_size=options.batch_size, compile=options.compile, tf32=options.tf32
        )
    bare = BareProducts(min(options.images, 4 if device.type == "cpu" else 64), device, dtype)
    pixels = np.random.default_rng(0).integers(0, 256, (options.images, SIDE, SIDE, 3), dtype=np.uint8)
    rng = random.Random(0)
    rows: list[list[str]] = []
    figures: dict[str, Any] = {"options": vars(options)}
    for per_image in options.captions:
        texts = [captions(per_image, rng) for _ in range(options.images)]
        variants: dict[str, Callable[[], object]] = {
            "GEMM": bare,
            "transformers": lambda texts=texts: reference.score(pixels, texts),
        }
        for name, scorer in scorers.items():
            variants[name] = lambda scorer=scorer, texts=texts: scorer.score(pixels, texts)
        timings = take_turns(variants, rounds=options.rounds)
        itm, _ = reference.score(pixels, texts)
        tokens = int(base.tokenizer([text for own in texts for text in own]).attention_mask.sum())
        gflop = GFLOP_IMAGE * options.images + GFLOP_TOKEN * tokens
        limit = bare.gflop / timings["GEMM"].median_s
        figures[f"{per_image} captions"] = {name: timing._asdict() for name, timing in timings.items()} | {"gemm_gflops": limit}
        for name, scorer in scorers.items():
            difference = float(np.abs(itm.numpy() - scorer.score(pixels, texts).itm_logits).max())
            rows.append(_row(per_image, name, timings, options.images * per_image, gflop, limit, difference))
    header = [
        "captions an image",
        "precision",
        "transformers",
        "capsieve",
        "ratio",
        "share of bare GEMM",
        "spread",
        "largest logit difference",
    ]
    publish("scorer" if device.type == "cpu" else f"scorer-{device.type}", header, rows, figures)


def _row(
    per_image: int, name: str, timings: dict[str, Timing], pairs: int, gflop: float, limit: float, difference: float
) -> list[str]:
    theirs, ours = timings["transformers"], timings[name]
    return [
        str(per_image),
        name,
        *(f"{pairs / timing.median_s:.2f} pairs/s" for timing in (theirs, ours)),
        f"{theirs.median_s / ours.median_s:.2f} x",
        f"{gflop / ours.median_s / limit:.0%} of {limit:,.0f} GFLOP/s",
        f"{max(theirs.spread, ours.spread, timings['GEMM'].spread):.0%}",
        f"{difference:.1e}",
    ]


def agreement(options: argparse.Namespace) -> None:
    """How far scores in other precisions lie from float32: the demo model on held-out scenes, random base on noise."""
    rows: list[list[str]] = []
    figures: dict[str, Any] = {}
    precisions = [name for name in options.precision if name != "float32"]
    demo = {name: _scene_scores(name, options) for name in ("float32", *precisions)}
    random_base = {name: _base_scores(name, options) for name in ("float32", *precisions)}
    for model, found in (("demo", demo), ("base-384, random weights", random_base)):
        for name in precisions:
            for head in HEADS:
                rank = _spearman(found["float32"][head], found[name][head])
                largest = float(np.abs(found["float32"][head] - found[name][head]).max())
                spread = float(found["float32"][head].std())
                figures[f"{model}, {name}, {head}"] = {
                    "spearman": rank,
                    "largest_change": largest,
                    "standard_deviation": spread,
                }
                rows.append(
                    [model, name, head, f"{len(found[name][head]):,}", f"{rank:.5f}", f"{largest:.4f}", f"{spread:.4f}"]
                )
    header = ["model", "precision", "head", "pairs", "rank correlation", "largest change", "standard deviation of scores"]
    publish("scorer-agreement" if options.device == "cpu" else f"scorer-agreement-{options.device}", header, rows, figures)


def _scene_scores(precision: str, options: argparse.Namespace) -> dict[str, np.ndarray]:
    scorer = Scorer(load_model(""), options.device, precision)
    found = score_scenes(scorer, SPLITS["test"], options.scenes, scorer.image_size).by_head
    return {"itm": 1 / (1 + np.exp(-found["itm"].ravel())), "itc": found["itc"].ravel()}


def _base_scores(precision: str, options: argparse.Namespace) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    scorer = Scorer(BLIP_ITM(), options.device, precision)
    pixels = np.random.default_rng(0).integers(0, 256, (options.images, SIDE, SIDE, 3), dtype=np.uint8)
    rng = random.Random(0)
    scores = scorer.score(pixels, [captions(16, rng) for _ in range(options.images)])
    return {"itm": scores.itm_score, "itc": scores.itc_similarity}


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(part, kind="stable"), kind="stable") for part in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def main(argv: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--captions", type=int, nargs="+", default=[1, 5], help="of an image")
    parser.add_argument("--precision", nargs="+", default=["float32", "int8"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--scenes", type=int, default=1_000)
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.agreement:
        agreement(options)
    else:
        compare(options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
