"""Train the demo model from scratch on rendered scenes, and write it where the package looks for it.

    python jobs/train_demo_model.py --out runs/demo_model
    python jobs/train_demo_model.py --out runs/demo_model --resume

Draws the pictures (once; about three minutes), trains, and writes below OUT: model/ (model.safetensors, config.json, vocab.txt: a checkpoint
that every program takes as --model.checkpoint), metrics.jsonl (a line every ten steps, and the figures on the validation split),
state.pt (for --resume). The test split is never looked at: jobs/evaluate.py --scenes test does. The weights depend on the steps and the seed alone,
not on how often training was stopped. Exit codes: 0 done; 2 a mistake, one line; 130 and 143 interrupted, resumable with --resume.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from console import interrupts_raise, report_errors
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.errors import ConfigError
from pipeline.evaluate import roc_auc
from pipeline.scene_evaluation import score_scenes
from pipeline.scenes.cache import cached_pixels
from pipeline.scenes.scene import TRAIN, VALIDATION

LOG_EVERY_STEPS = 10
SAVE_EVERY_S = 60.0
VALIDATE_EVERY_STEPS = 500
VALIDATION_SCENES = 256


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")


def main(argv: list[str]) -> int:
    """Run the program; returns its exit code."""
    with report_errors("train_demo_model"):
        options = parse(argv)
        with interrupts_raise():
            train(options)
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line. Raises ConfigError; exits with 0 on --help."""
    parser = _Parser(prog="train_demo_model.py", description="Train the demo model on rendered scenes.", allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the model, the metrics and the state")
    parser.add_argument("--steps", type=int, help="optimizer steps; default: those of the shipped model")
    parser.add_argument("--scenes", type=int, help="pictures to train on; default: those of the shipped model")
    parser.add_argument("--seed", type=int, help="of weights, batches and negatives; default: the shipped model's")
    parser.add_argument("--minutes", type=float, help="stop and save after so long; go on with --resume")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the state saved in OUT")
    options = parser.parse_args(argv)
    for name in ("steps", "scenes", "minutes", "threads"):
        if getattr(options, name) is not None and getattr(options, name) <= 0:
            raise ConfigError(f"--{name} must be above 0, not {getattr(options, name)}")
    state = options.out / "state.pt"
    if options.resume and not state.exists():
        raise ConfigError(f"nothing to resume: {state} does not exist")
    if state.exists() and not options.resume:
        raise ConfigError(f"{options.out} holds a training already: give --resume to go on with it, or another --out")
    return options


def train(options: argparse.Namespace) -> None:
    """Render, train, write the model."""
    started = time.monotonic()
    import torch

    from pipeline.training import Recipe, Trainer, export_model

    torch.set_num_threads(options.threads)
    chosen = {name: getattr(options, name) for name in ("steps", "scenes", "seed") if getattr(options, name) is not None}
    recipe = replace(Recipe(), **chosen)
    if recipe.scenes < recipe.batch_size:
        raise ConfigError(f"--scenes must be at least {recipe.batch_size}, the scenes of one step")
    with _progress() as progress:
        task = progress.add_task("drawing", total=recipe.scenes, note="")
        pixels = cached_pixels(
            options.out / "pixels",
            TRAIN,
            recipe.scenes,
            recipe.image_size,
            workers=options.threads,
            progress=lambda scenes: progress.advance(task, scenes),
        )
        progress.update(task, completed=recipe.scenes)
        trainer = Trainer(recipe, pixels)
        if options.resume:
            trainer.load(options.out / "state.pt")
        finished = _loop(trainer, options, progress, started)
    if finished:
        export_model(trainer.model, options.out / "model")
        print(f"{options.out / 'model'}: trained for {recipe.steps:,} steps; next: jobs/evaluate.py --scenes test")
    else:
        print(f"stopped after {trainer.step:,} of {recipe.steps:,} steps; run the same command with --resume to go on")


def _loop(trainer: Any, options: argparse.Namespace, progress: Progress, started: float) -> bool:
    """Train until the last step or the time is up, saving every minute and on the way out. True if the last step was reached."""
    state = options.out / "state.pt"
    task = progress.add_task("training", total=trainer.recipe.steps, completed=trainer.step, note="")
    saved = time.monotonic()
    with (options.out / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
        try:
            for report in trainer.steps():
                note = f"itc {report.itc_loss:.2f}, itm {report.itm_loss:.3f} ({report.itm_accuracy:.0%})"
                progress.update(task, completed=report.step, note=note)
                if report.step % LOG_EVERY_STEPS == 0:
                    _write(metrics, report._asdict())
                if report.step % VALIDATE_EVERY_STEPS == 0:
                    _write(metrics, {"step": report.step, "minutes": (time.monotonic() - started) / 60, **_validate(trainer)})
                if time.monotonic() - saved > SAVE_EVERY_S:
                    trainer.save(state)
                    saved = time.monotonic()
                if options.minutes and time.monotonic() - started > options.minutes * 60:
                    break
        finally:
            if trainer.at_rest:  # an interrupt within a step leaves half an update: then the last minute is lost
                trainer.save(state)
    return bool(trainer.step >= trainer.recipe.steps)


def _validate(trainer: Any) -> dict[str, float]:
    """AUC on scenes of the validation split, by negatives and head."""
    scores = score_scenes(trainer.scorer(), VALIDATION, VALIDATION_SCENES, trainer.recipe.image_size)
    labels = [True] * VALIDATION_SCENES + [False] * VALIDATION_SCENES
    figures = {}
    for head, triples in scores.by_head.items():
        for column, negatives in ((1, "other"), (2, "changed")):
            auc = roc_auc(labels, [*triples[:, 0], *triples[:, column]])
            figures[f"auc_{head}_{negatives}"] = round(auc, 4)
    return figures


def _write(file: Any, values: dict[str, Any]) -> None:
    file.write(json.dumps({name: round(value, 5) for name, value in values.items()}) + "\n")
    file.flush()


def _progress() -> Progress:
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    return Progress(*columns, console=Console(stderr=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
