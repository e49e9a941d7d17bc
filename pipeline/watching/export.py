"""Measures to Ray: its agent on the driver's node serves them to Prometheus, with `ray_` before each name.

Recording costs microseconds; Ray sends what it has every ten seconds, and once more when the driver leaves. Whatever fails is
said once, and the run goes on without metrics. Imports Ray; knows nothing of what the measures mean.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

from ray.util import metrics

from pipeline.watching.measures import MEASURES, Kind, Reading

log = logging.getLogger(__name__)

# Prometheus misses the first increase of a counter that begins with it, and Ray's counters refuse to be raised by 0: this is
# added to begin with, and lost in the first real value.
NOTHING = sys.float_info.min


class Exporter:
    """The metrics of one run."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._metrics: dict[str, metrics.Counter | metrics.Gauge] = {}
        self._shown: dict[tuple[str, tuple[str, ...]], float] = {}  # of counters
        self._failed = False

    def show(self, readings: Iterable[Reading]) -> None:
        """Set the gauges, raise the counters to their values. Never raises."""
        if self._failed:
            return
        try:
            for reading in readings:
                self._show(reading)
        except Exception as error:  # noqa: BLE001 a run without metrics is a run
            self._failed = True
            log.warning("no metrics from here on: %s: %s", type(error).__name__, error)

    def _show(self, reading: Reading) -> None:
        measure = MEASURES[reading.name]
        tags = {"run": self._run, **dict(zip(measure.labels, reading.labels, strict=True))}
        metric = self._metrics.get(reading.name)
        if metric is None:
            make = metrics.Counter if measure.kind is Kind.COUNTER else metrics.Gauge
            metric = self._metrics[reading.name] = make(reading.name, measure.meaning, ("run", *measure.labels))
        if isinstance(metric, metrics.Gauge):
            metric.set(float(reading.value), tags)
            return
        key = reading.name, reading.labels
        if key not in self._shown:
            metric.inc(NOTHING, tags)
        more = reading.value - self._shown.get(key, 0.0)
        if more > 0:
            metric.inc(float(more), tags)
            self._shown[key] = reading.value
        else:
            self._shown.setdefault(key, 0.0)
