"""Do heat maps point at the thing that the word names? The demo model's on rendered scenes, by layer, against chance.

python benchmarks/localisation.py [--scenes N] [--checkpoint FILE]
"""

from __future__ import annotations

import argparse
import sys

from harness import publish

from pipeline.explain.explainer import load_explainer
from pipeline.scenes.localisation import Pointing, localise
from pipeline.scenes.scene import TEST


def main(argv: list[str]) -> int:
    """Play the game and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1_000)
    parser.add_argument("--checkpoint", default="", help="default: the demo model")
    options = parser.parse_args(argv)
    depth = load_explainer(options.checkpoint).model.text_encoder.config.num_hidden_layers
    rows, raw = [], []
    for layer in range(depth - 1):  # the last one has no maps of words
        explainer = load_explainer(options.checkpoint, layer=layer)
        found = localise(explainer.explain, TEST, options.scenes, explainer.image_size)
        for name, pointing in (("nouns", found.nouns), ("captions", found.captions)):
            rows.append([str(layer), name, f"{pointing.maps:,}", _share(pointing), f"{pointing.chance:.1%}"])
            raw.append({"layer": layer, "of": name, **pointing._asdict()})
    publish("localisation", ["layer", "maps of", "maps", "hits", "by chance"], rows, {"scenes": options.scenes, "rows": raw})
    return 0


def _share(pointing: Pointing) -> str:
    low, high = pointing.interval
    return f"{pointing.hits:.1%} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
