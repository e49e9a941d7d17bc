"""A decoder with real faults: does what the first bytes of a file say, or else decodes it. Runs in decoder processes only."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable

import numpy as np

from pipeline.config import ImagesConfig
from pipeline.errors import DecodeError
from pipeline.images import DecodedImage, Pixels, decode_image
from pipeline.schema import Reason

MIB = 1024 * 1024


def _segfault() -> None:
    ctypes.string_at(0)


def _abort() -> None:
    os.abort()


def _exit() -> None:
    os._exit(0)


def _spin() -> None:
    while True:
        pass


def _sleep() -> None:
    time.sleep(3600)


def _deaf() -> None:
    """Hang, with the alarms that should end it blocked: as a library that blocks signals would."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGPROF])
    time.sleep(3600)


def _swallow() -> None:
    """Ask for, and touch, 10 GB."""
    kept = []
    for _ in range(640):
        kept.append(np.ones(16 * MIB, np.uint8))  # noqa: PERF401 kept, not collected


def _swallow_in_c() -> None:
    """The same past Python: a malloc that returns NULL is not looked at, as in a careless library."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    for _ in range(640):
        ctypes.memset(libc.malloc(16 * MIB), 1, 16 * MIB)


def _raise() -> None:
    raise RuntimeError("a bug")


def _lie() -> None:
    raise DecodeError("x" * 200)


FAULTS: dict[bytes, tuple[Callable[[], None], Reason]] = {
    b"SEGFAULT": (_segfault, Reason.DECODER_CRASHED),
    b"ABORT": (_abort, Reason.DECODER_CRASHED),
    b"EXIT": (_exit, Reason.DECODER_CRASHED),
    b"RAISE": (_raise, Reason.DECODER_CRASHED),
    b"LIE": (_lie, Reason.DECODER_CRASHED),
    b"SPIN": (_spin, Reason.DECODER_TIMEOUT),
    b"SLEEP": (_sleep, Reason.DECODER_TIMEOUT),
    b"DEAF": (_deaf, Reason.DECODER_TIMEOUT),
    b"SWALLOW": (_swallow, Reason.TOO_MUCH_MEMORY),
    b"CSWALLOW": (_swallow_in_c, Reason.DECODER_CRASHED),
}


def decode(data: bytes, size: int, config: ImagesConfig, out: Pixels) -> DecodedImage:
    """Fail as the file wants, or decode it."""
    for magic, (fail, _) in FAULTS.items():
        if data.startswith(magic):
            fail()
    if data.startswith(b"ONCE "):  # dies where the file that it names is missing, and makes it
        path = data[5:].partition(b"\n")[0]
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            data = data.partition(b"\n")[2]
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return decode_image(data, size, config, out)
