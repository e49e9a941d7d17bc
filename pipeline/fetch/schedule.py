"""Which download starts next: hosts in turn, at most so many at a time from each, the others waiting without a slot.

Pure bookkeeping: no clock, no event loop, nothing of what a download is.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Generic, Protocol, TypeVar


class HasHost(Protocol):
    """What is scheduled."""

    @property
    def host(self) -> str | None:
        """Who bears the load; None: nobody who needs protection (object stores, local files)."""
        ...


Job = TypeVar("Job", bound=HasHost)


class Schedule(Generic[Job]):
    """Jobs that wait, by host. A host has its turn iff it has jobs waiting and fewer than `max_per_host` running."""

    def __init__(self, max_per_host: int) -> None:
        self._max_per_host = max_per_host
        self._waiting: dict[str | None, deque[Job]] = {}
        self._running: Counter[str | None] = Counter()
        self._turns: deque[str | None] = deque()

    def _has_room(self, host: str | None) -> bool:
        return host is None or self._running[host] < self._max_per_host

    def add(self, job: Job) -> None:
        """Let a job wait for its turn, behind others of its host."""
        queue = self._waiting.setdefault(job.host, deque())
        queue.append(job)
        if len(queue) == 1 and self._has_room(job.host):
            self._turns.append(job.host)

    def next(self) -> Job | None:
        """The job to start now, which then runs until `release`; None if no job waits, or only for hosts that are busy."""
        if not self._turns:
            return None
        host = self._turns.popleft()
        job = self._waiting[host].popleft()
        self._running[host] += 1
        if not self._waiting[host]:
            del self._waiting[host]
        elif self._has_room(host):
            self._turns.append(host)
        return job

    def release(self, job: Job) -> None:
        """A job that ran has ended."""
        had_room = self._has_room(job.host)
        self._running[job.host] -= 1
        if not self._running[job.host]:
            del self._running[job.host]
        if not had_room and job.host in self._waiting:
            self._turns.append(job.host)
