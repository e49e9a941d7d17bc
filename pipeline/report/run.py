"""From a scored dataset to its page: one pass over the rows, a second look at the pairs that are shown, one file written.

The same output and settings give the same page, byte by byte, as long as the images under its URLs stay what they are.
Knows nothing of how anything is printed.
"""

from __future__ import annotations

import bisect
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from pipeline.columns import Columns, recognise
from pipeline.config import ColumnsConfig, Config
from pipeline.errors import ConfigError
from pipeline.filters.select import in_order
from pipeline.filters.source import Dataset, find_dataset
from pipeline.provenance import FileFacts
from pipeline.report import gallery, grid
from pipeline.report.count import Account, check_columns, count_run
from pipeline.report.explanations import explanations
from pipeline.report.facts import base_of, facts_of_files, origins, recorded_settings, runs
from pipeline.report.gallery import Place
from pipeline.report.page import render
from pipeline.report.pairs import MOST_CAPTION, Pair, cut, read_pairs, shown_url
from pipeline.schema import Status
from pipeline.shards import Shard
from pipeline.storage import write_bytes
from pipeline.tallies import Tallies, worst_hosts
from pipeline.thumbnails import Thumbnail, Wanted, thumbnails

MAX_THREADS = 8
SUFFIXES = (".html", ".htm")

Progress = Callable[[str, int, int], None]  # what is being done, rows or images done, and in all


@dataclass(frozen=True)
class ReportSummary:
    """What was reported."""

    rows: int
    pairs: int  # captions, where rows have lists of them
    scored: int  # pairs that have scores
    at_threshold: int  # of these, pairs whose itm_score is at least `report.threshold`
    thumbnails: int
    without_thumbnail: dict[str, int]  # reason -> pairs shown without their image
    bytes: int  # of the page
    output: str
    elapsed_s: float

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


class _Shown(NamedTuple):
    """The pairs of the galleries, and their images."""

    galleries: dict[str, list[Place]]
    pairs: dict[Place, Pair]
    images: dict[Place, Thumbnail]
    heat_maps: dict[Place, Thumbnail]


def write_report(config: Config, progress: Progress | None = None) -> ReportSummary:
    """Report `input.manifest` in the file `output.path`. Raises UserError for what is wrong with settings, files or columns."""
    began = time.monotonic()
    if not config.input.manifest:
        raise ConfigError("nothing to report: name the folder that score.py wrote with --input.manifest")
    if not config.output.path.lower().endswith(SUFFIXES):
        raise ConfigError("no file to write: name one that ends in .html with --output.path")
    tell = progress or (lambda what, done, total: None)
    config, dataset = _find(config)
    check_columns(dataset.layout, config.input.manifest)
    columns = _columns(dataset, config)
    account = _count(dataset, columns.url, config, tell)
    facts = facts_of_files(dataset)
    shown = _show(account, dataset, columns, facts, config, tell)
    page = render(_contents(account, dataset, facts, shown, config))
    write_bytes(config.output.path, page, config.storage)
    failed = Counter(image.error for image in shown.images.values() if image.error is not None)
    return ReportSummary(
        rows=account.rows,
        pairs=account.pairs,
        scored=int(account.scores.sum()),
        at_threshold=int(account.scores[_tick(account, config) :].sum()),
        thumbnails=len(shown.images) - failed.total(),
        without_thumbnail=dict(sorted(failed.items())),
        bytes=len(page),
        output=config.output.path,
        elapsed_s=time.monotonic() - began,
    )


def _find(config: Config) -> tuple[Config, Dataset]:
    """The dataset, under the names of columns that the scoring run used, unless the settings say others."""
    config = config.model_copy(update={"filter": config.filter.model_copy(update={"captions": "keep"})})
    dataset = find_dataset(config)
    recorded = recorded_settings(dataset)
    chosen = {name: value for name, value in config.input.columns.model_dump().items() if value is not None}
    present = {role: name for role, name in recorded["columns"].items() if name in dataset.layout.names}
    columns = ColumnsConfig.model_validate({**{k: v for k, v in present.items() if k in ColumnsConfig.model_fields}, **chosen})
    prefix = config.output.column_prefix or recorded["column_prefix"]
    if columns == config.input.columns and prefix == config.output.column_prefix:
        return config, dataset
    input = config.input.model_copy(update={"columns": columns})
    config = config.model_copy(update={"input": input, "output": config.output.model_copy(update={"column_prefix": prefix})})
    return config, find_dataset(config)


def _columns(dataset: Dataset, config: Config) -> Columns:
    """The columns by role, of the first file that has rows."""
    filled = next((run.file.url for run in dataset.runs if run.rows), dataset.runs[0].file.url)
    return recognise(dataset.schemas[filled], config.input.columns, filled)


def _count(dataset: Dataset, url: str | None, config: Config, tell: Progress) -> Account:
    numbers = {run.name: number for number, run in enumerate(dataset.runs)}
    threads = config.report.threads or min(MAX_THREADS, _cores())
    account = Account.empty(config.report)

    def count(run: Shard) -> Account:
        return count_run(numbers[run.name], dataset, url, config.report, config.storage)

    with closing(in_order(count, dataset.runs, threads)) as counted:
        for own in counted:
            account.merge(own)
            tell("counting", account.rows, dataset.rows)
    return account


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tick(account: Account, config: Config) -> int:
    """Where the slider starts: index of the edge that the threshold is."""
    return bisect.bisect_left(account.ticks, round(config.report.threshold * grid.ITM_PARTS, 6))


# ------------------------------------------------------------------ galleries


def _show(
    account: Account, dataset: Dataset, columns: Columns, facts: dict[str, FileFacts], config: Config, tell: Progress
) -> _Shown:
    galleries = account.gallery.picks()
    places = gallery.distinct(galleries.values())
    pairs = read_pairs(places, dataset, columns, config.storage)
    images: dict[Place, Thumbnail] = {}
    if config.report.thumbnails:
        tell("fetching images", 0, len(places))
        wanted = [_wanted(pair, facts, config) for pair in pairs.values()]
        images = dict(zip(pairs, thumbnails(wanted, config), strict=True)) if wanted else {}
    maps = explanations(list(pairs.values()), config)
    heat_maps = {place: maps[number] for number, place in enumerate(pairs) if number in maps}
    return _Shown(galleries, pairs, images, heat_maps)


def _wanted(pair: Pair, facts: dict[str, FileFacts], config: Config) -> Wanted:
    base = base_of(facts.get(pair.file), pair.file, config.fetch.file_roots)
    return Wanted(pair.data, pair.url, base, pair.image)


# ------------------------------------------------------------------ contents of the page


def _contents(account: Account, dataset: Dataset, facts: dict[str, FileFacts], shown: _Shown, config: Config) -> dict[str, Any]:
    """All that page.js draws: numbers, texts, images."""
    hosts = worst_hosts(Tallies(failures=account.failures))
    numbers = {place: number for number, place in enumerate(shown.pairs)}  # a pair may be in several galleries
    return {
        "title": config.report.title or _name(config.input.manifest),
        "sources": config.input.manifest,
        "rows": account.rows,
        "pairs": account.pairs,
        "files": len(dataset.schemas),
        "lists": dataset.layout.ranking in dataset.layout.lists,
        "success": Status.SUCCESS,
        "threshold": _tick(account, config),
        "itm": {"ticks": account.ticks, "parts": grid.ITM_PARTS},
        "itc": {"ticks": grid.ITC_TICKS, "parts": grid.ITC_PARTS},
        "grid": grid.sparse(account.scores),
        "statuses": [[*key, count] for key, count in sorted(account.statuses.items(), key=_largest)],
        "hosts": {"worst": [host._asdict() for host in hosts], "missed": account.failures.missed},
        "tokens": account.tokens.tolist(),
        "truncated": account.truncated,
        "shown": [_pair(shown, place) for place in shown.pairs],
        "galleries": {name: [numbers[place] for place in places] for name, places in shown.galleries.items()},
        "thumbnails": config.report.thumbnails,
        "runs": runs(dataset, config.storage),
        "origins": [origin._asdict() for origin in origins(dataset, facts)],
    }


def _largest(item: tuple[tuple[str, str | None], int]) -> tuple[bool, int, str]:
    """Successes first, then what is most frequent."""
    (status, reason), count = item
    return status != Status.SUCCESS, -count, f"{status}/{reason}"


def _name(entries: Sequence[str]) -> str:
    """The last part of the first input's path; how many others there are."""
    more = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
    return (entries[0].rstrip("/").rpartition("/")[2] or entries[0]) + more


def _pair(shown: _Shown, place: Place) -> dict[str, Any]:
    pair = shown.pairs[place]
    image, heat_map = shown.images.get(place), shown.heat_maps.get(place)
    return {
        "caption": None if pair.caption is None else cut(pair.caption, MOST_CAPTION),
        "key": pair.key,
        "url": None if pair.url is None else shown_url(pair.url),
        "file": shown_url(pair.file),
        "row": pair.row,
        "entry": place.entry,
        **pair.scores,
        "image": image.as_json() if image is not None else None,
        "heat_map": heat_map.as_json() if heat_map is not None and heat_map.data else None,
    }
