"""A real S3 server that dies at a moment of a test's choosing: the one at which a certain request arrives."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer

from pipeline.local_s3 import HOST, LocalS3

PIECE_BYTES = 65_536


class Tripwire:
    """Before a server: passes every byte on until the request comes that is waited for; then the server is killed.

    A client sends the head of a request in one piece, so that it is seen.
    """

    def __init__(self, server: LocalS3) -> None:
        self.server = server
        self.url = ""
        self._trip, self._left = b"", -1  # requests to wait for; below zero: for none, at zero: the server is dead
        self._lock = threading.Lock()

    def arm(self, trip: str, skip: int = 0) -> None:
        """Wait for a request. trip: its method and path, or what they begin with; skip: so many such are let through."""
        with self._lock:
            self._trip, self._left = trip.encode(), skip + 1

    def disarm(self) -> None:
        """Pass everything on, to a server that lives again."""
        with self._lock:
            self._left = -1

    @property
    def tripped(self) -> bool:
        """Whether the request has come."""
        return self._left == 0

    def passes(self, piece: bytes) -> bool:
        """Whether what a client sends goes on to the server; kills that where it is the request."""
        with self._lock:
            if self._left > 0 and piece.startswith(self._trip):
                self._left -= 1
                if not self._left and self.server.pid:
                    os.kill(self.server.pid, signal.SIGKILL)
            return not self.tripped


@contextmanager
def tripwire(server: LocalS3) -> Iterator[Tripwire]:
    """The wire before the server, at its `url`."""
    wire = Tripwire(server)

    class Connection(BaseRequestHandler):
        def handle(self) -> None:
            port = int(server.endpoint_url.rpartition(":")[2])
            with suppress(OSError), socket.create_connection((HOST, port), timeout=60) as upstream:
                answers = threading.Thread(target=_pump, args=(upstream, self.request), daemon=True)
                answers.start()
                while (piece := self.request.recv(PIECE_BYTES)) and wire.passes(piece):
                    upstream.sendall(piece)
                upstream.shutdown(socket.SHUT_RDWR)
                answers.join(10)

    class Wire(ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Wire((HOST, 0), Connection) as listening:
        wire.url = f"http://{HOST}:{listening.server_address[1]}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield wire
        finally:
            listening.shutdown()
            thread.join(5)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(PIECE_BYTES):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_RDWR)
