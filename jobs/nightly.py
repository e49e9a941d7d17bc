"""Every night's partition scored, filtered, reported, and compared with the nights before: an alarm where it looks different.

    python jobs/nightly.py --config configs/nightly.yaml
    python jobs/nightly.py --input.manifest s3://bucket/in/ --output.path s3://bucket/nights --filter.min_itm 0.5 --dry-run
    python jobs/nightly.py --config configs/nightly.yaml --nightly.since 2026-01-01 --nightly.until 2026-01-31
    python jobs/nightly.py --config configs/nightly.yaml --nightly.accept 2026-01-05

Does all partitions date=YYYY-MM-DD that are not done, the oldest first; run again, it does nothing. `--dry-run` only lists
them. docs/nightly.md tells what is compared and what an alarm means. Exit codes, of several nights the worst: 0 all in order; 3
more rows failed than output.max_failed_share; 4 a night drifted (3 and 4 stay until the night is accepted); 2 a night could not
be done, or a mistake in settings, one line on stderr; 130 and 143 interrupted, resumable; 1 a bug.
"""

from __future__ import annotations

import json
import sys

from console import Console, interrupts_raise, report_errors

from pipeline.commandline import new_parser, parse
from pipeline.dataflow import MakeScorer
from pipeline.nightly.nights import Due
from pipeline.nightly.run import NightResult, Outcome, run_nights

MOST_LISTED = 20


class NightlyConsole(Console):
    """Shows a run of several nights."""

    def night_begins(self, due: Due) -> None:
        """Print which night comes."""
        self.terminal.print(f"night {due.partition.night}: {due.why}, {_count(due.partition.files, 'file')}", markup=False)

    def night_ended(self, result: NightResult) -> None:
        """Print what came of it: one line on stdout, and an alarm on stderr as well."""
        if result.record is not None:
            profile = result.record.profile
            self.results.print(
                f"{result.night}  {profile.rows:,} rows, {1 - profile.failed_share:.1%} scored, {result.record.kept:,} kept; "
                f"{'ALARM: ' if result.exit_code else ''}{result.record.verdict}",
                markup=False,
            )
        if result.exit_code:
            what = f"ALARM: {result.record.verdict}" if result.record is not None else f"failed: {result.error}"
            print(f"nightly: {result.night} {what}", file=sys.stderr)


def main(argv: list[str], make_scorer: MakeScorer | None = None) -> int:
    """Run the program, with another scorer where one is given; returns its exit code."""
    parser = new_parser("nightly.py", "Score, filter, report and compare every partition date=YYYY-MM-DD that is not done yet.")
    parser.add_argument("--dry-run", action="store_true", help="list what would be done; write nothing")
    with report_errors("nightly"):
        config, options = parse(parser, argv)
        console = NightlyConsole(quiet=options.json)
        with interrupts_raise(), console:
            outcome = run_nights(config, console, make_scorer, dry_run=options.dry_run)
        if options.json:
            print(json.dumps(outcome.as_json()))
        else:
            show(outcome)
        if not outcome.dry_run:
            _complain(outcome)
        return outcome.exit_code


def show(outcome: Outcome) -> None:
    """Print what was done, what is left, and what waits."""
    finished = outcome.plan.finished
    if outcome.dry_run:
        for due in outcome.plan.due:
            print(f"{due.partition.night}  would be done: {due.why}, {_count(due.partition.files, 'file')}")
    for due in outcome.plan.waiting[:MOST_LISTED]:
        print(f"{due.partition.night}  {due.why}")
    if not outcome.plan.due:
        span = f", {finished[0]} to {finished[-1]}" if finished else ""
        print(f"nothing to do: {_count(len(finished), 'night')} finished{span}")
    elif outcome.dry_run:
        print(f"a dry run: {_count(len(outcome.plan.due), 'night')} to do, {len(finished)} finished; nothing was written")
    else:
        done = len(outcome.plan.due) - len(outcome.left)
        print(
            f"{_count(done, 'night')} done, {len(outcome.left)} left, {len(finished)} finished before; below {outcome.output}"
        )


def _complain(outcome: Outcome) -> None:
    """One line on stderr for every night of an earlier run that is still open."""
    now = {result.night for result in outcome.done}
    earlier = [record for record in outcome.open if record.night not in now]
    for record in earlier[:MOST_LISTED]:
        print(
            f"nightly: {record.night} is open: {record.verdict}; --nightly.accept {record.night} makes it history",
            file=sys.stderr,
        )
    if len(earlier) > MOST_LISTED:
        print(f"nightly: {len(earlier) - MOST_LISTED} more nights are open", file=sys.stderr)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
