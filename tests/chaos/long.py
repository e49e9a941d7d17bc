"""The long form: many runs, each with a kill of a random kind at a random moment. `make chaos` runs it and prints a table.

    python -m tests.chaos.long [RUNS] [SEED]

Exits with 1 unless every output is identical to the undisturbed one.
"""

from __future__ import annotations

import random
import sys

from tests.chaos.harness import KILLS, Chaos

LATEST_S = 9.0  # the stream takes some ten seconds


def main(runs: int, seed: int) -> int:
    """Run and print."""
    chance = random.Random(seed)
    random.seed(seed)  # which worker is killed
    print(f"{'run':>4} {'killed':<8} {'after s':>8} {'resumes':>8} {'rework rows':>12} {'s':>6}  output", flush=True)
    good = 0
    with Chaos() as chaos:
        for number in range(runs):
            kill = KILLS[number % len(KILLS)] if number < len(KILLS) else chance.choice(KILLS)
            outcome = chaos.run(f"run-{number}", kill, chance.uniform(0, LATEST_S))
            good += outcome.good
            numbers = f"{outcome.after_s:>8.1f} {outcome.resumes:>8} {outcome.rework:>12} {outcome.seconds:>6.0f}"
            result = "identical" if outcome.good else f"WRONG {outcome.faults}"
            print(f"{number:>4} {kill:<8} {numbers}  {result} {'; '.join(outcome.errors)}", flush=True)
    print(f"{good} of {runs} outputs identical, row by row, to that of an undisturbed run")
    return 0 if good == runs else 1


if __name__ == "__main__":
    sys.exit(main(*(int(value) for value in [*sys.argv[1:], "30", "7"][:2])))
