"""Many URLs -> their bytes, in order of completion: the asynchronous fetcher that a synchronous consumer iterates over.

Owns the thread with the event loop, what outlives one list of URLs (connections, names, what is known of hosts), and the
hand-over to the consumer. Hundreds of downloads run while the consumer decodes what has come; a slow host never holds up
others, and a slow consumer holds up everything, so that memory stays flat. Knows nothing of attempts (`downloads`), of HTTP,
stores or files (`readers`), nor of what may be fetched (`policy`).
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import gc
import logging
import resource
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

import uvloop

from pipeline.config import FetchConfig, StorageConfig
from pipeline.errors import RowError
from pipeline.fetch.downloads import Downloads, FetchResult, Job
from pipeline.fetch.hosts import Hosts
from pipeline.fetch.policy import Policy, WebAddress, locate
from pipeline.fetch.readers import Readers

logger = logging.getLogger(__name__)

_DNS_THREADS = 256  # lookups at a time: they cannot be cancelled, and those of dead names take longest
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """One image to fetch: the caller's own number for it, and its URL or path."""

    index: int
    url: str


class _Engine(NamedTuple):
    """What runs while a fetcher is open."""

    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    readers: Readers


class Fetcher:
    """Fetches many URLs at a time in a thread of its own. A context manager; connections, names and what is known of hosts
    live as long as it does."""

    def __init__(self, config: FetchConfig, storage: StorageConfig) -> None:
        self._config = config
        self._storage = storage
        self._hosts = Hosts(config.host_failures, config.host_down_s)
        self._max_silent = min(config.max_silent, _spare_sockets(config))
        self._engine: _Engine | None = None

    def __enter__(self) -> Self:
        loop = uvloop.new_event_loop()
        loop.set_default_executor(ThreadPoolExecutor(_DNS_THREADS, "fetch-dns"))
        thread = threading.Thread(target=loop.run_forever, name="fetch", daemon=True)
        thread.start()
        try:
            readers = asyncio.run_coroutine_threadsafe(self._open(), loop).result()
        except BaseException:
            _end(loop, thread)
            raise
        self._engine = _Engine(loop, thread, readers)
        return self

    async def _open(self) -> Readers:
        return Readers(self._config, self._storage)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        engine, self._engine = self._engine, None
        if engine is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(_shut(engine.readers), engine.loop).result(_CLOSE_S)
        except TimeoutError:
            logger.warning("fetches did not end within %.0f s", _CLOSE_S)
        finally:
            _end(engine.loop, engine.thread)

    def fetch(self, requests: Iterable[FetchRequest], base: str | None = None) -> Iterator[FetchResult]:
        """Yield one result for each request, as they complete; no request raises.

        `base`: folder (local path or URL) of the manifest, that relative paths start from; if local, it may be read from.
        Takes all requests before the first download starts, to spread them over hosts: pass a chunk of a manifest, not all
        of it. Does not merge equal URLs. Closing the generator early cancels what is under way.
        """
        engine = self._engine
        if engine is None:
            raise RuntimeError("Fetcher is used outside its `with` block")
        policy = Policy.of(self._config, base)
        jobs, failed = _located(requests, policy)
        downloads = asyncio.run_coroutine_threadsafe(self._start(engine.readers, policy, jobs), engine.loop).result()
        try:
            yield from failed
            for _ in jobs:
                result = downloads.results.get()
                if isinstance(result, BaseException):
                    raise result
                yield result
                engine.loop.call_soon_threadsafe(downloads.taken, len(result.data or b""))
        finally:
            if not engine.loop.is_closed():
                asyncio.run_coroutine_threadsafe(downloads.close(), engine.loop).result(_CLOSE_S)

    async def _start(self, readers: Readers, policy: Policy, jobs: list[Job]) -> Downloads:
        downloads = Downloads(readers, self._hosts, self._config, policy, self._max_silent)
        downloads.start(jobs)
        return downloads


def process_fetcher(config: FetchConfig, storage: StorageConfig) -> Fetcher:
    """This process's own fetcher for these settings, open until the process ends.

    Fetch tasks come and go in a process that stays: so each goes on with the connections, names and knowledge of hosts that
    the one before it had.
    """
    return _kept_open(config.model_dump_json(), storage.model_dump_json())


@functools.cache
def _kept_open(config: str, storage: str) -> Fetcher:
    gc.collect()
    gc.freeze()  # what is imported by now stays: hundreds of thousands of objects that the collector would go through again
    fetcher = Fetcher(FetchConfig.model_validate_json(config), StorageConfig.model_validate_json(storage)).__enter__()
    atexit.register(fetcher.__exit__, None, None, None)
    return fetcher


def _located(requests: Iterable[FetchRequest], policy: Policy) -> tuple[list[Job], list[FetchResult]]:
    jobs, failed = [], []
    for request in requests:
        try:
            address = locate(request.url, policy)
        except RowError as error:
            failed.append(FetchResult(request.index, None, error, 0.0))
            continue
        if isinstance(address, WebAddress):
            host = (address.url.raw_host or "").lower().rstrip(".")
            jobs.append(Job(request.index, address, host, address.url.port))
        else:
            jobs.append(Job(request.index, address, None, None))
    return jobs, failed


def _spare_sockets(config: FetchConfig) -> int:
    """How many downloads of silent hosts the process's limit of open files leaves room for, kept connections considered."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if limit == resource.RLIM_INFINITY else max(0, limit // 2 - config.max_in_flight)


async def _shut(readers: Readers) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await readers.close()
    await asyncio.sleep(0)  # transports close in the next turn of the loop


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    thread.join(_CLOSE_S)
    if not thread.is_alive():
        loop.close()
