"""How many bytes of images may be in memory at once, downloads under way and results not yet taken together.

Owns the back-pressure of the fetcher: whether another download may start, and when one under way has to pause. All calls
come from the event loop's thread. Knows nothing of URLs or sockets.
"""

from __future__ import annotations

import asyncio

_FIRST_GUESS_BYTES = 64 * 1024  # the mean image, until some have come
_SMOOTHING = 0.05


class Lease:
    """The bytes that one download has read so far, and its clock."""

    __slots__ = ("bytes", "timeout")

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self.bytes = 0
        self.timeout = timeout


class Budget:
    """A soft limit for starting downloads, from the mean size of late, and a hard one for reading on."""

    def __init__(self, limit_bytes: int, max_ready: int) -> None:
        self.limit_bytes = limit_bytes
        self.max_ready = max_ready
        self.used = 0  # bytes of open leases and of ready results
        self.ready = 0  # results that the consumer has not taken
        self._mean = float(_FIRST_GUESS_BYTES)
        self._open: dict[Lease, None] = {}  # oldest first
        self._room = asyncio.Event()

    def admits_another(self, running: int) -> bool:
        """Whether one more download may start beside `running` ones. The first always may."""
        if not running and not self.ready:
            return True
        return self.ready < self.max_ready and self.used + (running + 1) * self._mean <= self.limit_bytes

    def open(self, timeout: asyncio.Timeout) -> Lease:
        """Count one more download as under way, its time limited by `timeout`."""
        lease = Lease(timeout)
        self._open[lease] = None
        return lease

    async def grow(self, lease: Lease, size: int) -> None:
        """Count `size` more bytes of a download; returns when it may read on. Time spent waiting here is not the host's."""
        lease.bytes += size
        self.used += size
        if not self._must_wait(lease):
            return
        loop = asyncio.get_running_loop()
        deadline = lease.timeout.when()
        left = None if deadline is None else deadline - loop.time()
        lease.timeout.reschedule(None)
        while self._must_wait(lease):
            self._room.clear()
            await self._room.wait()
        lease.timeout.reschedule(None if left is None else loop.time() + left)

    def _must_wait(self, lease: Lease) -> bool:
        """The oldest goes on when nothing is left for the consumer to take: so there is always progress."""
        return self.used > self.limit_bytes and (self.ready > 0 or lease is not next(iter(self._open)))

    def close(self, lease: Lease, *, succeeded: bool) -> None:
        """End a download. If it succeeded, its bytes stay counted until `taken`."""
        del self._open[lease]
        if succeeded:
            self._mean += _SMOOTHING * (lease.bytes - self._mean)
        else:
            self.used -= lease.bytes
        self._room.set()

    def put(self) -> None:
        """One more result waits for the consumer."""
        self.ready += 1

    def taken(self, size: int) -> None:
        """The consumer is done with a result of `size` bytes."""
        self.ready -= 1
        self.used -= size
        self._room.set()
