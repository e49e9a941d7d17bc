"""A program: `python -m pipeline.isolation.fork_server FD MODULE:FUNCTION`. Imports the decoder once, forks processes of it.

Importing torch takes a second and more, forking some milliseconds; and only a process with a single thread may be forked
safely, which a Ray worker is not. Serves the worker at the other end of the socket FD, and ends with it; its children end
with it. Knows nothing of images.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys

from pipeline import images
from pipeline.isolation import child
from pipeline.isolation.protocol import MESSAGE_BYTES, ForkOrder

_MAX_FDS = 253  # of one message, by the kernel


def main(argv: list[str]) -> None:
    """Serve until the worker closes its end, which its death does too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker decides
    module, _, function = argv[1].partition(":")
    decode: child.Decode = getattr(importlib.import_module(module), function)
    images.use_one_thread()
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, all that the imports made
    with socket.socket(fileno=int(argv[0])) as worker:
        serve(worker, decode)


def serve(worker: socket.socket, decode: child.Decode) -> None:
    """Carry out orders, one at a time, each with its answer: fork a decoder process, or end one and tell how it died."""
    while True:
        message, fds, _, _ = socket.recv_fds(worker, MESSAGE_BYTES, _MAX_FDS)
        if not message:
            return
        order = json.loads(message)
        answer = _end(order["end"]) if "end" in order else _fork(ForkOrder.of(order), fds, worker, decode)
        for fd in fds:
            os.close(fd)
        worker.send(json.dumps(answer).encode())


def _fork(order: ForkOrder, fds: list[int], worker: socket.socket, decode: child.Decode) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        worker.close()
        child.run(order, fds, decode, parent)
    return pid


def _end(pid: int) -> int | None:
    """Kill a child, where it lives, and return its wait status; None for what is no child of ours."""
    try:
        os.kill(pid, signal.SIGKILL)  # changes nothing of one that died before: nobody else reaps it
        return os.waitpid(pid, 0)[1]
    except (ProcessLookupError, ChildProcessError):
        return None


if __name__ == "__main__":
    main(sys.argv[1:])
