"""The scorer of the chaos runs: scores from pixels and captions, slow enough to be killed, and counted."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.schema import Captions, Scores
from tests.echo import EchoScorer


class ChaosScorer(EchoScorer):
    """Notes how many images each call scored at the end of a file, so that work done twice can be counted."""

    def __init__(self, tally: Path, delay_s: float) -> None:
        self.tally = tally
        self.delay_s = delay_s

    def score(self, pixels: npt.NDArray[np.uint8], captions: Captions) -> Scores:
        time.sleep(self.delay_s)
        scores = super().score(pixels, captions)
        handle = os.open(self.tally, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{len(pixels)}\n".encode())  # a short append is one piece, whoever else appends
        os.close(handle)
        return scores


def maker(tally: str, delay_s: float) -> partial[ChaosScorer]:
    """What `run.score` takes to make a scorer in each replica."""
    return partial(ChaosScorer, Path(tally), delay_s)
