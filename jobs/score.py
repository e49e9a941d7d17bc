"""Score a manifest: Parquet of image URLs and captions in, the same rows with scores out.

    python jobs/score.py --input.manifest s3://bucket/manifests/ --output.path s3://bucket/scored/
    python jobs/score.py --config configs/score.yaml --model.checkpoint Salesforce/blip-itm-base-coco

Restarting is running the same command: it goes on from what is staged. Exit codes: 0 done; 2 a mistake in settings or data,
one line on stderr; 3 done, but more rows failed than output.max_failed_share; 130 and 143 interrupted, resumable; 1 a bug.
"""

from __future__ import annotations

import json
import sys

from console import Console, interrupts_raise, report_errors

from pipeline.commandline import new_parser, parse
from pipeline.run import score


def main(argv: list[str]) -> int:
    """Run the program; returns its exit code."""
    parser = new_parser("score.py", "Score every (image, caption) pair of a Parquet manifest with BLIP image-text matching.")
    with report_errors("score"):
        config, options = parse(parser, argv)
        console = Console(quiet=options.json)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
