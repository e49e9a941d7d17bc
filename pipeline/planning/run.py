"""The plan of a run: settings checked, a sample measured, a pilot flown, time and dollars computed.

Writes nothing but to a temporary folder of this machine. Knows nothing of how anything is printed.
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from pipeline import cluster, sizing
from pipeline.config import MIB, Config
from pipeline.dataflow import MakeScorer
from pipeline.errors import ConfigError, ManifestError
from pipeline.manifest import Manifest
from pipeline.model.facts import ModelInfo
from pipeline.planning import pilot
from pipeline.planning.estimate import Costs, Estimate, Machine, Starts, estimate
from pipeline.planning.instances import Catalogue, Instance, read_catalogue
from pipeline.planning.measure import measure
from pipeline.planning.sample import sample
from pipeline.run import Checked, Listener, check, load_scorer
from pipeline.sizing import Cluster, Resources, Work

# Of a run that was started without a pilot: 2 cores, base at 384 px (docs/performance.md); assumed for any other machine.
ASSUMED = Starts(program_s=1.8, ray_s=4.5, stream_s=11.0, load_s=5.0, end_s=2.5, measured=False)
OBJECT_STORE_SHARE = 0.3  # of a machine's memory, which Ray takes unless it is told otherwise
COMPUTE_HERE = ("replicas", "batch_size", "block_rows")  # settings for one cluster, which say nothing of another


class Offer(NamedTuple):
    """What a run takes on machines that can be rented."""

    instance: Instance
    machines: int
    estimate: Estimate | None  # None: the run cannot be had there
    why_not: str
    score_measured: bool

    @property
    def hours(self) -> float:
        """By the clock."""
        return self.estimate.wall_s / 3600 if self.estimate else math.nan

    def usd(self, per_hour: float | None) -> float | None:
        """Of all machines; None where there is no such price."""
        return None if per_hour is None or self.estimate is None else self.hours * self.machines * per_hour


class _ScoreSeconds(NamedTuple):
    seconds: float  # of a replica, a row
    measured: bool


class _Planned(NamedTuple):
    """What estimates are made from."""

    checked: Checked
    resources: Resources
    costs: Costs
    starts: Starts
    catalogue: Catalogue
    gpus: list[str]  # of this machine, as CUDA calls them

    def estimate(self, machine: Machine) -> Estimate:
        """For all rows of the manifest."""
        return estimate(
            self.costs,
            machine,
            self.starts,
            rows=self.checked.manifest.rows,
            image_bytes=3 * self.checked.model.image_size**2,
            in_flight=self.checked.config.fetch.max_in_flight,
        )

    def score_s(self, instance: Instance, resources: Resources) -> _ScoreSeconds | None:
        """What a row takes a replica there; None where that can be neither computed nor assumed."""
        measured_on_gpu = self.resources.device == "cuda"
        if resources.device == "cpu" or instance.gpu is None:
            return None if measured_on_gpu else _ScoreSeconds(self.costs.score_core_s / resources.threads, measured=True)
        kind = self.catalogue.gpus[instance.gpu]
        if measured_on_gpu and any(kind.name in name for name in self.gpus):
            return _ScoreSeconds(self.costs.score_s, measured=True)
        images_per_s = kind.tflops * 1e3 * self.catalogue.gpu_utilisation / self.checked.model.gflop
        return _ScoreSeconds(self.costs.success_share / images_per_s, measured=False)


class RunPlan(NamedTuple):
    """What a run will take."""

    manifest: Manifest
    model: ModelInfo
    resources: Resources  # here
    costs: Costs
    starts: Starts
    here: Estimate
    offers: list[Offer]
    requests_usd: float  # of all GETs, on any machine
    planning_s: float
    load: float  # processes that wanted a core while this was measured, this one included: more than cores, and all is slow

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        rows, costs = self.manifest.rows, self.costs
        return {
            "rows": rows,
            "bytes": round(rows * costs.bytes_read),
            "model": {"name": self.model.name, "sha256": self.model.sha256, "image_size": self.model.image_size},
            "sample": {
                "rows": costs.rows,
                "rows_scored": costs.rows_scored,
                "planning_s": round(self.planning_s, 3),
                "load": self.load,
            },
            "expected": [
                {"status": status, "reason": reason, "sampled": sampled, "rows": round(rows * sampled / costs.rows)}
                for (status, reason), sampled in sorted(costs.counts.items(), key=str)
            ],
            "costs": {name: value for name, value in costs._asdict().items() if name != "counts"},
            "here": {
                "resources": self.resources._asdict(),
                "starts": self.starts._asdict(),
                **_estimate_json(self.here),
            },
            "requests_usd": self.requests_usd,
            "offers": [_offer_json(offer) for offer in self.offers],
        }


def _estimate_json(found: Estimate) -> dict[str, Any]:
    return {
        "wall_s": found.wall_s,
        "rows_per_s": found.rates.rows_per_s,
        "binds": found.rates.binds,
        "gpu_hours": found.gpu_hours,
        "cores_a_replica": _finite(found.cores_a_replica),
        "cpu_s": found.cpu_s,
        "rates": {name: _finite(rate) for name, rate in found.rates._asdict().items()},
    }


def _finite(number: float) -> float | None:
    """No limit is none: JSON has no infinity."""
    return number if math.isfinite(number) else None


def _offer_json(offer: Offer) -> dict[str, Any]:
    instance = offer.instance
    named = {"name": instance.name, "machines": offer.machines, "why_not": offer.why_not or None}
    if offer.estimate is None:
        return named
    return {
        **named,
        "score_measured": offer.score_measured,
        "usd": offer.usd(instance.usd_per_hour),
        "usd_spot": offer.usd(instance.usd_per_hour_spot),
        **_estimate_json(offer.estimate),
    }


def make_plan(config: Config, listener: Listener) -> RunPlan:
    """Plan a run with these settings; the whole of what `jobs/plan.py` does. Raises UserError as a run would."""
    began = time.monotonic()
    catalogue = read_catalogue(config.plan.instances)
    with tempfile.TemporaryDirectory(prefix="capsieve-plan-") as folder:
        checked = check(_writing_to(config, folder), listener)
        check_s = time.monotonic() - began
        if not checked.manifest.rows:
            raise ManifestError("the manifest has no rows: there is nothing to plan")
        resources, costs, starts = _look_here(checked, check_s, listener)
    planned = _Planned(checked, resources, costs, starts, catalogue, _gpus_here())
    return RunPlan(
        checked.manifest,
        checked.model,
        resources,
        costs,
        starts,
        here=planned.estimate(Machine(resources, costs.score_s)),
        offers=[_offer(planned, instance) for instance in catalogue.instances],
        requests_usd=checked.manifest.rows * costs.stored_share / 1e6 * catalogue.requests.get_usd_per_million,
        planning_s=time.monotonic() - began,
        load=os.getloadavg()[0],
    )


class _Here(NamedTuple):
    resources: Resources
    costs: Costs
    starts: Starts


def _look_here(checked: Checked, check_s: float, listener: Listener) -> _Here:
    """Measure the stages and, with a pilot, what starting and ending take. `check_s`: what looking at the manifest took."""
    joining = time.monotonic()
    starts = ASSUMED
    with _cluster(checked, listener) as (resources, make_scorer):
        ray_s = time.monotonic() - joining
        costs = _measure(checked, resources, make_scorer, listener)
        if checked.config.plan.pilot:
            flown = _pilot(checked, resources, make_scorer, listener)
            stream_s = max(0.0, flown.first_s - costs.score_s)  # a row was scored in it
            starts = Starts(check_s + pilot.program_s(), ray_s, stream_s, costs.load_s, flown.end_s, measured=True)
        leaving = time.monotonic()
    if starts.measured:
        starts = starts._replace(end_s=starts.end_s + time.monotonic() - leaving)
    return _Here(resources, costs, starts)


def _writing_to(config: Config, folder: str) -> Config:
    """The settings with an output of ours, and without machines to wait for: a plan neither writes nor starts any."""
    output = config.output.model_copy(update={"path": f"{folder}/out", "overwrite": False, "retry": []})
    compute = config.compute.model_copy(update={"wait_for_gpus": 0, "wait_for_cpus": 0})
    return config.model_copy(update={"output": output, "compute": compute})


class _Joined(NamedTuple):
    resources: Resources
    make_scorer: MakeScorer


@contextmanager
def _cluster(checked: Checked, listener: Listener) -> Iterator[_Joined]:
    """How a run's work would be spread: on the cluster that it would join; without a pilot, on this machine as one."""
    work = Work(checked.manifest.rows, checked.model.image_size, checked.model.gflop)
    if not checked.config.plan.pilot:
        resources = sizing.plan(checked.config, this_machine(), work)
        yield _Joined(resources, functools.partial(load_scorer, checked.config, resources, checked.model.pin, {}))
        return
    listener.starting("Ray")
    with cluster.joined(checked.config) as elsewhere:
        resources = cluster.plan_resources(checked.config, work)
        shared = cluster.share(checked.model.pin) if elsewhere else {}
        yield _Joined(resources, functools.partial(load_scorer, checked.config, resources, checked.model.pin, shared))


def this_machine() -> Cluster:
    """What Ray would find here."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Cluster(len(os.sched_getaffinity(0)), len(_gpus_here()), 1, int(memory * OBJECT_STORE_SHARE))


def _gpus_here() -> list[str]:
    from pipeline.device import gpu_names  # torch: a plan loads it anyway, but not before the settings are checked

    return gpu_names()


def _measure(checked: Checked, resources: Resources, make_scorer: MakeScorer, listener: Listener) -> Costs:
    config, manifest, model, output = checked
    if resources.device == "cuda" and not _gpus_here():
        raise ConfigError(
            "the cluster has GPUs and this machine has none to measure: plan on one that has, e.g. "
            "ray job submit --entrypoint-num-gpus 1 -- python jobs/plan.py --no-plan.pilot"
        )
    listener.starting("measuring")
    few = sample(manifest, config.plan.rows)
    return measure(config, few, output, resources, model.image_size, make_scorer)


def _pilot(checked: Checked, resources: Resources, make_scorer: MakeScorer, listener: Listener) -> pilot.Pilot:
    config, manifest, model, output = checked
    listener.starting("a few rows through Ray")
    if resources.nodes > 1:  # this machine's folders are not theirs; each worker's own memory will do, without commits
        output = replace(output, url="memory://capsieve-plan")
    few = sample(manifest, config.plan.rows)
    return pilot.fly(config, few, output, resources, model.image_size, make_scorer)


def _offer(planned: _Planned, instance: Instance) -> Offer:
    """What the run takes on so many machines of a kind."""
    config, model, machines = planned.checked.config, planned.checked.model, planned.checked.config.plan.machines
    free = config.compute.model_copy(update=dict.fromkeys(COMPUTE_HERE))
    there = Cluster(
        instance.cpus * machines,
        instance.gpus * machines,
        machines,
        int(instance.memory_gib * 1024 * MIB * OBJECT_STORE_SHARE) * machines,
    )
    work = Work(planned.checked.manifest.rows, model.image_size, model.gflop)
    try:
        resources = sizing.plan(config.model_copy(update={"compute": free}), there, work)
    except ConfigError as error:
        return Offer(instance, machines, None, str(error), score_measured=False)
    found = planned.score_s(instance, resources)
    if found is None:
        return Offer(instance, machines, None, "scoring on CPUs was not measured here", score_measured=False)
    network = instance.network_gbps * 1e9 / 8 * machines
    return Offer(instance, machines, planned.estimate(Machine(resources, found.seconds, network)), "", found.measured)
