"""How programs talk to people: the plan, one live line, a summary table, one line an error. Everything but results on stderr.

With a terminal the progress line is live; without one (a cluster's job log) it is a line a minute. Knows nothing of how
anything is computed.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType, TracebackType

from rich.console import Console as Terminal
from rich.status import Status as Spinner
from rich.table import Table
from rich.text import Text

from pipeline.bottleneck import sentence
from pipeline.errors import UserError
from pipeline.progress import Plan, Progress, Summary

LOG_INTERVAL_S = 60.0
INSIST_S = 1.0


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived; not an Exception, so that no handler of failures takes it for one."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@contextmanager
def report_errors(program: str) -> Iterator[None]:
    """Turn the user's mistakes and interruptions into one line and their exit codes; bugs keep their traceback."""
    try:
        yield
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Interrupted as interrupted:
        print(f"{program}: stopped by {interrupted}; what is staged is kept: run the same command to go on", file=sys.stderr)
        sys.exit(interrupted.exit_code)


@contextmanager
def interrupts_raise() -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted in the main thread, once. A second one, `INSIST_S` later, ends the process at once.

    Nothing is lost by that either. What comes sooner is the first one again: `timeout` and some shells send it twice.
    """
    first_s: float | None = None

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal first_s
        if first_s is None:
            first_s = time.monotonic()
            raise Interrupted(signum)
        if time.monotonic() - first_s >= INSIST_S:
            os._exit(128 + signum)

    before = {name: signal.signal(name, handle) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


class Console:
    """Shows a run. The `Listener` of `pipeline.run`; a context manager, because the live line owns the terminal's last line."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.terminal = Terminal(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self.results = Terminal(quiet=quiet, highlight=False, soft_wrap=True)
        self._spinner: Spinner | None = None
        self._logged_s = time.monotonic()

    def __enter__(self) -> Console:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
        if self.terminal.is_terminal:
            self._spinner = self.terminal.status("starting")
            self._spinner.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._spinner is not None:
            self._spinner.stop()

    def starting(self, what: str) -> None:
        """Something that takes seconds begins."""
        if self._spinner is not None:
            self._spinner.update(f"{what} …")

    def planned(self, plan: Plan) -> None:
        """Print what the run is about to do."""
        manifest, resources = plan.manifest, plan.resources
        done = f", {plan.rows_done:,} of them done by an earlier run" if plan.rows_done else ""
        files = len({shard.file.url for shard in manifest.shards})
        self.terminal.print(
            f"manifest  {manifest.rows:,} rows in {_count(files, 'file')}, {_count(len(manifest.shards), 'shard')}{done}"
        )
        self.terminal.print(f"columns   {_columns(plan)}")
        self.terminal.print(f"model     {plan.model}, {plan.image_size} px{plan.advice and f' - {plan.advice}'}")
        where = (
            f"{resources.replicas} GPUs" if resources.device == "cuda" else f"CPU, {_count(resources.threads, 'thread')} each"
        )
        self.terminal.print(
            f"compute   {_count(resources.replicas, 'replica')} ({where}), {_count(resources.cpus, 'CPU')} "
            f"on {_count(resources.nodes, 'node')}, {_count(resources.fetch_tasks, 'fetch task')}, "
            f"blocks of {resources.block_rows}, batches of {resources.batch_size}"
        )
        self.terminal.print(f"output    {plan.output}")
        self.starting("starting workers and loading the model")

    def progressed(self, progress: Progress) -> None:
        """Renew the live line, or log one a minute."""
        if self._spinner is not None:
            self._spinner.update(progress_line(progress))
        elif time.monotonic() - self._logged_s >= LOG_INTERVAL_S:
            self._logged_s = time.monotonic()
            self.terminal.print(progress_line(progress))

    def summarise(self, summary: Summary) -> None:
        """Print the table by status, what the run cost, and where the output is."""
        table = Table("status", "reason", "rows", "share", box=None, pad_edge=False, header_style="bold")
        table.columns[2].justify = table.columns[3].justify = "right"
        for (status, reason), rows in sorted(summary.counts.items(), key=lambda item: (item[0][0] != "success", -item[1])):
            table.add_row(status, reason or "", f"{rows:,}", f"{rows / max(1, summary.rows):.1%}")
        self.results.print()
        self.results.print(table)
        self.results.print()
        self._print_worst(summary)
        means = {name: 1000 * seconds / max(1, summary.rows_scored) for name, seconds in summary.stage_s.items()}
        spent = ", ".join(f"{name} {milliseconds:,.1f} ms" for name, milliseconds in means.items())
        if summary.rows_scored:
            self.results.print(
                f"{summary.rows_scored:,} rows scored in {_duration(summary.elapsed_s)} "
                f"({summary.rows_per_s:,.1f} rows/s once started); a row took: {spent}"
            )
            self.results.print(sentence(summary.shares))
        else:
            self.results.print("everything was done already")
        self.results.print(f"{summary.rows:,} rows in {_count(summary.shards, 'file')} below {summary.output}")

    def _print_worst(self, summary: Summary) -> None:
        """Where the failures are, and which bytes came again and again."""
        for title, header, rows in (
            (
                "hosts that most rows failed at",
                ("host", "failed rows", "mostly"),
                [(one.host, f"{one.rows:,}", f"{one.reason} ({one.reason_rows:,})") for one in summary.worst_hosts],
            ),
            (
                "the same bytes under many URLs, probably placeholders",
                ("image_sha256", "URLs", ""),
                [(one.sha256, f"{one.urls:,}", "") for one in summary.placeholders],
            ),
        ):
            if rows:
                table = Table(*header, box=None, pad_edge=False, header_style="bold")
                table.columns[1].justify = "right"
                for row in rows:
                    table.add_row(*map(Text, row))  # what hosts are called is no markup
                self.results.print(f"{title}:", table, "", sep="\n", markup=False)


def progress_line(progress: Progress) -> str:
    """One line: rows, rates, success, busy share of the replicas, time left."""
    total = progress.rows + progress.rows_left
    left = f"{_duration(progress.left_s)} left" if progress.left_s is not None and progress.rows_left else "finishing"
    return (
        f"{progress.rows:,} of {total:,} rows, {progress.rows_per_s:,.1f} rows/s, {progress.success_share:.0%} success, "
        f"replicas busy {progress.busy_share:.0%}, {left}"
    )


def _columns(plan: Plan) -> str:
    columns = asdict(plan.manifest.columns)
    return ", ".join(f"{role} = {name}" for role, name in columns.items() if name is not None)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
