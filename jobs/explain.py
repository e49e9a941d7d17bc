"""Why this score: heat maps of the image for the caption's words, of rows that you name or of a sample.

    python jobs/explain.py --input.manifest scored/ --output.path explained/
    python jobs/explain.py --input.manifest scored/ --output.path explained/ --explain.keys 17 --explain.keys 23

Give the model that scored, with the same --model.* as for score.py: another one is refused. Writes a PNG a caption (the image,
beside it the image under the map of the whole caption), one a word, and index.json. docs/explain.md says how maps are made and
what they cannot show. Needs no Ray. Exit codes: 0 done; 2 a mistake in settings or data, one line on stderr; 3 done, but more
rows failed than output.max_failed_share; 130 and 143 interrupted: run the same command again; 1 a bug.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from console import interrupts_raise, report_errors
from rich.console import Console

from pipeline.commandline import new_parser, parse
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.explain.run import ExplainSummary, explain
from pipeline.model.facts import storage_options

if TYPE_CHECKING:
    from pipeline.explain.explainer import Explainer


def main(argv: list[str]) -> int:
    """Run the program; returns its exit code."""
    parser = new_parser("explain.py", "Draw where the image-text matching head looks for the words of chosen rows' captions.")
    with report_errors("explain"), interrupts_raise():
        config, options = parse(parser, argv)
        with Console(stderr=True, quiet=options.json).status("choosing rows") as status:
            summary = explain(
                config,
                lambda: make_explainer(config),
                lambda done, rows: status.update(f"explaining: {done:,} of {rows:,} rows"),
            )
        if options.json:
            print(json.dumps(summary.as_json()))
        else:
            show(summary)
        if summary.rows - summary.explained > config.output.max_failed_share * summary.rows:
            print("explain: more rows failed than output.max_failed_share; the output is complete", file=sys.stderr)
            return 3
    return 0


def make_explainer(config: Config) -> Explainer:
    """Load the model. Raises ConfigError for a device or layer that it does not have."""
    from pipeline.explain.explainer import load_explainer  # torch: not before the settings are checked

    model = config.model
    try:
        return load_explainer(
            model.checkpoint,
            image_size=model.image_size,
            device=model.device,
            itm_first_token=model.itm_first_token,
            layer=config.explain.layer,
            storage_options=storage_options(model.checkpoint, config.storage),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def show(summary: ExplainSummary) -> None:
    """Print what was explained, why other rows were not, and where the pictures are."""
    print(f"{summary.explained:,} of {summary.rows:,} rows explained by {summary.model}, layer {summary.layer}")
    for reason, rows in sorted(summary.failed.items(), key=lambda item: -item[1]):
        print(f"{rows:,} failed: {reason}")
    if summary.hint:
        print(summary.hint)
    print(f"pictures and index.json: {summary.output}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
