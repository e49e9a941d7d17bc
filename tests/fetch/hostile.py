"""A web server that misbehaves, by path, on real sockets of the loopback. Raw asyncio: a proper server would not let us."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ssl
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

BODY = bytes(range(256)) * 40  # 10,240 bytes

Writer = asyncio.StreamWriter
Handler = Callable[["HostileServer", Writer], Awaitable[None]]


def response(status: str = "200 OK", body: bytes = BODY, *headers: str) -> bytes:
    """A well-formed response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


FIXED: dict[str, bytes] = {
    "/ok": response(),
    "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
    "/early-hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" * 3 + response(),
    "/empty": response(body=b""),
    "/no-content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/missing": response("404 Not Found"),
    "/gone": response("410 Gone"),
    "/forbidden": response("403 Forbidden"),
    "/teapot": response("418 I'm a teapot"),
    "/broken": response("500 Internal Server Error"),
    "/come-back-much-later": response("429 Too Many Requests", BODY, "Retry-After: 86400"),
    "/to-metadata": response("302 Found", b"", "Location: http://169.254.169.254/latest/meta-data/"),
    "/to-private": response("302 Found", b"", "Location: http://10.0.0.1/"),
    "/to-file": response("302 Found", b"", "Location: file:///etc/passwd"),
    "/to-s3": response("302 Found", b"", "Location: s3://bucket/key"),
    "/to-octal": response("302 Found", b"", "Location: http://0177.0.0.1/"),
    "/to-user-info": response("302 Found", b"", "Location: http://me:secret@example.com/"),
    "/to-nowhere": response("302 Found", b"", "Location: http://[/"),
    "/to-nothing": response("302 Found", b""),
    "/to-ok": response("301 Moved Permanently", b"", "Location: ok"),
    "/loop": response("302 Found", b"", "Location: /loop"),
    "/length-too-long": b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + BODY,
    "/length-too-short": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + BODY,
    "/length-huge": b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n" + BODY,
    "/length-negative": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + BODY,
    "/lengths-differ": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "/until-close": b"HTTP/1.1 200 OK\r\n\r\n" + BODY,
    "/too-large": response(body=b"x" * 200_000),
    "/gzip": response("200 OK", gzip.compress(BODY), "Content-Encoding: gzip"),
    "/gzip-bomb": response("200 OK", gzip.compress(bytes(50_000_000)), "Content-Encoding: gzip"),
    "/gzip-cut": response("200 OK", gzip.compress(BODY)[:-20], "Content-Encoding: gzip"),
    "/gzip-not": response("200 OK", BODY, "Content-Encoding: gzip"),
    "/brotli": response("200 OK", BODY, "Content-Encoding: br"),
    "/headers-many": response("200 OK", BODY, *(f"X-{i}: {i}" for i in range(5000))),
    "/header-long": response("200 OK", BODY, "X-Long: " + "x" * 100_000),
    "/not-http": b"220 smtp.example.com ESMTP ready\r\n",
    "/bad-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "/noai": response("200 OK", BODY, "X-Robots-Tag: noai"),
    "/noai-for-others": response("200 OK", BODY, "X-Robots-Tag: otherbot: noai"),
    "/noindex-for-us": response("200 OK", BODY, "X-Robots-Tag: nofollow", "X-Robots-Tag: capsieve: nofollow, noindex"),
    "/html": response("200 OK", b"<!doctype html><p>no image here", "Content-Type: text/html"),
    "/cookie": response("200 OK", BODY, "Set-Cookie: a=b"),
}
# Nothing may follow these; after the others the connection stays open, as a proper server leaves it.
LAST = {
    "/length-too-long",
    "/length-too-short",
    "/length-huge",
    "/length-negative",
    "/lengths-differ",
    "/until-close",
    "/not-http",
    "/bad-chunk",
}


async def _hang(_: HostileServer, writer: Writer) -> None:
    await asyncio.sleep(60)


async def _hang_after_headers(_: HostileServer, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10240\r\n\r\n")
    await asyncio.sleep(60)


async def _drip(_: HostileServer, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10240\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def _drip_headers(_: HostileServer, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: x\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def _endless(_: HostileServer, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def _endless_interim(_: HostileServer, writer: Writer) -> None:
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
        await writer.drain()
        await asyncio.sleep(0.01)


async def _reset(_: HostileServer, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10240\r\n\r\n" + BODY[:5000])
    await writer.drain()
    writer.transport.abort()


async def _hang_up(_: HostileServer, writer: Writer) -> None:
    writer.transport.abort()


async def _busy_once(server: HostileServer, writer: Writer) -> None:
    first = server.hits["/busy-once"] == 1
    writer.write(response("429 Too Many Requests", b"", "Retry-After: 0") if first else response())


async def _rest_once(server: HostileServer, writer: Writer) -> None:
    first = server.hits["/rest-once"] == 1
    writer.write(response("503 Service Unavailable", b"", "Retry-After: 1") if first else response())


async def _cut_once(server: HostileServer, writer: Writer) -> None:
    whole = response()
    writer.write(whole[:5000] if server.hits["/cut-once"] == 1 else whole)


async def _echo(server: HostileServer, writer: Writer) -> None:
    writer.write(response(body=server.last_request))


LIVE: dict[str, Handler] = {
    "/hang": _hang,
    "/hang-after-headers": _hang_after_headers,
    "/drip": _drip,
    "/drip-headers": _drip_headers,
    "/endless": _endless,
    "/endless-interim": _endless_interim,
    "/reset": _reset,
    "/hang-up": _hang_up,
    "/busy-once": _busy_once,
    "/rest-once": _rest_once,
    "/cut-once": _cut_once,
    "/echo": _echo,
}


class HostileServer:
    """The server in a thread of its own, for a `with` block. `redirects` adds paths that lead to given locations."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.hits: Counter[str] = Counter()
        self.asked_at: dict[str, list[float]] = {}  # time.monotonic() of each request, by path
        self.last_request = b""
        self.at_once = 0
        self.most_at_once = 0
        self.port = 0
        self.redirects: dict[str, str] = {}
        self._tls = tls
        self._second: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hostile", daemon=True)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """The URL of a path."""
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            reusable = True
            while reusable and not writer.is_closing():
                first = await reader.readexactly(1)
                if first == b"\x16":  # a TLS handshake
                    writer.write(response("400 Bad Request"))
                    break
                request = first + await reader.readuntil(b"\r\n\r\n")
                path = request.split(b" ")[1].decode().partition("?")[0]
                self.hits[path] += 1
                self.asked_at.setdefault(path, []).append(time.monotonic())
                self.last_request = request
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    reusable = await self._respond(path, writer)
                finally:
                    self.at_once -= 1
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()

    async def _respond(self, path: str, writer: Writer) -> bool:
        """Whether the connection may be used again."""
        if path in LIVE:
            await LIVE[path](self, writer)
        elif path in self.redirects:
            writer.write(response("302 Found", b"", f"Location: {self.redirects[path]}"))
        elif path.startswith("/number/"):
            await asyncio.sleep(0.005)
            writer.write(response(body=path.encode()))
        elif path.startswith("/bytes/"):
            writer.write(response(body=b"x" * int(path.removeprefix("/bytes/").partition("/")[0])))
        else:
            writer.write(FIXED.get(path, response("404 Not Found")))
        return path not in LAST and path not in LIVE

    async def _start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        with contextlib.suppress(OSError):  # only Linux has all of 127.0.0.0/8
            self._second = await asyncio.start_server(self._serve, "127.0.0.2", self.port, ssl=self._tls)
        return server

    async def _stop(self) -> None:
        for server in (self._server, self._second):
            if server is not None:
                server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
