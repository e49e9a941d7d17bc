"""A decoder process: takes images from its slots, leaves pixels or a reason there, until it is told to end, or dies of one.

Owns the limits that it lives under; the kernel enforces them, in the middle of any C library. Knows nothing of retries or of
what decoding is.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from pipeline.config import ImagesConfig
from pipeline.errors import DecodeError
from pipeline.isolation.protocol import MESSAGE_BYTES, WALL_FACTOR, ForkOrder, Reply, Request
from pipeline.schema import Reason

Pixels = npt.NDArray[np.uint8]
Decode = Callable[[bytes, int, ImagesConfig, Pixels], tuple[Pixels, int, int]]
"""Like `images.decode_image`: the last argument is where the pixels are to be."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def run(order: ForkOrder, fds: Sequence[int], decode: Decode, parent: int) -> NoReturn:
    """Be the decoder process, forked by process `parent`. `fds`: socket, memfd of pixels, memfd of each slot's bytes."""
    try:
        _live_under_limits(order.images, parent)
        shape = (order.slots, order.size, order.size, 3)
        pixels = np.frombuffer(mmap.mmap(fds[1], 0), np.uint8).reshape(shape)
        with socket.socket(fileno=fds[0]) as worker:
            while message := worker.recv(MESSAGE_BYTES):
                request = Request.unpack(message)
                worker.send(_decode(request, fds[2 + request.slot], pixels[request.slot], decode, order).pack())
        os._exit(0)
    finally:
        os._exit(1)  # whatever happened: nothing of the fork server's may run here


def _decode(request: Request, source: int, pixels: Pixels, decode: Decode, order: ForkOrder) -> Reply:
    """Decode one image against both clocks: that of the CPU, and a generous one of the wall."""
    began = time.perf_counter()
    signal.setitimer(signal.ITIMER_PROF, order.images.timeout_s)
    signal.setitimer(signal.ITIMER_REAL, order.images.timeout_s * WALL_FACTOR)
    width = height = 0
    reason = ""
    try:
        _, width, height = decode(os.pread(source, request.length, 0), order.size, order.images, pixels)
    except DecodeError as error:
        reason = error.reason
    except MemoryError:
        reason = Reason.TOO_MUCH_MEMORY
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return Reply(request.slot, width, height, time.perf_counter() - began, reason)


def _live_under_limits(config: ImagesConfig, parent: int) -> None:
    """No core files, no files written, no more memory than allowed, no new privileges, no output; death with the parent."""
    libc: Any = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked to be told
        os._exit(0)
    memory = _private_memory() + config.max_memory_bytes
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # what C libraries think of hostile files is not for the logs
        os.dup2(nothing, stream)


def _private_memory() -> int:
    """Bytes that count against RLIMIT_DATA already: what the imports took."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
