"""The nightly job: which nights are due, one after the other, the oldest first, and what came of them.

One job at a time works on an output: it holds a lease. Whatever died, the same command goes on: a night is due until its record
is written, and that is the last that is done for it. Knows nothing of how anything is printed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple, Protocol

from pipeline import cluster, run
from pipeline.config import Config
from pipeline.dataflow import MakeScorer
from pipeline.errors import ConfigError, StorageError, UserError
from pipeline.lease import Lease
from pipeline.nightly import nights
from pipeline.nightly.alarm import Alarm, alarm_of, call_webhook, write_file
from pipeline.nightly.judge import DRIFTED, FAILED_ROWS, Record, judge
from pipeline.nightly.nights import Due, Places, Plan, find_partitions, read_records, write_record
from pipeline.nightly.steps import do_night

log = logging.getLogger(__name__)

BUG = 1
WORST_LAST = (0, FAILED_ROWS, DRIFTED, UserError.exit_code, BUG)
"""Exit codes: a night that was not done is worse than one that looks strange."""


class Listener(run.Listener, Protocol):
    """Whoever shows the job to a person or a machine."""

    def night_begins(self, due: Due) -> None:
        """A night is about to be scored."""

    def night_ended(self, result: NightResult) -> None:
        """A night is done, or failed."""


class NightResult(NamedTuple):
    """What came of a night."""

    night: date
    record: Record | None  # None: it failed
    error: str | None = None  # one line
    exit_code: int = 0

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        told = {"night": self.night.isoformat(), "exit_code": self.exit_code}
        if self.record is None:
            return {**told, "error": self.error}
        profile = self.record.profile
        return {
            **told,
            "verdict": self.record.verdict,
            "rows": profile.rows,
            "failed_share": round(profile.failed_share, 4),
            "kept": self.record.kept,
            "findings": [finding.as_json() for finding in self.record.drifted],
        }


@dataclass(frozen=True)
class Outcome:
    """What a run did, and what it left."""

    plan: Plan
    done: tuple[NightResult, ...]
    open: tuple[Record, ...]  # nights that are not in order and not accepted, of this run and of earlier ones
    output: str
    dry_run: bool = False

    @property
    def exit_code(self) -> int:
        """The worst of all nights done and of all that are open."""
        codes = [result.exit_code for result in self.done] + [record.exit_code for record in self.open]
        return 0 if self.dry_run else max(codes, key=WORST_LAST.index, default=0)

    @property
    def left(self) -> tuple[Due, ...]:
        """Nights that are due still."""
        done = {result.night for result in self.done if result.record is not None}
        return tuple(due for due in self.plan.due if due.partition.night not in done)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "output": self.output,
            "dry_run": self.dry_run,
            "exit_code": self.exit_code,
            "nights": [result.as_json() for result in self.done],
            "left": [{"night": due.partition.night.isoformat(), "why": due.why} for due in self.left],
            "waiting": [{"night": due.partition.night.isoformat(), "why": due.why} for due in self.plan.waiting],
            "finished": len(self.plan.finished),
            "open": [{"night": record.night.isoformat(), "verdict": record.verdict} for record in self.open],
        }


def run_nights(config: Config, listener: Listener, make_scorer: MakeScorer | None = None, *, dry_run: bool = False) -> Outcome:
    """Do all nights that are due; the whole of what `jobs/nightly.py` does. A dry run only says which.

    `make_scorer` as of `pipeline.run.score`. Raises UserError for what concerns all nights; what concerns one is its result.
    """
    _check_settings(config)
    listener.starting("partitions")
    places = Places.of(config)
    partitions = find_partitions(config)
    if dry_run:
        records = read_records(places, config)
        return Outcome(
            nights.plan(partitions, records, places, config), (), _open(records, config), places.output, dry_run=True
        )
    with Lease(places.records, config.storage, config.output.lease_s) as lease:
        records = nights.accept(places, read_records(places, config), config)
        plan = nights.plan(partitions, records, places, config)
        job = _Job(config, places, records, listener, make_scorer)
        if plan.due:
            listener.starting("Ray")
            with cluster.joined(config):
                job.do(plan.due, lease)
        write_file(job.alarms(), config)
        return Outcome(plan, tuple(job.results), _open(job.records, config), places.output)


def _check_settings(config: Config) -> None:
    if not config.input.manifest:
        raise ConfigError("no input: name the folder that has the folders date=YYYY-MM-DD with --input.manifest")
    if not config.output.path:
        raise ConfigError("no output: name a folder with --output.path")
    if config.output.overwrite or config.output.retry:
        raise ConfigError(
            "the nightly job neither overwrites nor retries: do that to one night's folder with jobs/score.py; the next "
            "nightly run filters and compares it again"
        )


def _open(records: dict[date, Record], config: Config) -> tuple[Record, ...]:
    """Nights that somebody has to look at."""
    if config.nightly.accept_all:
        return ()
    return tuple(records[night] for night in sorted(records) if records[night].exit_code)


class _Job:
    """The nights of one run."""

    def __init__(
        self, config: Config, places: Places, records: dict[date, Record], listener: Listener, make_scorer: MakeScorer | None
    ) -> None:
        self.config, self.places, self.records = config, places, records
        self._listener, self._make_scorer = listener, make_scorer
        self.results: list[NightResult] = []

    def do(self, due: Sequence[Due], lease: Lease) -> None:
        """One night after the other. A store that does not answer ends them all; else one that fails holds up no other."""
        for one in due:
            lease.check()
            self._listener.night_begins(one)
            result, blocks = self._do_one(one, lease)
            self.results.append(result)
            self._listener.night_ended(result)
            if result.error is not None and (blocks or self.config.nightly.stop_on_failure):
                return

    def _do_one(self, due: Due, lease: Lease) -> tuple[NightResult, bool]:
        """What came of a night, and whether the next ones would fare no better."""
        night = due.partition.night
        try:
            done = do_night(due.partition, self.places, self.config, self._listener, self._make_scorer)
            findings, compared_with = judge(night, done.profile, done.made_of, list(self.records.values()), self.config.nightly)
            record = Record(
                night=night,
                files=due.partition.files,
                scored=done.scored,
                made_of=done.made_of,
                profile=done.profile,
                kept=done.kept,
                max_failed_share=self.config.output.max_failed_share,
                findings=findings,
                compared_with=compared_with,
            )
            self._alarm(None if record.exit_code == 0 else alarm_of(record))
            lease.check()
            write_record(self.places, record, self.config)
        except UserError as error:
            return self._failed(night, str(error), error.exit_code), isinstance(error, StorageError) and error.passing
        except Exception as error:  # a bug; other nights may be spared it
            log.exception("night %s", night)
            return self._failed(night, f"{type(error).__name__}: {error}", BUG), False
        self.records[night] = record
        return NightResult(night, record, exit_code=record.exit_code), False

    def _failed(self, night: date, error: str, exit_code: int) -> NightResult:
        self._alarm(Alarm(night, f"failed: {error}", exit_code))
        return NightResult(night, None, error, exit_code)

    def _alarm(self, alarm: Alarm | None) -> None:
        """Tell of an alarm before the night counts as done: told twice, if the job dies in between, but told."""
        if alarm is not None:
            call_webhook(alarm, self.config)
            others = [one for one in self.alarms() if one.night != alarm.night]
            write_file([*others, alarm], self.config)

    def alarms(self) -> list[Alarm]:
        """All that is open, and all that failed, by night."""
        failed = [Alarm(one.night, f"failed: {one.error}", one.exit_code) for one in self.results if one.record is None]
        return sorted([*map(alarm_of, _open(self.records, self.config)), *failed], key=lambda alarm: alarm.night)
