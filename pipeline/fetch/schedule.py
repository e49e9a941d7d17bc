"""Which download starts next: hosts in turn, at most so many at a time from each, the others waiting without a slot.

Pure bookkeeping: no clock, no event loop, nothing of what a download is.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class HasHost(Protocol):
    """What is scheduled."""

    @property
    def host(self) -> str | None:
        """Who bears the load; None: nobody who needs protection (object stores, local files)."""
        ...


Job = TypeVar("Job", bound=HasHost)


class Schedule(Generic[Job]):
    """Jobs that wait, by host. A host has its turn iff jobs of it wait and fewer run than `limit` says of the first of them.

    `limit` may change its mind: `release` asks again, and so does `review`, for a limit that grew meanwhile.
    """

    def __init__(self, limit: Callable[[Job], int]) -> None:
        self._limit = limit
        self._waiting: dict[str | None, deque[Job]] = {}
        self._running: Counter[str | None] = Counter()
        self._turns: dict[str | None, None] = {}  # in order

    def add(self, job: Job) -> None:
        """Let a job wait for its turn, behind others of its host."""
        self._waiting.setdefault(job.host, deque()).append(job)
        self.review(job.host)

    def review(self, host: str | None) -> None:
        """Give a host its turn, behind others, if it has none and may have one."""
        if host not in self._turns and self._has_room(host):
            self._turns[host] = None

    def _has_room(self, host: str | None) -> bool:
        queue = self._waiting.get(host)
        if not queue:
            return False
        return host is None or self._running[host] < self._limit(queue[0])

    def next(self) -> Job | None:
        """The job to start now, which then runs until `release`; None if no job waits, or only for hosts that are busy."""
        while self._turns:
            host = next(iter(self._turns))
            del self._turns[host]
            if not self._has_room(host):  # its limit shrank
                continue
            job = self._waiting[host].popleft()
            self._running[host] += 1
            if not self._waiting[host]:
                del self._waiting[host]
            self.review(host)
            return job
        return None

    def release(self, job: Job) -> None:
        """A job that ran has ended."""
        self._running[job.host] -= 1
        if not self._running[job.host]:
            del self._running[job.host]
        self.review(job.host)
