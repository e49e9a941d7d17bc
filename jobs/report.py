"""A report of a scored dataset: one HTML file, to look at, to choose a threshold by, and to show to others.

    python jobs/report.py --input.manifest scored/ --output.path report.html
    python jobs/report.py --input.manifest s3://bucket/scored/ --output.path report.html --report.thumbnails false

Reads the output of score.py once, in constant memory, and fetches the images of some hundred pairs. The file needs no network.
docs/report.md says what it shows. Needs neither Ray nor a model. Exit codes: 0 done; 2 a mistake in settings or data, one line
on stderr; 130 and 143 interrupted; 1 a bug.
"""

from __future__ import annotations

import json
import sys

from console import interrupts_raise, report_errors
from rich.console import Console
from rich.markup import escape

from pipeline.commandline import new_parser, parse
from pipeline.report.run import ReportSummary, write_report


def main(argv: list[str]) -> int:
    """Run the program; returns its exit code."""
    parser = new_parser("report.py", "Write one HTML page about a scored dataset: distributions, thresholds, pairs, failures.")
    with report_errors("report"), interrupts_raise():
        config, options = parse(parser, argv)
        with Console(stderr=True, quiet=options.json).status("finding files") as status:
            summary = write_report(config, lambda what, done, total: status.update(f"{what}: {done:,} of {total:,}"))
        if options.json:
            print(json.dumps(summary.as_json()))
        else:
            show(summary, config.report.threshold)
    return 0


def show(summary: ReportSummary, threshold: float) -> None:
    """Print what was reported, and where it is."""
    out = Console(highlight=False, soft_wrap=True)
    share = summary.at_threshold / max(1, summary.scored)
    out.print(
        f"{summary.rows:,} rows, {summary.scored:,} of {summary.pairs:,} pairs scored; "
        f"{share:.1%} of these have an itm_score of at least {threshold:g}"
    )
    if summary.without_thumbnail:
        reasons = ", ".join(f"{escape(reason)} ({count:,})" for reason, count in summary.without_thumbnail.items())
        out.print(f"shown without their image: {reasons}")
        if "refused path" in summary.without_thumbnail:
            out.print("images on local disks are read from the folders that --fetch.file_roots names")
    out.print(f"{escape(summary.output)} ({summary.bytes / 1e6:,.1f} MB, {summary.elapsed_s:,.1f} s)")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
