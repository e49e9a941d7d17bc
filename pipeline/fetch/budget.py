"""How much may be under way at once: bytes of images in memory, and downloads that are alive.

Owns the back-pressure of the fetcher: whether another download may start, and when one under way has to pause. A download
whose host has been silent for a while gives its place to another one, since all it costs is a socket: hosts that hang take
nothing from those that answer. All calls come from the event loop's thread. Knows nothing of URLs or sockets.
"""

from __future__ import annotations

import asyncio

_FIRST_GUESS_BYTES = 64 * 1024  # the mean image, until some have come
_SMOOTHING = 0.05
_HUGE = 16  # times the mean
_MAX_HUGE = 2  # read at a time: endless bodies would have the line and the CPU to themselves


class Lease:
    """One download: the bytes that it has read so far, and its clock."""

    __slots__ = ("answered", "bytes", "may_fall_silent", "number", "paused", "seen", "silent", "timeout")

    def __init__(self, number: int, *, may_fall_silent: bool) -> None:
        self.number = number  # younger ones have larger ones
        self.bytes = 0
        self.timeout: asyncio.Timeout | None = None  # whoever reads sets it
        self.answered = False  # headers have come
        self.may_fall_silent = may_fall_silent
        self.paused = False  # by us
        self.seen: int | None = None  # bytes, at the last sweep
        self.silent = False


class Budget:
    """A soft limit for starting downloads, from the mean size of late, and a hard one for reading on."""

    def __init__(self, limit_bytes: int, max_ready: int, max_running: int, max_silent: int) -> None:
        self.limit_bytes = limit_bytes
        self.max_ready = max_ready
        self.used = 0  # bytes of open leases and of ready results
        self.ready = 0  # results that the consumer has not taken
        self._max_running = max_running
        self._max_silent = max_silent
        self._silent = 0
        self._mean = float(_FIRST_GUESS_BYTES)
        self._opened = 0
        self._open: dict[Lease, None] = {}  # oldest first
        self._huge: set[Lease] = set()
        self._room = asyncio.Event()

    def admits_another(self) -> bool:
        """Whether one more download may start. The first always may."""
        running = len(self._open) - min(self._silent, self._max_silent)
        if not running and not self.ready:
            return True
        return (
            running < self._max_running
            and self.ready < self.max_ready
            and self.used + (running + 1) * self._mean <= self.limit_bytes
        )

    def open(self, *, may_fall_silent: bool = True) -> Lease:
        """Count one more download as under way."""
        self._opened += 1
        lease = Lease(self._opened, may_fall_silent=may_fall_silent)
        self._open[lease] = None
        return lease

    def sweep(self) -> bool:
        """Mark the downloads that nothing came for since the last call as silent, and the others not; True if any changed."""
        changed = False
        for lease in self._open:
            silent = lease.may_fall_silent and not lease.paused and lease.seen == lease.bytes
            lease.seen = lease.bytes
            if silent is not lease.silent:
                lease.silent = silent
                self._silent += 1 if silent else -1
                changed = True
        if changed:
            self._room.set()
        return changed

    async def grow(self, lease: Lease, size: int) -> None:
        """Count `size` more bytes of a download; returns when it may read on. Time spent waiting here is not the host's."""
        lease.bytes += size
        self.used += size
        if lease.bytes > _HUGE * self._mean:
            self._huge.add(lease)
        if not self._must_wait(lease):
            return
        loop = asyncio.get_running_loop()
        deadline = lease.timeout.when() if lease.timeout is not None else None
        left = None if deadline is None else deadline - loop.time()
        if lease.timeout is not None:
            lease.timeout.reschedule(None)
        lease.paused = True
        while self._must_wait(lease):
            self._room.clear()
            await self._room.wait()
        lease.paused = False
        lease.seen = None
        if lease.timeout is not None:
            lease.timeout.reschedule(None if left is None else loop.time() + left)

    def _must_wait(self, lease: Lease) -> bool:
        """The oldest goes on when nothing is left for the consumer to take: so there is always progress.

        Of the huge ones only the oldest few do.
        """
        if lease in self._huge and sum(other.number < lease.number and not other.silent for other in self._huge) >= _MAX_HUGE:
            return True
        if self.used <= self.limit_bytes:
            return False
        return self.ready > 0 or lease is not next((one for one in self._open if not one.silent), lease)

    def close(self, lease: Lease, *, succeeded: bool) -> None:
        """End a download. If it succeeded, its bytes stay counted until `taken`."""
        del self._open[lease]
        self._huge.discard(lease)
        self._silent -= lease.silent
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
