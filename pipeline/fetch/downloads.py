"""One list of downloads, from the first attempt to the last result.

Owns attempts and back-off, and when the next download starts: hosts in turn (`schedule`), room (`budget`), hosts that are
down (`hosts`). All but the queue of results belongs to the event loop's thread. Knows nothing of HTTP, stores or files.
"""

from __future__ import annotations

import asyncio
import queue
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipeline.config import MIB, FetchConfig
from pipeline.errors import FetchError, RowError
from pipeline.fetch.budget import Budget, Lease
from pipeline.fetch.failures import TransientError, no_answer, row_error
from pipeline.fetch.hosts import Hosts
from pipeline.fetch.policy import Address, Policy
from pipeline.fetch.readers import Readers
from pipeline.fetch.schedule import Schedule
from pipeline.schema import Reason

_BUFFER_BYTES = 64 * MIB  # images in memory, downloads under way and results not yet taken: some 500 of 130 KB
_MAX_READY = 1024  # results not yet taken, failures among them
_SWEEP_S = 0.25  # a download is silent once nothing came for one to two of these


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What became of a request: either `data` or `error` is set."""

    index: int
    data: bytes | None
    error: RowError | None  # FetchError, or InvalidRowError for a malformed URL
    seconds: float  # from the start of the first attempt to the end of the last, waits between them included
    retries: int = 0  # attempts after the first


@dataclass(eq=False, slots=True)
class Job:
    """One request on its way."""

    index: int
    address: Address
    host: str | None  # None: not on the web
    port: int | None
    attempts: int = 0
    started: float = 0.0  # time.monotonic()

    @property
    def server(self) -> str:
        """What answers or does not."""
        return f"{self.host}:{self.port}"


class Downloads:
    """One call of `Fetcher.fetch`: what waits, what runs, what is ready."""

    def __init__(self, readers: Readers, hosts: Hosts, config: FetchConfig, policy: Policy, max_silent: int) -> None:
        self.results: queue.SimpleQueue[FetchResult | BaseException] = queue.SimpleQueue()
        self._readers = readers
        self._hosts = hosts
        self._config = config
        self._policy = policy
        self._loop = asyncio.get_running_loop()
        self._budget = Budget(_BUFFER_BYTES, _MAX_READY, config.max_in_flight, max_silent)
        self._schedule: Schedule[Job] = Schedule(self._limit)
        self._tasks: set[asyncio.Task[bytes]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._resting: dict[str, float] = {}  # hosts that asked to be left alone, and until when
        self._closed = False

    def start(self, jobs: list[Job]) -> None:
        """Take all jobs, in this order where their hosts do not matter."""
        for job in jobs:
            self._schedule.add(job)
        self._start_more()
        self._later(_SWEEP_S, self._sweep)

    def _limit(self, job: Job) -> int:
        """How many downloads the host of this job bears now. As long as it never answered, no more than it takes to be down."""
        if job.host is None:
            return self._config.max_in_flight
        if self._resting.get(job.host, 0.0) > self._loop.time():
            return 0
        if self._hosts.has_answered(job.server):
            return self._config.max_per_host
        return min(self._config.max_per_host, max(1, self._hosts.failures_left(job.server)))

    def _start_more(self) -> None:
        while not self._closed and self._budget.admits_another():
            job = self._schedule.next()
            if job is None:
                return
            now = time.monotonic()
            job.started = job.started or now
            if job.host is not None and not self._hosts.admits(job.server, now):
                self._schedule.release(job)
                self._put(job, None, FetchError(Reason.HOST_DOWN))
                continue
            lease = self._budget.open(may_fall_silent=job.host is not None)
            task = self._loop.create_task(self._readers.read(job.address, self._policy, lease, self._budget))
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, job, lease))

    def _ended(self, job: Job, lease: Lease, task: asyncio.Task[bytes]) -> None:
        self._tasks.discard(task)
        failure = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._budget.close(lease, succeeded=failure is None)
        if self._closed:
            return
        try:
            if isinstance(failure, Exception):
                error = row_error(failure)
                self._learn(job, lease, failure)
                if not self._waits_for_retry(job, error):
                    self._put(job, None, error)
            elif failure is not None:
                raise failure
            else:
                self._learn(job, lease, None)
                self._put(job, task.result(), None)
            self._schedule.release(job)
            self._start_more()
        except BaseException as bug:  # noqa: BLE001  # the event loop would only log it, and the consumer wait for ever
            self.results.put(bug)

    def _learn(self, job: Job, lease: Lease, failure: Exception | None) -> None:
        """Note whether the job's host answered. Of the hosts that it redirected to, nothing is noted."""
        if job.host is None:
            return
        if lease.answered:
            self._hosts.answered(job.server)
        elif failure is not None and no_answer(failure):
            self._hosts.failed(job.server, time.monotonic())

    def _put(self, job: Job, data: bytes | None, error: RowError | None) -> None:
        self._budget.put()
        self.results.put(FetchResult(job.index, data, error, time.monotonic() - job.started, job.attempts))

    def _waits_for_retry(self, job: Job, error: RowError) -> bool:
        """Whether the job has an attempt left and may use it. It waits without a slot."""
        config = self._config
        if not isinstance(error, TransientError) or job.attempts >= config.retries:
            return False
        asked_s = error.retry_after_s or 0.0
        if asked_s > config.max_retry_after_s:
            return False
        if error.reason == Reason.TIMEOUT and job.host is not None and not self._hosts.has_answered(job.server):
            return False  # it would double the time that a chunk waits for hosts that are not there
        backoff_s = min(config.max_backoff_s, config.backoff_s * 2**job.attempts) * random.uniform(0.5, 1.0)
        if asked_s and job.host is not None:
            self._rest(job.host, asked_s)
        job.attempts += 1
        self._later(asked_s + backoff_s, self._again, job)
        return True

    def _rest(self, host: str, seconds: float) -> None:
        """Leave a host alone, with all its jobs."""
        until = self._loop.time() + seconds
        if until > self._resting.get(host, 0.0):
            self._resting[host] = until
            self._later(seconds + 0.01, self._review, host)

    def _review(self, host: str) -> None:
        self._schedule.review(host)
        self._start_more()

    def _again(self, job: Job) -> None:
        self._schedule.add(job)
        self._start_more()

    def _sweep(self) -> None:
        if self._budget.sweep():
            self._start_more()
        self._later(_SWEEP_S, self._sweep)

    def _later(self, seconds: float, call: Callable[..., None], *arguments: object) -> None:
        """Call something in the future, unless this is closed before."""

        def run() -> None:
            self._timers.discard(handle)
            try:
                call(*arguments)
            except BaseException as bug:  # noqa: BLE001  # as in `_ended`
                self.results.put(bug)

        handle = self._loop.call_later(seconds, run)
        self._timers.add(handle)

    def taken(self, size: int) -> None:
        """The consumer is done with a result of so many bytes."""
        self._budget.taken(size)
        self._start_more()

    async def close(self) -> None:
        """Cancel what still runs, and wait for it."""
        self._closed = True
        for handle in self._timers:
            handle.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
