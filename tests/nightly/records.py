"""Nights by number, and records of quiet ones."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.commandline import load
from pipeline.config import Config
from pipeline.nightly.judge import Record
from pipeline.profiles import Profile
from tests.nights import QUIET

FIRST = date(2026, 1, 1)
MODEL = {"model": "m", "model_sha256": "aa", "image_size": 384}


def night(number: int) -> date:
    return FIRST + timedelta(days=number)


def record(number: int, profile: Profile | None = None, **changes: Any) -> Record:
    """The record of a quiet night."""
    profile = profile or QUIET.draw(np.random.default_rng(number))
    fields = {"night": night(number), "files": 1, "scored": "s", "made_of": MODEL, "kept": 10, "max_failed_share": 0.5}
    return Record(**{**fields, "profile": profile, **changes})


def config_of(folder: Path | str, **nightly: Any) -> Config:
    return load(None, {"input": {"manifest": f"{folder}/in"}, "output": {"path": f"{folder}/out"}, "nightly": nightly})


HISTORY = [record(number) for number in range(28)]
