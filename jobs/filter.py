"""From scores to a dataset: keep the rows that your rules keep, and say of every other row why it went.

    python jobs/filter.py --input.manifest scored/ --output.path filtered/ --filter.min_itm 0.5 --filter.unique
    python jobs/filter.py --input.manifest s3://bucket/scored/ --output.path s3://bucket/kept/ --config configs/filter.yaml
    python jobs/filter.py --input.manifest scored/ --filter.top_fraction 0.3 --filter.by itc_similarity --dry-run

Writes the rows that stay, the others with `drop_reason`, DataComp's file of uids and a list for img2dataset: whichever
`filter.write` names. `--dry-run` counts only. Needs neither Ray nor a model. docs/filtering.md has every rule. Exit codes:
0 done (also if it was done before); 2 a mistake in settings or data, one line on stderr; 130 and 143 interrupted: run the same
command again; 1 a bug.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from console import interrupts_raise, report_errors
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.commandline import new_parser, parse
from pipeline.filters.run import FilterSummary, filter_dataset

TABLE_WIDTH = 120  # also where there is no terminal: a table that wraps cannot be read or searched


def main(argv: list[str]) -> int:
    """Run the program; returns its exit code."""
    parser = new_parser("filter.py", "Keep the rows of a scored dataset that rules keep; of every other row, say why it went.")
    parser.add_argument("--dry-run", action="store_true", help="count what each rule drops; write nothing")
    with report_errors("filter"), interrupts_raise():
        config, options = parse(parser, argv)
        with Console(stderr=True, quiet=options.json).status("finding files") as status:
            summary = filter_dataset(
                config,
                dry_run=options.dry_run,
                progress=lambda what, done, rows: status.update(f"{what}: {done:,} of {rows:,} rows"),
            )
        if options.json:
            print(json.dumps(summary.as_json()))
        else:
            show(summary)
    return 0


def show(summary: FilterSummary) -> None:
    """Print what each rule dropped, and what was written."""
    out = Console(width=TABLE_WIDTH, highlight=False)
    table = Table("rule", "dropped", "share", "found", box=None, pad_edge=False, header_style="bold")
    table.columns[1].justify = table.columns[2].justify = "right"
    for entry in summary.dropped:
        table.add_row(escape(entry.reason), f"{entry.rows:,}", _share(entry.rows, summary.rows), escape(_facts(entry.found)))
    table.add_section()
    table.add_row("kept", f"{summary.kept:,}", _share(summary.kept, summary.rows))
    table.add_row("rows", f"{summary.rows:,}", "")
    out.print(table)
    out.print()
    if summary.output is None:
        out.print("a dry run: nothing was written")
        return
    out.print(f"{summary.rows:,} rows in {summary.elapsed_s:,.1f} s; below {escape(summary.output)}", soft_wrap=True)
    if summary.uids is not None:
        out.print(f"{summary.uids:,} uids for DataComp's resharder in _uids.npy")
    if summary.listed is not None:
        out.print(f"{summary.listed:,} rows for img2dataset in _img2dataset/ (--url_col url --caption_col caption)")


def _share(rows: int, total: int) -> str:
    return f"{rows / max(1, total):.1%}"


def _facts(found: dict[str, Any]) -> str:
    def plain(value: Any) -> str:
        return f"{value:,}" if isinstance(value, int) else "none" if value is None else f"{value:.6g}"

    return ", ".join(f"{name} {plain(value)}" for name, value in found.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
