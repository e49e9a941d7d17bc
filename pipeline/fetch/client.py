"""Many URLs -> their bytes, in order of completion: the asynchronous fetcher that a synchronous consumer iterates over.

Owns the thread with the event loop, attempts and back-off, and the hand-over to the consumer. Hundreds of downloads run
while the consumer decodes what has come; a slow host never holds up others, and a slow consumer holds up everything, so that
memory stays flat. Knows nothing of HTTP, stores or files (`web`, `objects`, `files`) nor of what may be fetched (`policy`).
"""

from __future__ import annotations

import asyncio
import logging
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from pipeline.config import MIB, FetchConfig, StorageConfig
from pipeline.errors import RowError
from pipeline.fetch.budget import Budget, Lease
from pipeline.fetch.failures import TransientError, row_error
from pipeline.fetch.files import read_file
from pipeline.fetch.objects import ObjectClient
from pipeline.fetch.policy import Address, FilePath, Policy, WebAddress, local_file, locate
from pipeline.fetch.schedule import Schedule
from pipeline.fetch.web import WebClient

logger = logging.getLogger(__name__)

_BUFFER_BYTES = 64 * MIB  # images in memory, downloads under way and results not yet taken: some 500 of 130 KB
_MAX_READY = 1024  # results not yet taken, failures among them
_BACKOFF_S = 0.5  # before the first retry; doubles, with full jitter
_MAX_BACKOFF_S = 8.0
_MAX_RETRY_AFTER_S = 20.0  # a host that asks for more is not asked again
_READ_THREADS = 64  # for files and objects; a store that answers in 30 ms then gives 2,000 a second
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """One image to fetch: the caller's own number for it, and its URL or path."""

    index: int
    url: str


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What became of a request: either `data` or `error` is set."""

    index: int
    data: bytes | None
    error: RowError | None  # FetchError, or InvalidRowError for a malformed URL
    seconds: float  # from the start of the first attempt to the end of the last, waits between them included


@dataclass(eq=False, slots=True)
class _Job:
    index: int
    address: Address
    host: str | None
    attempts: int = 0
    started: float = 0.0  # time.monotonic()


class _Clients:
    """The readers of each kind of address, all living on one event loop."""

    def __init__(self, config: FetchConfig, storage: StorageConfig, policy: Policy) -> None:
        self.config = config
        self.storage = storage
        self.policy = policy
        self.web = WebClient(config, policy)
        self.objects = ObjectClient(config, storage)
        self._threads = ThreadPoolExecutor(_READ_THREADS, "fetch-read")

    async def read(self, address: Address, budget: Budget) -> bytes:
        """One attempt within its time limit; raises whatever the readers raise."""
        web = isinstance(address, WebAddress | FilePath)
        limit_s = self.config.timeout_s if web else self.storage.timeout_s
        succeeded = False
        async with asyncio.timeout(limit_s) as timeout:
            lease = budget.open(timeout)
            try:
                data = await self._read(address, lease, budget)
                await budget.grow(lease, len(data) - lease.bytes)  # what its reader did not count: files, inflated bodies
                succeeded = True
            finally:
                budget.close(lease, succeeded=succeeded)
        return data

    async def _read(self, address: Address, lease: Lease, budget: Budget) -> bytes:
        if isinstance(address, WebAddress):
            return await self.web.get(address.url, lease, budget)
        loop = asyncio.get_running_loop()
        if isinstance(address, FilePath):
            return await loop.run_in_executor(self._threads, self._read_file, address.path)
        found = await loop.run_in_executor(self._threads, self.objects.open, address)
        await budget.grow(lease, found.meta["size"])
        return bytes(await loop.run_in_executor(self._threads, found.bytes))

    def _read_file(self, path: str) -> bytes:
        return read_file(local_file(path, self.policy), self.config.max_bytes)

    async def close(self) -> None:
        await self.web.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Run:
    """One call of `fetch`: what waits, what runs, what is ready. All but `results` belongs to the event loop's thread."""

    def __init__(self, clients: _Clients, jobs: list[_Job]) -> None:
        self.results: queue.SimpleQueue[FetchResult | BaseException] = queue.SimpleQueue()
        self._clients = clients
        self._config = clients.config
        self._loop = asyncio.get_running_loop()
        self._budget = Budget(_BUFFER_BYTES, _MAX_READY)
        self._schedule: Schedule[_Job] = Schedule(clients.config.max_per_host)
        self._tasks: set[asyncio.Task[bytes]] = set()
        self._waits: dict[_Job, asyncio.TimerHandle] = {}
        self._closed = False
        for job in jobs:
            self._schedule.add(job)
        self._start_more()

    def _start_more(self) -> None:
        while (
            not self._closed and len(self._tasks) < self._config.max_in_flight and self._budget.admits_another(len(self._tasks))
        ):
            job = self._schedule.next()
            if job is None:
                return
            job.started = job.started or time.monotonic()
            task = self._loop.create_task(self._clients.read(job.address, self._budget))
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, job))

    def _ended(self, job: _Job, task: asyncio.Task[bytes]) -> None:
        self._tasks.discard(task)
        if self._closed:
            return
        try:
            self._schedule.release(job)
            self._hand_over(job, task)
            self._start_more()
        except BaseException as bug:  # noqa: BLE001  # the event loop would only log it, and the consumer wait for ever
            self.results.put(bug)

    def _hand_over(self, job: _Job, task: asyncio.Task[bytes]) -> None:
        """Make a result of an attempt that ended, or let its job wait for another one."""
        data, error = None, None
        try:
            data = task.result()
        except Exception as failure:  # noqa: BLE001  # mapped in one place
            error = row_error(failure)
            if isinstance(error, TransientError) and self._waits_for_retry(job, error):
                return
        self._budget.put()
        self.results.put(FetchResult(job.index, data, error, time.monotonic() - job.started))

    def _waits_for_retry(self, job: _Job, error: TransientError) -> bool:
        """Whether the job has an attempt left and the host does not ask for too long a wait. It waits without a slot."""
        if job.attempts >= self._config.retries or (error.retry_after_s or 0.0) > _MAX_RETRY_AFTER_S:
            return False
        backoff_s = min(_MAX_BACKOFF_S, _BACKOFF_S * 2**job.attempts) * random.uniform(0.5, 1.0)
        job.attempts += 1
        self._waits[job] = self._loop.call_later(max(backoff_s, error.retry_after_s or 0.0), self._again, job)
        return True

    def _again(self, job: _Job) -> None:
        del self._waits[job]
        self._schedule.add(job)
        self._start_more()

    def taken(self, size: int) -> None:
        """The consumer is done with a result of so many bytes."""
        self._budget.taken(size)
        self._start_more()

    async def close(self) -> None:
        """Cancel what still runs, and wait for it."""
        self._closed = True
        for handle in self._waits.values():
            handle.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Fetcher:
    """Fetches many URLs at a time in a thread of its own. A context manager; connections and names live as long as it does.

    `base`: folder (local path or URL) of the manifest, that relative paths start from; if local, also a root.
    """

    def __init__(self, config: FetchConfig, storage: StorageConfig, base: str | None) -> None:
        self._config = config
        self._storage = storage
        self._policy = Policy.of(config, base)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clients: _Clients | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        loop = asyncio.new_event_loop()
        # One thread for every name that may have to be resolved at a time; lookups cannot be cancelled.
        loop.set_default_executor(ThreadPoolExecutor(self._config.max_in_flight, "fetch-dns"))
        self._loop = loop
        self._thread = threading.Thread(target=loop.run_forever, name="fetch", daemon=True)
        self._thread.start()
        try:
            self._clients = asyncio.run_coroutine_threadsafe(self._open(), loop).result()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    async def _open(self) -> _Clients:
        return _Clients(self._config, self._storage, self._policy)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(self._shut(), loop).result(_CLOSE_S)
        except TimeoutError:
            logger.warning("fetches did not end within %.0f s", _CLOSE_S)
        finally:
            self._loop = self._clients = self._thread = None
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_CLOSE_S)
            if not thread.is_alive():
                loop.close()

    async def _shut(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._clients is not None:
            await self._clients.close()
        await asyncio.sleep(0)  # transports close in the next turn of the loop

    def fetch(self, requests: Iterable[FetchRequest]) -> Iterator[FetchResult]:
        """Yield one result for each request, as they complete; no request raises.

        Takes all requests before the first download starts, to spread them over hosts: pass a chunk of a manifest, not all
        of it. Does not merge equal URLs. Closing the generator early cancels what is under way.
        """
        loop, clients = self._loop, self._clients
        if loop is None or clients is None:
            raise RuntimeError("Fetcher is used outside its `with` block")
        jobs, failed = self._located(requests)
        run = asyncio.run_coroutine_threadsafe(_start(clients, jobs), loop).result()
        try:
            yield from failed
            for _ in jobs:
                result = run.results.get()
                if isinstance(result, BaseException):
                    raise result
                yield result
                loop.call_soon_threadsafe(run.taken, len(result.data or b""))
        finally:
            if not loop.is_closed():
                asyncio.run_coroutine_threadsafe(run.close(), loop).result(_CLOSE_S)

    def _located(self, requests: Iterable[FetchRequest]) -> tuple[list[_Job], list[FetchResult]]:
        jobs, failed = [], []
        for request in requests:
            try:
                address = locate(request.url, self._policy)
            except RowError as error:
                failed.append(FetchResult(request.index, None, error, 0.0))
            else:
                host = (address.url.raw_host or "").lower() if isinstance(address, WebAddress) else None
                jobs.append(_Job(request.index, address, host))
        return jobs, failed


async def _start(clients: _Clients, jobs: list[_Job]) -> _Run:
    return _Run(clients, jobs)
