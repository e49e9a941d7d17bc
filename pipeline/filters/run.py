"""Both passes: rules and files checked, every row decided, the output written. What `jobs/filter.py` calls.

The same input and settings give the same rows every time, so that an interrupted filter is simply run again: it writes the
same files under the same names. Knows nothing of how anything is printed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.config import Config
from pipeline.errors import CapsieveError, ConfigError, OutputError
from pipeline.filters.select import FAILURES, Plan, Selection, in_order, plan_rules, select
from pipeline.filters.source import Dataset, find_dataset
from pipeline.filters.write import UIDS_FILE, Target, Written, claim, finish, write_run, write_uids
from pipeline.shards import Shard
from pipeline.storage import is_local, local_path

MAX_THREADS = 8

Progress = Callable[[str, int, int], None]  # what is being done, rows done, rows in all


class Dropped(NamedTuple):
    """What one reason dropped."""

    reason: str
    rows: int
    found: dict[str, Any]  # what the rule found out: the value of a quantile, the lowest score of the top


class Lists(NamedTuple):
    """Entries of the files for other tools; None: not written."""

    uids: int | None
    listed: int | None


@dataclass(frozen=True)
class FilterSummary:
    """What a filter did."""

    rows: int
    kept: int
    dropped: tuple[Dropped, ...]  # failures that occur, then every rule in its order
    uids: int | None  # in DataComp's file; None: not written
    listed: int | None  # rows in img2dataset's list; None: not written
    output: str | None  # None: a dry run
    elapsed_s: float

    def as_json(self) -> dict[str, Any]:
        """For `_SUCCESS` and for machines."""
        return {**asdict(self), "dropped": [entry._asdict() for entry in self.dropped]}


def filter_dataset(config: Config, *, dry_run: bool = False, progress: Progress | None = None) -> FilterSummary:
    """Filter `input.manifest` into `output.path`. Raises UserError for whatever is wrong with settings, files or columns.

    An output that is finished already, made of the same input by the same settings, is not made again.
    """
    began = time.monotonic()
    _check_settings(config, dry_run)
    dataset = find_dataset(config)
    plan = plan_rules(dataset, config.filter.all_rules())
    _check_columns(config, dataset, dry_run)
    threads = config.filter.threads or min(MAX_THREADS, _cores())
    identity = _identity(config, dataset)
    if not dry_run:
        earlier = _claim(config, dataset, plan, identity)
        if earlier:
            fields = {name: earlier[name] for name in FilterSummary.__dataclass_fields__}
            return FilterSummary(**{**fields, "dropped": tuple(Dropped(**entry) for entry in fields["dropped"])})
    advance = _counter(progress, "rules", dataset.rows)
    selection = select(dataset, plan, config.storage, threads, advance)
    dropped = _dropped(plan, selection)
    if dry_run:
        return _summary(selection, dropped, Lists(None, None), None, began)
    provenance = {
        **identity,
        "kept": selection.counts[0],
        "dropped": [entry._asdict() for entry in dropped],
        "rows": sum(selection.counts),
    }
    target = Target(config.output.path, config.storage, config.filter, plan.layout, plan.reasons, provenance)
    lists = _write(target, dataset, selection, threads, _counter(progress, "writing", sum(selection.counts)))
    summary = _summary(selection, dropped, lists, target.url, began)
    finish(target, {**summary.as_json(), "made_of": identity})
    return summary


# ------------------------------------------------------------------ checks


def _check_settings(config: Config, dry_run: bool) -> None:
    if not config.input.manifest:
        raise ConfigError("nothing to filter: name the folder that score.py wrote with --input.manifest")
    if not dry_run and not config.output.path:
        raise ConfigError("no output: name a folder with --output.path, or count only with --dry-run")
    if not config.filter.write:
        raise ConfigError("nothing to write: filter.write is empty; count only with --dry-run")


def _check_columns(config: Config, dataset: Dataset, dry_run: bool) -> None:
    """Whatever the output needs beside the rules."""
    layout, settings = dataset.layout, config.filter
    if layout.status is None and not settings.all_rules():
        raise ConfigError("no rules, and no column of statuses: set --filter.min_itm 0.5, or others of --help")
    if layout.lists and settings.captions != "explode" and layout.ranking not in layout.lists:
        raise ConfigError(
            f"column {layout.caption!r} holds lists, but there is no list of scores {layout.ranking!r} to tell the best by"
        )
    if dry_run:
        return
    if "uids" in settings.write and layout.key is None:
        raise ConfigError(f"no column of uids: set --input.columns.key NAME; the columns are {', '.join(layout.names)}")
    if "img2dataset" in settings.write and (layout.url is None or layout.caption is None):
        missing = "url" if layout.url is None else "caption"
        raise ConfigError(f"no {missing} column for img2dataset's list: set --input.columns.{missing} NAME")


def _claim(config: Config, dataset: Dataset, plan: Plan, identity: dict[str, Any]) -> dict[str, Any]:
    output = config.output.path
    place = _place(output)
    inside = [run.file.url for run in dataset.runs if _place(run.file.url).startswith(place + "/")]
    around = [entry for entry in config.input.manifest if place == _place(entry) or place.startswith(_place(entry) + "/")]
    if inside or around:
        raise OutputError(f"{output} and the input {(inside or around)[0]} lie one in the other: name another --output.path")
    target = Target(output, config.storage, config.filter, plan.layout, plan.reasons, {})
    names = [name for number, run in enumerate(dataset.runs) for name in target.names(number, run).values()]
    names += [UIDS_FILE] if "uids" in config.filter.write else []
    return claim(output, identity, names, config.storage, overwrite=config.output.overwrite)


def _place(url: str) -> str:
    return os.path.realpath(local_path(url)) if is_local(url) else url.rstrip("/")


def _identity(config: Config, dataset: Dataset) -> dict[str, Any]:
    """What an output is made of: the source, the rules, and the form of the output."""
    settings = config.filter
    return {
        "source": dataset.identity,
        "rules": [rule.model_dump(exclude_none=True) for rule in settings.all_rules()],
        "captions": settings.captions,
        "columns": {"kept": settings.columns, "prefix": config.output.column_prefix, **config.input.columns.model_dump()},
        "form": {
            "write": sorted(settings.write),
            "img2dataset_format": settings.img2dataset_format,
            "rows_per_output_file": config.output.rows_per_output_file,
        },
    }


# ------------------------------------------------------------------ both passes


def _cores() -> int:
    """Cores that this process may use, which in a container are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _counter(progress: Progress | None, what: str, rows: int) -> Callable[[int], None]:
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(what, done, max(done, rows))

    return advance


def _dropped(plan: Plan, selection: Selection) -> tuple[Dropped, ...]:
    failures = 1 + len(FAILURES)
    found: list[dict[str, Any]] = [{}] * failures + list(selection.found)
    entries = zip(plan.reasons, selection.counts, found, strict=True)
    return tuple(
        Dropped(reason, rows, facts)
        for number, (reason, rows, facts) in enumerate(entries)
        if number and (rows or number >= failures)
    )


def _write(target: Target, dataset: Dataset, selection: Selection, threads: int, advance: Callable[[int], None]) -> Lists:
    numbers = {run.name: number for number, run in enumerate(dataset.runs)}

    def write(run: Shard) -> Written:
        return write_run(target, numbers[run.name], run, selection.runs[numbers[run.name]])

    kept = rejected = listed = 0
    uids: list[npt.NDArray[np.uint64]] = []
    with closing(in_order(write, dataset.runs, threads)) as results:
        for written in results:
            kept, rejected, listed = kept + written.kept, rejected + written.rejected, listed + written.listed
            uids.append(written.uids)
            advance(written.kept + written.rejected)
    if (kept, rejected) != (selection.counts[0], sum(selection.counts[1:])):
        raise CapsieveError(f"wrote {kept} and {rejected} rows, but chose {selection.counts[0]} of {sum(selection.counts)}")
    in_file = write_uids(target, uids) if "uids" in target.settings.write else None
    return Lists(in_file, listed if "img2dataset" in target.settings.write else None)


def _summary(
    selection: Selection, dropped: tuple[Dropped, ...], lists: Lists, output: str | None, began: float
) -> FilterSummary:
    return FilterSummary(
        rows=sum(selection.counts),
        kept=selection.counts[0],
        dropped=dropped,
        uids=lists.uids,
        listed=lists.listed,
        output=output,
        elapsed_s=time.monotonic() - began,
    )
