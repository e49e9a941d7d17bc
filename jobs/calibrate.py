"""Choose a threshold from labels: draw rows worth labelling, label them on a page, and see what each threshold would keep.

    python jobs/calibrate.py sample --input.manifest scored/ --rows 400 --save sample.parquet --page label.html
    python jobs/calibrate.py fit --input.manifest scored/ --labels labels.csv --precision 0.9 --save calibration.json

`sample` draws rows at random within strata of the score; the page shows them, takes y and n, and exports labels. `fit` joins
labels to scores and prints precision, recall and kept share by threshold with their intervals, the threshold for a precision
with its interval, and saves a calibration. Both stream; neither needs Ray or a model. docs/calibration.md says how to read the
figures. Exit codes: 0 done; 2 a mistake in settings or data, one line on stderr; 130 and 143 interrupted; 1 a bug.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from console import interrupts_raise, report_errors
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline import storage
from pipeline.calibration.calibrators import save_calibration
from pipeline.calibration.fit import Fit, FitSettings, fit
from pipeline.calibration.labelling import labelling_page
from pipeline.calibration.rows import SCORES
from pipeline.calibration.sample import Sample, SampleSettings, draw_sample, save_sample
from pipeline.calibration.threshold import PrecisionThreshold, shortest
from pipeline.commandline import new_parser, parse
from pipeline.config import absolute_path
from pipeline.errors import ConfigError
from pipeline.evaluate import Interval

TABLE_WIDTH = 120  # also where there is no terminal: a table that wraps cannot be read or searched
FILTERS = {"itm_score": "--filter.min_itm", "itc_similarity": "--filter.min_itc"}
UNUSED = {
    "skipped": "without a label",
    "keyless": "without a key",
    "repeated": "said again what another row says",
    "conflicting": "of keys labelled good and bad",
    "missing": "of keys that no row has",
    "ambiguous": "of keys that several rows have",
    "unscored": "of rows without a score",
}

Settings = TypeVar("Settings", bound=BaseModel)


def main(argv: list[str]) -> int:
    """Run the program; returns its exit code."""
    programs = {"sample": _sample, "fit": _fit}
    with report_errors("calibrate"), interrupts_raise():
        if argv[:1] in (["-h"], ["--help"]):
            print(__doc__)
            return 0
        if not argv or argv[0] not in programs:
            raise ConfigError("say what to do first: calibrate.py sample ... or calibrate.py fit ...; each has --help")
        programs[argv[0]](argv[1:])
    return 0


def _settings(kind: type[Settings], options: argparse.Namespace) -> Settings:
    """The program's own flags as settings; flags that were not given keep the settings' defaults."""
    given = {name: getattr(options, name) for name in kind.model_fields if getattr(options, name, None) is not None}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        flag = {"thresholds": "--threshold", "key": "--label-key"}.get(str(problem["loc"][0]), f"--{problem['loc'][0]}")
        raise ConfigError(f"{flag}: {problem['msg']} (got {problem['input']!r})") from None


# ------------------------------------------------------------------ sample


def _sample(argv: Sequence[str]) -> None:
    parser = new_parser("calibrate.py sample", "Draw rows worth labelling, at random within strata of the score.")
    parser.add_argument("--save", metavar="FILE", help="the sample: .parquet, or .csv with a column to fill in")
    parser.add_argument("--page", metavar="FILE", help="a page to label them on: one HTML file")
    parser.add_argument("--column", choices=SCORES, help="score to stratify by (default: itm_score)")
    parser.add_argument("--rows", type=int, help="rows to draw (default: 400)")
    parser.add_argument("--bins", type=int, help="strata (default: 10)")
    parser.add_argument("--strata", choices=("quantiles", "widths"), help="of as many rows each, or of the same width")
    parser.add_argument("--seed", type=int, help="another draws other rows (default: 0)")
    parser.add_argument("--thumbnails", action="store_true", help="put images into the page, from the column of image bytes")
    config, options = parse(parser, argv)
    if not options.save and not options.page:
        raise ConfigError("nothing to write: name files with --save sample.parquet, --page label.html, or both")
    with Console(stderr=True, quiet=options.json).status("reading scores") as status:
        sample = draw_sample(
            config,
            _settings(SampleSettings, options),
            lambda done, rows: status.update(f"reading scores: {done:,} of {rows:,} rows"),
        )
    if options.save:
        save_sample(sample, absolute_path(options.save), config.storage)
    if options.page:
        page = labelling_page(sample.table, f"{sample.table.num_rows:,} captions to label")
        storage.write_bytes(absolute_path(options.page), page.encode(), config.storage)
    if options.json:
        strata = [entry._asdict() for entry in sample.strata]
        print(json.dumps({"rows": sample.rows, "scored": sample.scored, "drawn": sample.table.num_rows, "strata": strata}))
    else:
        _show_sample(sample, options)


def _show_sample(sample: Sample, options: argparse.Namespace) -> None:
    out = Console(width=TABLE_WIDTH, highlight=False)
    table = Table("stratum", "scores", "rows", "drawn", "each stands for", box=None, pad_edge=False, header_style="bold")
    for column in table.columns[2:]:
        column.justify = "right"
    for number, entry in enumerate(sample.strata):
        scores = f"{entry.low:.6g} to {entry.high:.6g}"
        table.add_row(str(number), scores, f"{entry.rows:,}", f"{entry.drawn:,}", f"{entry.rows / entry.drawn:,.1f}")
    out.print(table)
    out.print()
    unscored = sample.rows - sample.scored
    out.print(f"{sample.table.num_rows:,} of {sample.scored:,} rows with a score drawn; {unscored:,} rows have none")
    if "image" in sample.table.schema.names and (without := sample.table["image"].null_count):
        out.print(f"{without:,} of them without a thumbnail: no bytes, or none that can be decoded")
    for what, file in (("sample", options.save), ("page", options.page)):
        if file:
            out.print(f"{what}: {escape(file)}", soft_wrap=True)


# ------------------------------------------------------------------ fit


def _fit(argv: Sequence[str]) -> None:
    parser = new_parser("calibrate.py fit", "What labels say of a score: precision and recall by threshold, a calibration.")
    parser.add_argument("--labels", metavar="FILE", help="CSV or Parquet with a key, a label, and the sample's weights")
    parser.add_argument("--precision", type=float, help="find the threshold for this precision, e.g. 0.9")
    parser.add_argument("--save", metavar="FILE", help="save the calibration as JSON")
    parser.add_argument("--column", choices=SCORES, help="score (default: itm_score)")
    parser.add_argument("--method", choices=("isotonic", "platt"), help="calibration (default: isotonic)")
    parser.add_argument("--threshold", type=float, action="append", dest="thresholds", help="of the table; may be repeated")
    parser.add_argument("--label-key", metavar="NAME", dest="key", help="column of keys in the labels (default: key, uid, ...)")
    parser.add_argument("--label", metavar="NAME", help="column of labels (default: label, is_match, match, good or target)")
    parser.add_argument("--resamples", type=int, help="bootstrap samples (default: 1000)")
    parser.add_argument("--confidence", type=float, help="of intervals (default: 0.95)")
    config, options = parse(parser, argv)
    if not options.labels:
        raise ConfigError("no labels: name their file with --labels FILE; calibrate.py sample --page makes a page to label on")
    settings = _settings(FitSettings, argparse.Namespace(**{**vars(options), "labels": absolute_path(options.labels)}))
    with Console(stderr=True, quiet=options.json).status("joining labels"):
        found = fit(config, settings)
    if options.save:
        save_calibration(found.calibration, absolute_path(options.save), config.storage)
    if options.json:
        print(json.dumps(_as_json(found)))
    else:
        _show_fit(found, options.save)


def _show_fit(found: Fit, saved: str | None) -> None:
    out = Console(width=TABLE_WIDTH, highlight=False, soft_wrap=True)
    labelled, accounts = found.labelled, found.labelled.accounts
    out.print(f"{accounts.used:,} of {accounts.rows:,} labels used, {int(labelled.good.sum()):,} of them good")
    for name, why in UNUSED.items():
        if count := getattr(accounts, name):
            out.print(f"  {count:,} {why}: left out")
    out.print(f"{labelled.scored:,} of {labelled.rows:,} rows have a score")
    for note in labelled.notes:
        out.print(escape(f"note: {note}"))
    table = Table("keep if", "precision", "recall", "kept", box=None, pad_edge=False, header_style="bold")
    for row in found.metrics.thresholds:
        intervals = (row.precision, row.recall, row.kept)
        table.add_row(f"{found.column} >= {shortest(row.threshold)!r}", *(escape(str(interval)) for interval in intervals))
    out.print()
    out.print(table)
    if found.choice is not None:
        out.print()
        for line in _sentences(found.choice, found.column):
            out.print(escape(line))
    if saved:
        out.print(escape(f"{found.calibration.method} calibration: {saved}"))


def _sentences(choice: PrecisionThreshold, column: str) -> list[str]:
    """The chosen threshold in words."""
    wanted, sure = f"precision {choice.precision:g}", f"{choice.confidence:.0%}"
    if choice.value is None:
        return [f"no threshold has {wanted} in this sample"]
    low = "below all labelled scores" if choice.low is None else f"{choice.low!r}"
    high = "not known: label more rows" if choice.high is None else f"{choice.high!r}"
    lines = [f"{wanted}: {column} >= {choice.value!r}; {sure} interval from {low} to {high}"]
    if choice.high is not None:
        lines.append(f"to be safe take its upper end: that its precision is less than {choice.precision:g} is unlikely")
    return [*lines, f"jobs/filter.py {filter_flag(column, choice.value)}"]


def filter_flag(column: str, threshold: float) -> str:
    """The flag of jobs/filter.py that keeps the rows at or above the threshold."""
    if column in FILTERS:
        return f"{FILTERS[column]} {threshold!r}"
    return "--filter.rules '" + json.dumps({"column": column, "at_least": threshold}) + "'"


def _as_json(found: Fit) -> dict[str, Any]:
    def plain(interval: Interval) -> dict[str, float | None]:
        return {name: None if np.isnan(value) else round(value, 6) for name, value in interval._asdict().items()}

    curve = [
        {"threshold": shortest(row.threshold), **{name: plain(getattr(row, name)) for name in ("precision", "recall", "kept")}}
        for row in found.metrics.thresholds
    ]
    return {
        "column": found.column,
        "rows": found.labelled.rows,
        "scored": found.labelled.scored,
        "labels": found.labelled.accounts._asdict(),
        "good": int(found.labelled.good.sum()),
        "notes": found.labelled.notes,
        "auc": plain(found.metrics.auc),
        "curve": curve,
        "choice": found.choice and found.choice._asdict(),
        "calibration": {"method": found.calibration.method, **found.calibration.provenance},
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
