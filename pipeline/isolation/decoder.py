"""Bytes in, pixels out, decoded in a process of their own, while the caller fetches the next ones.

Owns the slots that images under way lie in, and the verdict on an image whose process died: the process decodes in the order
in which it was asked, so the oldest image without an answer was in its hands. That one is tried once more in a fresh
process (the machine's out-of-memory killer may have chosen it without its fault), first and so alone; those behind it follow.
Knows nothing of rows, or of Ray.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import signal
import socket
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.config import MIB, ImagesConfig
from pipeline.errors import DecodeError
from pipeline.isolation.client import fork_server
from pipeline.isolation.protocol import MESSAGE_BYTES, WALL_FACTOR, ForkOrder, Reply, Request
from pipeline.schema import Reason

logger = logging.getLogger(__name__)

DECODE = "pipeline.images:decode_image"

_SLOTS = 16  # images under way: the process has work while its worker hands on a block (some 30 ms)
_BYTES_UNDER_WAY = 64 * MIB  # of image files; a single larger one goes alone
_SLOT_KEEPS_BYTES = 4 * MIB  # memory of a larger file is given back once it is decoded

T = TypeVar("T")


class Decoded(NamedTuple, Generic[T]):
    """What became of an image. Either `pixels` or `error` is set."""

    token: T  # the caller's own
    pixels: npt.NDArray[np.uint8] | None  # (S, S, 3), a view that is good until the next result is asked for
    width: int  # as displayed
    height: int
    error: DecodeError | None
    seconds: float


@dataclass(slots=True)
class _Job(Generic[T]):
    token: T
    slot: int
    length: int
    died: bool = False  # with it in its hands, a process did


class Decoder(Generic[T]):
    """A decoder process and its slots. A context manager; not for several threads at a time.

    Results come as images are decoded, in the order in which they were submitted.
    """

    def __init__(self, size: int, config: ImagesConfig, decode: str = DECODE) -> None:
        self._order = ForkOrder(size, _SLOTS, config)
        # The process's own alarm should have rung. A socket of Python's with a timeout would cost three system calls a look.
        self._backstop = struct.pack("ll", math.ceil(2 * WALL_FACTOR * config.timeout_s), 0)
        self._server = fork_server(decode)
        self._jobs: deque[_Job[T]] = deque()  # in the order in which they were sent
        self._free = list(range(_SLOTS))
        self._child: tuple[int, socket.socket] | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._server.start()  # imports while the caller fetches
        self._inbox = [self._memfd("image") for _ in range(_SLOTS)]
        self._outbox = self._memfd("pixels")
        shape = (_SLOTS, self._order.size, self._order.size, 3)
        os.ftruncate(self._outbox, int(np.prod(shape)))
        self._pixels = np.frombuffer(mmap.mmap(self._outbox, 0, prot=mmap.PROT_READ), np.uint8).reshape(shape)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._end_child()
        del self._pixels  # unmaps them, unless the caller kept a view
        self._open.close()

    def _memfd(self, name: str) -> int:
        """Memory that no name leads to, that lies in no file system, and that ends with the last process that holds it."""
        fd = os.memfd_create(f"capsieve-{name}")
        self._open.callback(os.close, fd)
        return fd

    def submit(self, token: T, data: bytes) -> Iterator[Decoded[T]]:
        """Have an image decoded. Yields what has come meanwhile, and waits for it where too much is under way.

        The bytes are copied before the last result is yielded. Nothing happens unless the iterator is run to its end.
        """
        while self._jobs and (result := self._next(wait=self._is_full(len(data)))) is not None:
            yield from self._finished(result)
        job = _Job(token, self._free.pop(), len(data))
        os.pwrite(self._inbox[job.slot], data, 0)
        self._jobs.append(job)
        self._send(job)

    def drain(self) -> Iterator[Decoded[T]]:
        """Wait for all that is under way."""
        while self._jobs:
            result = self._next(wait=True)
            if result is not None:
                yield from self._finished(result)

    def _is_full(self, more: int) -> bool:
        return not self._free or sum(job.length for job in self._jobs) + more > _BYTES_UNDER_WAY

    def _finished(self, result: Decoded[T]) -> Iterator[Decoded[T]]:
        """Yield a result of the oldest job; then its slot is free."""
        job = self._jobs.popleft()
        yield result
        if job.length > _SLOT_KEEPS_BYTES:
            os.ftruncate(self._inbox[job.slot], 0)
        self._free.append(job.slot)

    def _next(self, *, wait: bool) -> Decoded[T] | None:
        """The oldest job's result; None where it is not there yet, which happens only without `wait`."""
        while True:
            job, timed_out = self._jobs[0], False
            try:
                message = self._receive(wait=wait)
            except TimeoutError:
                message, timed_out = b"", True
            if message is None:
                return None
            reply = _trusted(message, job.slot)
            if reply is not None:
                error = DecodeError(Reason(reply.reason)) if reply.reason else None
                pixels = None if error else self._pixels[job.slot]
                return Decoded(job.token, pixels, reply.width, reply.height, error, reply.seconds)
            reason = self._verdict(job, timed_out=timed_out)
            if reason is not None:
                return Decoded(job.token, None, 0, 0, DecodeError(reason), 0.0)

    def _receive(self, *, wait: bool) -> bytes | None:
        """The next message of the process, empty where it is dead; None where it says nothing yet. Raises TimeoutError."""
        if self._child is None:
            return b""
        for _ in range(2):
            try:
                return self._child[1].recv(MESSAGE_BYTES, 0 if wait else socket.MSG_DONTWAIT)
            except ConnectionResetError:
                continue  # said once, of requests that it did not read; what it had sent before comes after it
            except BlockingIOError:
                if wait:
                    raise TimeoutError from None
                return None
        return b""

    def _verdict(self, job: _Job[T], *, timed_out: bool) -> Reason | None:
        """End the process that died, or does not answer, with `job` in its hands; None where that is to be tried again."""
        status = self._end_child()
        number = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else 0
        logger.info("a decoder process ended in mid-image, status %s", status)
        timed_out = timed_out or number in (signal.SIGPROF, signal.SIGALRM)
        failed = timed_out or job.died
        job.died = True
        for other in list(self._jobs)[failed:]:
            self._send(other)
        if not failed:
            return None
        return Reason.DECODER_TIMEOUT if timed_out else Reason.DECODER_CRASHED

    def _send(self, job: _Job[T]) -> None:
        if self._child is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, self._backstop)
            with theirs:
                pid = self._server.fork(self._order, [theirs.fileno(), self._outbox, *self._inbox])
            self._child = (pid, ours)
        with suppress(OSError):  # it is dead, which shows when its answer is asked for
            self._child[1].send(Request(job.slot, job.length).pack())

    def _end_child(self) -> int | None:
        if self._child is None:
            return None
        pid, connection = self._child
        self._child = None
        connection.close()
        return self._server.end(pid)


def _trusted(message: bytes, slot: int) -> Reply | None:
    """A reply about the slot that it must be about; None for anything else: its sender is dead, or no longer what we forked."""
    try:
        reply = Reply.unpack(message)
        Reason(reply.reason or Reason.CORRUPT)
    except (struct.error, ValueError):
        return None
    return reply if reply.slot == slot else None
