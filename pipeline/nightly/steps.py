"""What is done with one night: its rows scored, filtered, reported, and looked at.

Each step may be run again after it died anywhere, and does little where it is done. Knows nothing of other nights.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from pipeline.config import Config
from pipeline.dataflow import MakeScorer
from pipeline.errors import CapsieveError, OutputError
from pipeline.filters.run import FilterSummary, filter_dataset
from pipeline.filters.source import find_dataset, read_batches
from pipeline.nightly.judge import SCORES_DEPEND_ON
from pipeline.nightly.nights import Partition, Places, outcome_of
from pipeline.nightly_settings import NightlyConfig
from pipeline.output import PROVENANCE
from pipeline.profiles import RANGES, Histograms, Profile, profile_of
from pipeline.provenance import Counts, file_facts
from pipeline.report.run import write_report
from pipeline.run import Listener, score
from pipeline.tallies import Tallies


class Done(NamedTuple):
    """What came of a night's rows."""

    scored: str  # as `nights.outcome_of`
    made_of: dict[str, Any]  # by the names of SCORES_DEPEND_ON
    profile: Profile
    kept: int


def do_night(partition: Partition, places: Places, config: Config, listener: Listener, make_scorer: MakeScorer | None) -> Done:
    """Score, filter, report and look at one night. Raises UserError where a step cannot be done."""
    night = partition.night
    score(_between(config, partition.folders, places.scored(night)), listener, make_scorer)
    scored = outcome_of(places.scored(night), config)
    if scored is None:
        raise CapsieveError(f"{places.scored(night)} was scored, and then lost its _SUCCESS: something else writes there")
    listener.starting(f"filtering {night}")
    kept = _filter(_between(config, (places.scored(night),), places.filtered(night))).kept
    listener.starting(f"reporting {night}")
    write_report(_between(config, (places.scored(night),), places.report(night)))
    listener.starting(f"comparing {night}")
    return Done(scored, *_look_at(places.scored(night), config), kept)


def _between(config: Config, manifest: tuple[str, ...], output: str) -> Config:
    """The settings of a step. Those of the nightly job are no part of them, and of what outputs say that they were made by."""
    return config.model_copy(
        update={
            "input": config.input.model_copy(update={"manifest": list(manifest)}),
            "output": config.output.model_copy(update={"path": output}),
            "nightly": NightlyConfig(),
        }
    )


def _filter(config: Config) -> FilterSummary:
    """Filter the night, unless the same rules did that to the same scores."""
    try:
        return filter_dataset(config)
    except OutputError:  # other rules made it, or it was made of other scores; a folder of somebody else is refused again
        output = config.output.model_copy(update={"overwrite": True})
        return filter_dataset(config.model_copy(update={"output": output}))


def _look_at(scored: str, config: Config) -> tuple[dict[str, Any], Profile]:
    """What made a night's scores, and its profile: one pass over two columns, and what the files say of their rows."""
    config = _between(config, (scored,), "")
    config = config.model_copy(update={"filter": config.filter.model_copy(update={"captions": "keep"})})
    dataset = find_dataset(config)
    counts: Counts = Counter()
    tallies = Tallies()
    for url, schema in dataset.schemas.items():
        facts = file_facts(schema.metadata)
        if facts is None:
            raise OutputError(f"{url} is damaged, or not a file of capsieve's: delete it")
        counts += facts.counts
        tallies |= facts.tallies
    histograms = Histograms()
    columns = {name: dataset.layout.ours(name) for name in RANGES}
    for run in dataset.runs:
        for batch in read_batches(run, dataset.layout, config.storage, list(columns.values())):
            for name, column in columns.items():
                histograms.add(name, batch.column(column))
    made_of = dataset.identity["made_of"][scored]
    made_of.pop(PROVENANCE, None)
    return {name: made_of.get(name) for name in SCORES_DEPEND_ON}, profile_of(counts, tallies.failures, histograms.counts)
