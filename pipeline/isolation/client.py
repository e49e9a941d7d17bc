"""A worker's hold on its fork server: started once a process, kept for its life, started again should it die.

Knows nothing of what the processes do.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.isolation.protocol import MESSAGE_BYTES, ForkOrder

logger = logging.getLogger(__name__)

_INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")  # above all, no credentials
_SINGLE_THREADED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",  # starts its threads when it is imported
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "CUDA_VISIBLE_DEVICES": "",
}

_STARTS = 4  # of a fork server for one decoder process, before it is a bug and not a machine short of memory


class _Running(NamedTuple):
    process: subprocess.Popen[bytes]
    socket: socket.socket


class ForkServer:
    """The fork server of this process, whose children decode with `decode` (module:function). Safe to use from threads."""

    def __init__(self, decode: str) -> None:
        self._decode = decode
        self._running: _Running | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start it, if it is not running, without waiting for its imports."""
        with self._lock:
            self._start()

    def fork(self, order: ForkOrder, fds: Sequence[int]) -> int:
        """Fork a decoder process that gets `fds`; returns its process id."""
        with self._lock:
            for _ in range(_STARTS - 1):
                try:
                    return int(self._ask(order.pack(), fds))
                except OSError:  # somebody killed it
                    logger.warning("the decoders' fork server is gone; starting another one")
                    self._stop()
            return int(self._ask(order.pack(), fds))

    def end(self, pid: int) -> int | None:
        """Make sure that a decoder process is dead; returns its wait status, None where nobody knows it."""
        with self._lock:
            try:
                status = self._ask(json.dumps({"end": pid}).encode(), ())
            except OSError:
                self._stop()  # its children died with it
                return None
        return None if status is None else int(status)

    def _ask(self, message: bytes, fds: Sequence[int]) -> Any:
        running = self._start()
        socket.send_fds(running.socket, [message], fds)
        answer = running.socket.recv(MESSAGE_BYTES)
        if not answer:
            raise ConnectionResetError("the decoders' fork server ended; its traceback is in this process's stderr")
        return json.loads(answer)

    def _start(self) -> _Running:
        if self._running is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | _SINGLE_THREADED
            environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)  # noqa: PTH109
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "pipeline.isolation.fork_server", str(theirs.fileno()), self._decode],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # no session: Linux gives each of those as much CPU as all of Ray's workers together
                )
            self._running = _Running(process, ours)
            weakref.finalize(self, _stop, self._running)  # as the interpreter ends, too
        return self._running

    def _stop(self) -> None:
        if self._running is not None:
            _stop(self._running)
            self._running = None


def _stop(running: _Running) -> None:
    running.socket.close()
    running.process.kill()
    running.process.wait()


def fork_server(decode: str) -> ForkServer:
    """The one of this process."""
    return _fork_server(decode, os.getpid())


@functools.cache
def _fork_server(decode: str, pid: int) -> ForkServer:
    """`pid`: a process that was forked from this one must not speak on the same socket."""
    return ForkServer(decode)
