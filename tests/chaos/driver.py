"""A driver to be killed: `jobs/score.py` with the scorer of the chaos runs.

python -m tests.chaos.driver SETTINGS.yaml TALLY DELAY_S
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "jobs"))

from console import Console, interrupts_raise, report_errors

from pipeline.commandline import load
from pipeline.run import score
from tests.chaos.scorer import maker

if __name__ == "__main__":
    settings, tally, delay_s = sys.argv[1:]
    with report_errors("driver"), interrupts_raise(), Console(quiet=True) as console:
        score(load(settings), console, maker(tally, float(delay_s)))
