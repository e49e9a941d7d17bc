"""The Ray cluster that a run works on: joined or started, waited for, and what it holds.

With `dataflow`, `commits` and `watching.export` all of the library that imports Ray. Knows nothing of what runs there.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import ray
from ray.data import DataContext
from ray.util.placement_group import placement_group, remove_placement_group

from pipeline import sizing
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.model.files import clear_errors
from pipeline.model.pin import Pieces, Pin
from pipeline.sizing import Cluster, Resources, Work

log = logging.getLogger(__name__)

PIECE_BYTES = 64 * 1024 * 1024  # of a shared file: a machine hands on what it has while it gets the rest

# Nothing is sent to Ray's makers, and its own lines stay out of ours; what Ray writes into its log files is not affected.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
# Of a Ray started here. It ends workers that are idle for a second while there are more of them than CPUs, and tasks of half a
# CPU need more: without this, every other fetch task begins with the start of a process and seconds of imports.
KEPT_WORKERS = {"RAY_idle_worker_killing_time_threshold_ms": "600000"}


@contextmanager
def joined(config: Config) -> Iterator[bool]:
    """Join the cluster of `compute.address` or RAY_ADDRESS, or start one here; leave or end it afterwards, quietly.

    Gives whether it may have other machines than this one. In a process that has joined one already (a notebook), that one is
    used and left as it is.
    """
    for name, value in (QUIET | KEPT_WORKERS).items():
        os.environ.setdefault(name, value)
    address = config.compute.address or os.environ.get("RAY_ADDRESS")
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # else our own errors are lost in a wrapping that forgets its cause
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # a traceback of a hundred lines for whatever ends a stream, which is raised as well: a mistake or an outage is one line
    logging.getLogger("ray.data._internal.execution.streaming_executor_state").setLevel(logging.CRITICAL)
    # "local", because without an address Ray joins whatever cluster `ray start` left on this machine
    options: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    if ray.is_initialized():
        yield True
        return
    try:
        with _own_signals(), _silent_stderr():
            ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError as error:
        raise ConfigError(f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}; see --compute.address") from None
    try:
        yield bool(address)
    finally:
        ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the program's handlers: ray.init puts ones of its own in their place, which print a native stack and exit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Ray's native code announces its log level on file descriptor 2, whatever that level is. Failures are exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123 a descriptor is wanted
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def wait_for_nodes(gpus: int, cpus: int, limit_s: float) -> None:
    """Ask an autoscaling cluster for so many GPUs and CPUs, and wait until they are there, or for `limit_s`.

    What is asked for is a placement group, which ends with this driver, however that ends: Ray's `request_resources` would
    keep the machines of a driver that was killed until somebody looks at the bill.
    """
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    there = {"GPU": int(total.get("GPU", 0)), "CPU": int(total.get("CPU", 0))}
    if there["GPU"] >= gpus and there["CPU"] >= cpus:
        return
    log.warning("the cluster has %d GPUs and %d CPUs, waiting for %d and %d", there["GPU"], there["CPU"], gpus, cpus)
    group = placement_group([{"GPU": 1.0}] * gpus + [{"CPU": 1.0}] * cpus)
    try:
        if not group.wait(limit_s):
            log.warning("they are not all there after %.0f s (--compute.wait_s): going on with what has come", limit_s)
    finally:
        remove_placement_group(group)


class Machine(NamedTuple):
    """A node of the cluster that is there."""

    node_id: str
    name: str
    cpus: int
    gpus: int
    memory_bytes: int


def machines() -> list[Machine]:
    """The nodes that are there now."""
    return [
        Machine(
            node_id=node["NodeID"],
            name=node["NodeManagerHostname"],
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
            memory_bytes=int(node["Resources"].get("memory", 0)),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]


def plan_resources(config: Config, work: Work) -> Resources:
    """What `sizing.plan` makes of the cluster that was joined. Raises ConfigError where it cannot hold what is asked for."""
    wait_for_nodes(config.compute.wait_for_gpus, config.compute.wait_for_cpus, config.compute.wait_s)
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cluster = Cluster(
        cpus=int(total.get("CPU", 0)),
        gpus=int(total.get("GPU", 0)),
        nodes=len(ray.nodes()),  # type: ignore[no-untyped-call]
        object_store_bytes=int(total.get("object_store_memory", 0)),
    )
    resources = sizing.plan(config, cluster, work)
    if resources.device == "cuda" and not config.compute.replicas and resources.replicas < cluster.gpus:
        log.warning(
            "%d of %d GPUs are left idle: %d CPUs feed no more, at one for each and some for fetching; add CPUs",
            cluster.gpus - resources.replicas, cluster.gpus, cluster.cpus,
        )  # fmt: skip
    return resources


class Shared:
    """A file of the driver's in Ray's object store, which machines hand on to each other: read it anywhere in the cluster."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            pieces = iter(lambda: file.read(PIECE_BYTES), b"")
            self._pieces = [ray.put(np.frombuffer(piece, np.uint8)) for piece in pieces]  # an array is read without a copy

    def __call__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Its bytes, piece by piece."""
        for piece in self._pieces:
            yield ray.get(piece)


def share(pin: Pin) -> dict[str, Pieces]:
    """The files that other machines can have from nobody but this driver, by SHA-256; for as long as the driver lives.

    Raises CheckpointError for one that is gone.
    """
    with clear_errors(pin.name):
        return {file.sha256: Shared(Path(file.path)) for file in pin.files() if file.url is None}
