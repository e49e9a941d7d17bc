"""Train the demo model from scratch on rendered scenes.

    python jobs/train_demo_model.py --out runs/demo_model
    python jobs/train_demo_model.py --out runs/demo_model --resume

Draws the pictures (once; some three minutes), trains, and writes below OUT: model/ (model.safetensors, config.json, vocab.txt:
a checkpoint that every program takes as --model.checkpoint), metrics.jsonl (a line every ten steps, and the figures on the
validation split), state.pt (for --resume). The weights depend on the recipe alone, not on how often training was stopped. The
test split is not looked at: `jobs/evaluate.py --scenes test` does that.
Exit codes: 0 done, or out of --minutes; 2 a mistake, one line; 130 and 143 interrupted, to be resumed; 1 a bug.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from console import interrupts_raise, report_errors
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.errors import ConfigError
from pipeline.evaluate import roc_auc
from pipeline.scenes.cache import cached_pixels
from pipeline.scenes.evaluation import score_scenes
from pipeline.scenes.scene import TRAIN, VALIDATION
from pipeline.training.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.training.trainer import StepReport, Trainer

LOG_EVERY_STEPS = 10
SAVE_EVERY_S = 60.0
VALIDATE_EVERY_STEPS = 500
VALIDATION_SCENES = 256


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")


class _Stop:
    """Why to stop before the last step: a signal, or the time. A step is never cut in two, so that what is saved is whole."""

    def __init__(self, minutes: float | None) -> None:
        self.signum = 0
        self._deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum

    def asked(self) -> bool:
        """Whether to save and leave now."""
        return self.signum != 0 or time.monotonic() > self._deadline

    @property
    def exit_code(self) -> int:
        """Of the program."""
        return 128 + self.signum if self.signum else 0


def main(argv: list[str]) -> int:
    """Run the program; returns its exit code."""
    with report_errors("train_demo_model"):
        return train(parse(argv))


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line. Raises ConfigError; exits with 0 on --help."""
    parser = _Parser(prog="train_demo_model.py", description="Train the demo model on rendered scenes.", allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for model, metrics and state")
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps (default: those of the shipped model)")
    parser.add_argument("--scenes", type=int, metavar="N", help="pictures to train on (default: those of the shipped model)")
    parser.add_argument("--seed", type=int, metavar="N", help="of weights, batches, negatives (default: the shipped model's)")
    parser.add_argument("--minutes", type=float, metavar="M", help="stop and save after so long; go on with --resume")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (default: %(default)s)")
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


def train(options: argparse.Namespace) -> int:
    """Draw, train, write the model; returns the exit code."""
    import torch

    from pipeline.training.trainer import Trainer, export_model

    torch.set_num_threads(options.threads)
    chosen = {name: getattr(options, name) for name in ("steps", "scenes", "seed") if getattr(options, name) is not None}
    recipe = replace(Recipe(), **chosen)
    if recipe.scenes < recipe.batch_size:
        raise ConfigError(f"--scenes must be at least {recipe.batch_size}, those of one step")
    with _progress() as progress:
        with interrupts_raise():
            pixels = _draw(recipe, options, progress)
        stop = _Stop(options.minutes)
        trainer = Trainer(recipe, pixels)
        if options.resume:
            trainer.load(options.out / "state.pt")
        _train(trainer, options.out, progress, stop)
    if trainer.step < recipe.steps:
        print(f"stopped after {trainer.step:,} of {recipe.steps:,} steps; the same command with --resume goes on")
        return stop.exit_code
    export_model(trainer.model, options.out / "model")
    print(f"{options.out / 'model'}: trained for {recipe.steps:,} steps")
    return 0


def _draw(recipe: Recipe, options: argparse.Namespace, progress: Progress) -> Any:
    """The training pictures, from the cache below OUT if they are there."""
    task = progress.add_task("drawing", total=recipe.scenes, note="")
    try:
        pixels = cached_pixels(
            options.out / "pixels",
            TRAIN,
            recipe.scenes,
            recipe.image_size,
            workers=options.threads,
            progress=lambda scenes: progress.advance(task, scenes),
        )
    except OSError as error:
        raise ConfigError(f"cannot write to {options.out}: {error}") from None
    progress.update(task, completed=recipe.scenes)
    return pixels


def _train(trainer: Trainer, folder: Path, progress: Progress, stop: _Stop) -> None:
    """Train until the last step or until asked to stop, saving every minute and at the end."""
    task = progress.add_task("training", total=trainer.recipe.steps, completed=trainer.step, note="")
    log = folder / "metrics.jsonl"
    _forget_after(log, trainer.step)
    saved_s = time.monotonic()
    with log.open("a", encoding="utf-8") as metrics:
        for report in trainer.steps():
            progress.update(task, completed=report.step, note=_note(report))
            if report.step % LOG_EVERY_STEPS == 0:
                metrics.write(_line(report._asdict()))
            if report.step % VALIDATE_EVERY_STEPS == 0:
                metrics.write(_line({"step": report.step, **_validate(trainer)}))
            if stop.asked():
                break
            if time.monotonic() - saved_s > SAVE_EVERY_S:
                metrics.flush()
                trainer.save(folder / "state.pt")
                saved_s = time.monotonic()
    trainer.save(folder / "state.pt")


def _note(report: StepReport) -> str:
    """What of a step is shown behind the bar."""
    losses = {"patches": report.patch_loss, "itc": report.itc_loss, "itm": report.itm_loss}
    return ", ".join(f"{name} {loss:.2f}" for name, loss in losses.items() if math.isfinite(loss))


def _forget_after(log: Path, step: int) -> None:
    """Drop the lines of steps that a resumed training will do again."""
    if log.exists():
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
        log.write_text("".join(line for line in lines if json.loads(line)["step"] <= step), encoding="utf-8")


def _validate(trainer: Trainer) -> dict[str, float]:
    """AUC on scenes of the validation split, by head and kind of negative."""
    scores = score_scenes(trainer.scorer(), VALIDATION, VALIDATION_SCENES, trainer.recipe.image_size)
    labels = [True] * VALIDATION_SCENES + [False] * VALIDATION_SCENES
    return {
        f"auc_{head}_{negatives}": roc_auc(labels, [*triples[:, 0], *triples[:, column]])
        for head, triples in scores.by_head.items()
        for column, negatives in ((1, "other"), (2, "changed"))
    }


def _line(values: dict[str, float]) -> str:
    return json.dumps({name: round(value, 5) if math.isfinite(value) else None for name, value in values.items()}) + "\n"


def _progress() -> Progress:
    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note)
    return Progress(*columns, console=Console(stderr=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
