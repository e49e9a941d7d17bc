"""Who writes to an output: one run at a time holds its lease, a small JSON file that it renews as long as it lives.

A second run is refused. The lease of a dead run is taken over: at once if it died on this machine, else when it has not been
renewed for `lease_s`. A run whose lease was taken over (its machine slept, its network was cut) learns it from the next
renewal, and its commits learn it from the file, so that it writes no final file any more.
Knows nothing of what is written under a lease.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline import conditional, storage
from pipeline.config import StorageConfig
from pipeline.errors import OutputError, StorageError

log = logging.getLogger(__name__)

LEASE_FILE = "_lease.json"
RENEWALS = 4  # within lease_s: a store may fail three times in a row before anybody takes the run for dead
RELEASE_WAIT_S = 5.0


@dataclass(frozen=True)
class Holder:
    """What the lease says of the run that holds it."""

    run: str  # random: tells one run from another
    host: str
    pid: int
    machine: str  # boot and process namespace, within which `pid` means something; empty where unknown
    process_start: str  # tells the process from a later one with its pid
    since: float  # Unix time, by the holder's clock
    renewed: float
    lease_s: float

    def died_here(self) -> bool:
        """Whether it was a process of this machine that is no more. False where that cannot be told."""
        return bool(self.machine) and self.machine == _machine() and _process_start(self.pid) != self.process_start

    def describe(self) -> str:
        """For the person who is refused."""
        since = datetime.fromtimestamp(self.since, UTC).isoformat(timespec="seconds")
        return f"{self.host}, process {self.pid}, since {since}, last sign of life {time.time() - self.renewed:.0f} s ago"


class Lease:
    """The right to write to an output, for a `with` block. Entering raises OutputError where another run has it."""

    def __init__(self, output_url: str, config: StorageConfig, lease_s: float) -> None:
        self.run = secrets.token_hex(8)
        self._output_url = output_url
        self._url = f"{output_url}/{LEASE_FILE}"
        self._config = config
        self._lease_s = lease_s
        self._since = time.time()
        self._version: str | None = None
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        storage.probe(self._output_url, self._config)
        found = conditional.read(self._url, self._config)
        if found is not None:
            self._refuse_if_alive(found)
        self._version = conditional.swap(self._url, self._body(), self._config, version=found.version if found else None)
        if self._version is None:
            raise OutputError(f"{self._output_url} was taken by another run at this moment: let it end, or name another")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(RELEASE_WAIT_S)
        with suppress(StorageError):  # the store is what failed: then the lease ends by itself
            if holder_of(self._output_url, self._config) == self.run:
                storage.delete_files([self._url], self._config)

    def check(self) -> None:
        """Raise OutputError if another run has taken over. Asks nobody: the renewals did."""
        if self._lost:
            raise lost(self._output_url)

    def _refuse_if_alive(self, found: conditional.Stored) -> None:
        holder = _parse(found.data)
        if holder is None or holder.died_here():
            return
        if not 0 <= time.time() - holder.renewed < holder.lease_s:
            # out of date, or by a clock that is not ours: it is alive if it renews the lease before our eyes
            log.warning("%s: is the run of %s still alive?", self._output_url, holder.describe())
            time.sleep(1.5 * holder.lease_s / RENEWALS)
            now = conditional.read(self._url, self._config)
            if now is None or now.version == found.version:
                return
            holder = _parse(now.data) or holder
        raise OutputError(
            f"{self._output_url} is being written by another run ({holder.describe()}): let it end or stop it, or name another "
            f"--output.path; a run that died elsewhere keeps its lease for {holder.lease_s:.0f} s"
        )

    def _body(self) -> bytes:
        holder = Holder(
            run=self.run,
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_machine(),
            process_start=_process_start(os.getpid()) or "",
            since=self._since,
            renewed=time.time(),
            lease_s=self._lease_s,
        )
        return json.dumps(asdict(holder), indent=2).encode()

    def _renew(self) -> None:
        while not self._stop.wait(self._lease_s / RENEWALS):
            try:
                version = conditional.swap(self._url, self._body(), self._config, version=self._version)
            except StorageError as error:
                log.warning("cannot renew the lease: %s", error)
                continue
            if version is None:
                self._lost = True
                return
            self._version = version


def holder_of(output_url: str, config: StorageConfig) -> str | None:
    """The run that holds an output's lease. Raises StorageError where that cannot be told."""
    found = conditional.read(f"{output_url}/{LEASE_FILE}", config)
    holder = _parse(found.data) if found is not None else None
    return holder.run if holder is not None else None


def lost(output_url: str) -> OutputError:
    """What a run ends with whose lease another one has taken."""
    return OutputError(f"{output_url} was taken over by another run: this one stops, and leaves the rest to it")


def _parse(data: bytes) -> Holder | None:
    try:
        fields: dict[str, Any] = json.loads(data)
        return Holder(**fields)
    except (ValueError, TypeError):
        return None  # of another version, or cut off: whoever wrote it does not renew it as we do


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"  # containers share the boot, not the process ids
    except OSError:
        return ""


def _process_start(pid: int) -> str | None:
    """When a process started, in ticks since the boot; None if there is no such process any more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]  # killed, but nobody has asked for its exit code
