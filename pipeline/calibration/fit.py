"""All that labels say of a score: precision, recall and kept share by threshold, the threshold for a precision, a calibration.

What `jobs/calibrate.py fit` calls. Knows nothing of how anything is printed.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from pipeline.calibration.calibrators import Calibration, Method, fit_calibration
from pipeline.calibration.labels import Labelled, Labels, join, read_labels
from pipeline.calibration.rows import ScoreColumn
from pipeline.calibration.threshold import PrecisionThreshold, as_held, shortest, threshold_for_precision
from pipeline.config import Config
from pipeline.errors import ConfigError, ManifestError
from pipeline.evaluate import HeadMetrics, evaluate_head
from pipeline.filters.source import Dataset, find_dataset
from pipeline.provenance import file_facts

CURVE = 20  # thresholds of a curve that names none: each keeps a twentieth of the rows less
PACKAGES = ("capsieve", "numpy", "pyarrow")


class FitSettings(BaseModel):
    """What is asked of the labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    labels: str  # file of labels
    key: str | None = None  # its columns; None: recognised
    label: str | None = None
    column: ScoreColumn = "itm_score"
    precision: float | None = Field(default=None, gt=0, lt=1)  # wanted
    thresholds: tuple[FiniteFloat, ...] = ()  # of the curve; none: chosen
    method: Method = "isotonic"
    resamples: int = Field(default=1_000, ge=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Fit:
    """What the labels say."""

    column: str
    labelled: Labelled
    metrics: HeadMetrics  # at the thresholds of the curve, falling
    choice: PrecisionThreshold | None  # None: no precision was asked for
    calibration: Calibration


def fit(config: Config, settings: FitSettings) -> Fit:
    """Join labels to the scores of `input.manifest`, and fit. Raises UserError for whatever is wrong with either."""
    if not config.input.manifest:
        raise ConfigError("nothing to fit to: name the folder that score.py wrote with --input.manifest")
    labels = read_labels(settings.labels, config.storage, key=settings.key, label=settings.label)
    dataset = find_dataset(config)
    found = join(labels, dataset, settings.column, config)
    good = int(found.good.sum())
    if good in (0, len(found.good)):
        raise ManifestError(
            f"{settings.labels}: of {len(labels.labels):,} labels {len(found.good):,} have a row with a score, {good:,} of "
            f"them good: good and bad ones are both needed ({found.accounts.missing:,} keys are in no row, "
            f"{found.accounts.ambiguous:,} in several, {found.accounts.unscored:,} rows have no score)"
        )
    choice = _choose(found, settings)
    metrics = evaluate_head(
        found.good,
        found.scores,
        _cuts(found, settings, choice),
        weights=found.weights,
        strata=found.strata,
        resamples=settings.resamples,
        confidence=settings.confidence,
        seed=settings.seed,
    )
    calibration = fit_calibration(settings.method, settings.column, found.good, found.scores, found.weights)
    calibration = replace(calibration, provenance=_provenance(dataset, labels, found, choice))
    return Fit(settings.column, found, metrics, choice, calibration)


def _choose(found: Labelled, settings: FitSettings) -> PrecisionThreshold | None:
    if settings.precision is None:
        return None
    choice = threshold_for_precision(
        found.good,
        found.scores,
        settings.precision,
        weights=found.weights,
        strata=found.strata,
        confidence=settings.confidence,
    )
    value, low, high = (None if end is None else shortest(end) for end in (choice.value, choice.low, choice.high))
    return choice._replace(value=value, low=low, high=high)


def _cuts(found: Labelled, settings: FitSettings, choice: PrecisionThreshold | None) -> list[float]:
    """Thresholds of the curve, falling, as the scores are held: those asked for, or one every twentieth row; and the chosen."""
    cuts = set(settings.thresholds)
    if not cuts:
        order = np.argsort(found.scores)
        below = np.cumsum(found.weights[order])
        places = np.searchsorted(below, np.arange(CURVE) / CURVE * below[-1])
        cuts = {float(score) for score in found.scores[order][places]}
    if choice is not None:
        cuts |= {cut for cut in (choice.value, choice.high) if cut is not None}
    return sorted({as_held(cut, found.scores) for cut in cuts}, reverse=True)


def _provenance(dataset: Dataset, labels: Labels, found: Labelled, choice: PrecisionThreshold | None) -> dict[str, Any]:
    made_by = [facts.identity for schema in dataset.schemas.values() if (facts := file_facts(schema.metadata)) is not None]
    models = {identity["model_sha256"]: identity["model"] for identity in made_by}
    if len(models) > 1:
        raise ManifestError(
            f"the data was scored by {len(models)} models ({', '.join(models.values())}): a calibration is of one"
        )
    sha256, model = next(iter(models.items()), (None, None))
    return {
        "model": model,
        "model_sha256": sha256,
        "labels_sha256": labels.sha256,
        "labels": found.accounts._asdict(),
        "good": int(found.good.sum()),
        "rows": found.rows,
        "scored": found.scored,
        "threshold": choice and choice._asdict(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
