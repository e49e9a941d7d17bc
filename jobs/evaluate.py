"""How well a model tells good captions from bad ones, on your own labelled sample or on rendered scenes.

    python jobs/evaluate.py --input.manifest labelled.parquet --model.checkpoint Salesforce/blip-itm-base-coco
    python jobs/evaluate.py --input.manifest labelled.parquet --label is_good --itm-threshold 0.5 --itc-threshold 0.3
    python jobs/evaluate.py --scenes test

A labelled manifest is Parquet with images (a column of URLs, paths or bytes), captions, and labels (0/1, true/false, good/bad).
Prints for both heads the AUC, the average precision, and precision and recall at the thresholds given, or at those that keep
99, 95, 90, 75 and 50 % of the good pairs; each with its 95 % bootstrap interval, images resampled with all their pairs. Needs
no Ray. Exit codes: 0 done; 2 a mistake in settings or data, one line on stderr; 130 and 143 interrupted; 1 a bug.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from console import interrupts_raise, report_errors
from rich.console import Console
from rich.table import Table

from pipeline.commandline import new_parser, parse
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.evaluate import HeadMetrics, Interval, evaluate_head
from pipeline.model.facts import storage_options
from pipeline.scenes.evaluation import SceneRow, scene_table, score_scenes
from pipeline.scenes.scene import SPLITS

BATCH_SIZE = 64  # images of one model call; the scorer halves it where memory runs out
TABLE_WIDTH = 120  # also where there is no terminal: a table that wraps cannot be read or searched
DEMO = "model: a demo model, trained on rendered scenes: give a real one with --model.checkpoint Salesforce/blip-itm-base-coco"


def main(argv: list[str]) -> int:
    """Run the program; returns its exit code."""
    parser = new_parser("evaluate.py", "AUC, average precision, precision and recall of both heads on labelled pairs.")
    parser.add_argument("--label", metavar="NAME", help="column of labels (default: label, is_match, match, good or target)")
    parser.add_argument("--itm-threshold", metavar="P", type=float, action="append", help="of itm_score; may be repeated")
    parser.add_argument(
        "--itc-threshold", metavar="COS", type=float, action="append", help="of itc_similarity; may be repeated"
    )
    parser.add_argument("--resamples", metavar="N", type=int, default=1_000, help="bootstrap samples (default: %(default)s)")
    parser.add_argument(
        "--scenes", choices=sorted(SPLITS), help="evaluate on a split of the rendered scenes instead of a manifest"
    )
    parser.add_argument(
        "--scene-count", metavar="N", type=int, default=4_000, help="scenes, with three captions each (default: %(default)s)"
    )
    with report_errors("evaluate"), interrupts_raise():
        config, options = parse(parser, argv)
        _check(config, options)
        result = _scenes(config, options) if options.scenes else _manifest(config, options)
        if options.json:
            print(json.dumps(result))
    return 0


def _check(config: Config, options: argparse.Namespace) -> None:
    if options.scenes and config.input.manifest:
        raise ConfigError("give --input.manifest or --scenes, not both")
    if not options.scenes and not config.input.manifest:
        raise ConfigError("nothing to evaluate: give --input.manifest FILE, or --scenes test")
    for name in ("resamples", "scene_count"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(options, name)}")
    if any(not 0 <= threshold <= 1 for threshold in options.itm_threshold or ()):
        raise ConfigError("--itm-threshold is a probability: 0 to 1")


def _scorer(config: Config) -> Any:
    from pipeline.scorer import load_scorer

    model = config.model
    try:
        return load_scorer(
            model.checkpoint,
            image_size=model.image_size,
            device=model.device,
            precision=model.precision,
            itm_first_token=model.itm_first_token,
            batch_size=config.compute.batch_size or BATCH_SIZE,
            compile=model.compile,
            tf32=model.tf32,
            storage_options=storage_options(model.checkpoint, config.storage),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _manifest(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    """Evaluate on a labelled manifest."""
    from pipeline.labelled import score_labelled

    scorer = _scorer(config)
    with Console(stderr=True).status("scoring") as status:
        pairs = score_labelled(
            config,
            scorer,
            scorer.image_size,
            label_column=options.label,
            progress=lambda done, rows: status.update(f"scoring: {done:,} of {rows:,} rows"),
        )
    cuts = {"itm": _logits(options.itm_threshold), "itc": options.itc_threshold}
    scores = {"itm": pairs.itm_logit, "itc": pairs.itc_similarity}
    try:
        heads = {
            head: evaluate_head(pairs.labels, scores[head], cuts[head], groups=pairs.images, resamples=options.resamples)
            for head in scores
        }
    except ValueError as error:
        raise ConfigError(f"{error} ({len(pairs.labels)} pairs scored, {pairs.failures.total()} failed)") from None
    if not config.model.checkpoint:
        print(DEMO, file=sys.stderr)
    if not options.json:
        _print_heads(heads)
        for reason, count in pairs.failures.most_common():
            print(f"{count:,} pairs left out: {reason}")
    return {"failures": dict(pairs.failures), **{head: _as_json(head, metrics) for head, metrics in heads.items()}}


def _scenes(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    """Evaluate on rendered scenes: each kind of false caption apart."""
    scorer = _scorer(config)
    done = 0
    with Console(stderr=True).status("scoring") as status:

        def advance(scenes: int) -> None:
            nonlocal done
            done += scenes
            status.update(f"scoring: {done:,} of {options.scene_count:,} scenes")

        scores = score_scenes(scorer, SPLITS[options.scenes], options.scene_count, scorer.image_size, progress=advance)
    rows = scene_table(scores, resamples=options.resamples)
    if not options.json:
        _print_scenes(rows)
    return {"split": options.scenes, "rows": [{**row._asdict(), "metrics": _as_json(row.head, row.metrics)} for row in rows]}


def _logits(probabilities: list[float] | None) -> list[float] | None:
    """itm_score thresholds as logits, which rank alike and don't saturate."""
    with np.errstate(divide="ignore"):
        return None if probabilities is None else [float(np.log(p) - np.log1p(-p)) for p in np.array(probabilities)]


def _probability(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


def _print_heads(heads: dict[str, HeadMetrics]) -> None:
    out = Console(width=TABLE_WIDTH)
    first = next(iter(heads.values()))
    out.print(f"{first.pairs:,} pairs, {first.positives:,} of them good; 95 % intervals in brackets")
    summary = Table("head", "AUC", "average precision", box=None, header_style="bold")
    cuts = Table("keep if", "precision", "recall", "kept", box=None, header_style="bold")
    for head, metrics in heads.items():
        summary.add_row(head, _show(metrics.auc), _show(metrics.average_precision))
        name = "itm_score" if head == "itm" else "itc_similarity"
        for row in metrics.thresholds:
            cut = _probability(row.threshold) if head == "itm" else row.threshold
            cuts.add_row(f"{name} >= {cut:.4f}", *map(_show, (row.precision, row.recall, row.kept)))
    for table in (summary, cuts):
        out.print()
        out.print(table)


def _print_scenes(rows: Iterable[SceneRow]) -> None:
    table = Table("combinations", "negatives", "head", "pairs", "AUC", "average precision", box=None, header_style="bold")
    for row in rows:
        metrics = row.metrics
        table.add_row(
            row.scenes, row.negatives, row.head, f"{metrics.pairs:,}", _show(metrics.auc), _show(metrics.average_precision)
        )
    Console(width=TABLE_WIDTH).print(table)


def _show(interval: Interval) -> str:
    return str(interval).replace("[", r"\[")


def _as_json(head: str, metrics: HeadMetrics) -> dict[str, Any]:
    """Plain values; thresholds of the itm head as itm_score and as itm_logit. Figures that don't exist are null."""

    def plain(interval: Interval) -> dict[str, float | None]:
        return {name: None if np.isnan(value) else round(value, 6) for name, value in interval._asdict().items()}

    thresholds = []
    for row in metrics.thresholds:
        finite = bool(np.isfinite(row.threshold))
        names = {"itm_score": _probability(row.threshold), "itm_logit": row.threshold if finite else None}
        cut = names if head == "itm" else {"itc_similarity": row.threshold}
        thresholds.append({**cut, **{name: plain(getattr(row, name)) for name in ("precision", "recall", "kept")}})
    return {
        "pairs": metrics.pairs,
        "positives": metrics.positives,
        "auc": plain(metrics.auc),
        "average_precision": plain(metrics.average_precision),
        "thresholds": thresholds,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
