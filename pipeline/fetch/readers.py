"""One attempt to read one address, whatever its kind: web, object store or local file.

Owns the clients and threads that read, all living on one event loop, and the time limit of an attempt. Knows nothing of
retries, order, or what may be fetched.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from pipeline.config import FetchConfig, StorageConfig
from pipeline.fetch.budget import Budget, Lease
from pipeline.fetch.files import read_file
from pipeline.fetch.objects import ObjectClient
from pipeline.fetch.policy import Address, FilePath, ObjectAddress, Policy, WebAddress, local_file
from pipeline.fetch.web import WebClient

_READ_THREADS = 64  # for files and objects; a store that answers in 30 ms then gives 2,000 a second


class Readers:
    """The readers of each kind of address. Made and closed on the event loop that uses them."""

    def __init__(self, config: FetchConfig, storage: StorageConfig) -> None:
        self._config = config
        self._storage = storage
        self._web = WebClient(config)
        self._objects = ObjectClient(config, storage)
        self._threads = ThreadPoolExecutor(_READ_THREADS, "fetch-read")
        self._free_threads = asyncio.Semaphore(_READ_THREADS)

    async def read(self, address: Address, policy: Policy, lease: Lease, budget: Budget) -> bytes:
        """One attempt within its time limit; raises whatever the readers raise."""
        if isinstance(address, WebAddress):
            async with asyncio.timeout(self._config.timeout_s) as lease.timeout:
                data = await self._web.get(address.url, lease, budget)
                await budget.grow(lease, len(data) - lease.bytes)  # what an encoded body was inflated to
                return data
        async with self._free_threads:  # waiting for a thread is not the store's time
            limit_s = self._config.timeout_s if isinstance(address, FilePath) else self._storage.timeout_s
            async with asyncio.timeout(limit_s) as lease.timeout:
                return await self._read_in_thread(address, policy, lease, budget)

    async def _read_in_thread(self, address: FilePath | ObjectAddress, policy: Policy, lease: Lease, budget: Budget) -> bytes:
        loop = asyncio.get_running_loop()
        if isinstance(address, FilePath):
            data = await loop.run_in_executor(self._threads, self._read_file, address.path, policy)
            await budget.grow(lease, len(data))
            return data
        found = await loop.run_in_executor(self._threads, self._objects.open, address)
        await budget.grow(lease, found.meta["size"])
        return bytes(await loop.run_in_executor(self._threads, found.bytes))

    def _read_file(self, path: str, policy: Policy) -> bytes:
        return read_file(local_file(path, policy), self._config.max_bytes)

    async def close(self) -> None:
        """Drop all connections; threads end with what they read."""
        await self._web.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
