"""Check an output against its manifest: every row once and in order, counts, checksums, schema, nothing left over.

    python jobs/verify.py s3://bucket/scored/
    python jobs/verify.py scored/ --input.manifest manifests/ --json

Reads all of it and writes nothing. Without --input.manifest, the manifest that the output says it was made of.
Exit codes: 0 all is well; 2 a mistake in settings, one line on stderr; 3 there are faults, a line each; 1 a bug.
"""

from __future__ import annotations

import json
import sys

from console import interrupts_raise, report_errors

from pipeline.commandline import new_parser, parse
from pipeline.config import absolute_path
from pipeline.errors import ConfigError
from pipeline.verify import Report, verify

MOST_FAULTS = 50  # printed; --json has all


def main(argv: list[str]) -> int:
    """Run the program; returns its exit code."""
    parser = new_parser("verify.py", "Check an output of score.py against its manifest, row by row.", "OUTPUT")
    parser.add_argument("folder", metavar="OUTPUT", nargs="?", help="folder of the output; --output.path works as well")
    with report_errors("verify"):
        config, options = parse(parser, argv)
        path = absolute_path(options.folder) if options.folder else config.output.path
        if not path:
            raise ConfigError("no output: name its folder")
        with interrupts_raise():
            report = verify(path, config)
        if options.json:
            print(json.dumps({"output": path, **report.as_json()}))
        else:
            show(path, report)
    return 3 if report.faults else 0


def show(path: str, report: Report) -> None:
    """Print what was checked and what is wrong."""
    print(f"{path}: {report.files:,} files, {report.rows:,} rows checked against the manifest")
    print("checked: every row there once and in order, input columns equal to the manifest's, types of the columns,")
    print("         scores null exactly where a row failed and within their range, checksums and counts of each file,")
    print("         one model and one set of settings, _SUCCESS, nothing left in staging")
    for (status, reason), rows in sorted(report.counts.items(), key=lambda item: (item[0][0] != "success", -item[1])):
        print(f"  {rows:>12,}  {status}{f': {reason}' if reason else ''}")
    for note in report.notes:
        print(f"note: {note}")
    for fault in report.faults[:MOST_FAULTS]:
        print(f"FAULT: {fault}")
    if len(report.faults) > MOST_FAULTS:
        print(f"... and {len(report.faults) - MOST_FAULTS:,} more faults")
    print("all is well" if not report.faults else f"{len(report.faults):,} faults")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
