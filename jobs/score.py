"""Score a manifest: Parquet of image URLs and captions in, the same rows with scores out.

    python jobs/score.py --input.manifest s3://bucket/manifests/ --output.path s3://bucket/scored/
    python jobs/score.py --config configs/score.yaml --model.checkpoint Salesforce/blip-itm-base-coco
    python jobs/score.py --config configs/score.yaml --dry-run

Restarting is running the same command: it goes on from what is staged. --dry-run lists the shards and how far they are, and
ends with 0: nothing is written, and no Ray started. Exit codes: 0 done; 2 a mistake in settings or data,
one line on stderr; 3 done, but more rows failed than output.max_failed_share; 130 and 143 interrupted, resumable; 1 a bug.
"""

from __future__ import annotations

import json
import sys

from console import Console, interrupts_raise, report_errors
from rich.console import Console as Terminal
from rich.table import Table
from rich.text import Text

from pipeline.commandline import new_parser, parse
from pipeline.preview import Preview, preview
from pipeline.run import score


def main(argv: list[str]) -> int:
    """Run the program; returns its exit code."""
    parser = new_parser("score.py", "Score every (image, caption) pair of a Parquet manifest with BLIP image-text matching.")
    parser.add_argument("--dry-run", action="store_true", help="list the shards and how far they are; write and start nothing")
    with report_errors("score"):
        config, options = parse(parser, argv)
        console = Console(quiet=options.json)
        if options.dry_run:
            with interrupts_raise(), console:
                found = preview(config, console)
            show(found, as_json=options.json)
            return 0
        with interrupts_raise(), console:
            summary = score(config, console)
        if options.json:
            print(json.dumps(summary.as_json()))
        else:
            console.summarise(summary)
        if summary.failed_share > config.output.max_failed_share:
            print(
                f"score: {summary.failed_share:.1%} of the rows failed, more than output.max_failed_share "
                f"{config.output.max_failed_share:.1%}; the output is complete",
                file=sys.stderr,
            )
            return 3
    return 0


def show(found: Preview, *, as_json: bool) -> None:
    """Print the shards of a dry run."""
    if as_json:
        print(json.dumps(found.as_json()))
        return
    table = Table("shard", "input file", "from row", "rows", "done", "staged", "missing", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for one in found.shards:
        numbers = (one.shard.first_row, one.shard.rows, one.rows_done, one.rows_staged, one.rows_missing)
        table.add_row(Text(one.shard.name), Text(one.shard.file.url), *(f"{number:,}" for number in numbers))
    total = found.total()
    table.add_section()
    table.add_row(f"{len(found.shards):,} shards", "", "", *(f"{rows:,}" for rows in total.values()))
    width = max(80, Terminal(width=10_000).measure(table).maximum)  # a path that wraps cannot be copied
    out = Terminal(width=width, highlight=False)
    out.print(table)
    columns = ", ".join(f"{role} = {name}" for role, name in found.columns.items())
    out.print(
        Text(f"\nmodel {found.model.name}, {found.model.image_size} px; columns {columns}; output {found.output}"),
        soft_wrap=True,
    )
    out.print("a dry run: nothing was written; jobs/plan.py says how long it will take")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
