"""Bytes behind http(s) URLs: one aiohttp session, hops followed by hand, limits enforced while reading.

Every hop and every address goes through the policy. Nothing of us is sent but a User-Agent: no cookies, no credentials, no
proxies from the environment. Knows nothing of retries (though aiohttp asks once more, over a new connection, where one was
closed without an answer), order or other kinds of address.
"""

from __future__ import annotations

import asyncio
import functools
import zlib
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import aiohttp
from aiohttp.connector import Connection
from yarl import URL

from pipeline.config import FetchConfig
from pipeline.errors import FetchError
from pipeline.fetch.budget import Budget, Lease
from pipeline.fetch.failures import TransientError
from pipeline.fetch.policy import Policy, opted_out, redirect_url
from pipeline.fetch.resolver import CheckedResolver, checked_socket
from pipeline.schema import Reason, http_reason

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})
_READ_BUFFER_BYTES = 64 * 1024  # of each connection, beside the body's own bytes
_MAX_HEADER_BYTES = 16 * 1024  # of one line; security policies get long
_MAX_HEADERS = 128
_MAX_INTERIM = 10
_MAX_INFLATION = 100  # times; a body that is an image hardly shrinks, one that inflates a thousandfold is a bomb
_KEEP_ALIVE_S = 5.0  # of idle connections: each host of the long tail would hold a socket for nothing


class _Response(aiohttp.ClientResponse):
    """A response that interim ones (100 Continue, 103 Early Hints) may precede, but not without end."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Read the headers; raises FetchError where only interim responses come."""
        protocol = connection.protocol
        assert protocol is not None
        read, left = protocol.read, _MAX_INTERIM

        async def read_one() -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise FetchError(Reason.BAD_RESPONSE)
            return await read()

        protocol.read = read_one  # type: ignore[method-assign]  # of this one connection
        try:
            return await super().start(connection)
        finally:
            protocol.read = read  # type: ignore[method-assign]


class WebClient:
    """A session for http(s). Made and closed on the event loop that uses it."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._policy = Policy.of(config, None)
        self._resolver = CheckedResolver(self._policy)
        connector = aiohttp.TCPConnector(
            limit=0,  # the schedule limits, all in all and by host: waiting for the pool would count as connecting
            resolver=self._resolver,
            use_dns_cache=False,  # the resolver's own remembers failures too
            socket_factory=functools.partial(checked_socket, self._policy),
            keepalive_timeout=_KEEP_ALIVE_S,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            response_class=_Response,
            timeout=aiohttp.ClientTimeout(total=None, connect=config.connect_timeout_s, sock_read=config.read_timeout_s),
            headers={
                "User-Agent": config.user_agent,
                "Accept": "image/*,*/*;q=0.8",
                "Accept-Encoding": "identity",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_READ_BUFFER_BYTES,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            max_headers=_MAX_HEADERS,
        )

    async def close(self) -> None:
        """Drop all connections at once."""
        await self._session.close()
        await self._resolver.close()

    async def get(self, url: URL, lease: Lease, budget: Budget) -> bytes:
        """The body that `url` (checked by `policy.locate`) leads to; raises FetchError, aiohttp's or ssl's exceptions."""
        for _ in range(self._config.max_redirects + 1):
            async with self._session.get(url, allow_redirects=False) as response:
                lease.answered = True
                if response.status not in _REDIRECTS:
                    self._judge(response)
                    return await self._body(response, lease, budget)
                location = response.headers.get("Location")
            if location is None:
                raise FetchError(Reason.BAD_RESPONSE)
            url = redirect_url(url, location, self._policy)
        raise FetchError(Reason.TOO_MANY_REDIRECTS)

    def _judge(self, response: aiohttp.ClientResponse) -> None:
        """Raise FetchError for what the status and the headers rule out."""
        if response.status in _MAY_PASS:
            raise TransientError(http_reason(response.status), retry_after_s(response.headers.get("Retry-After")))
        if not 200 <= response.status < 300:
            raise FetchError(http_reason(response.status))
        tags = response.headers.getall("X-Robots-Tag", ())
        if tags and self._config.respect_opt_out and opted_out(tags, self._config.user_agent):
            raise FetchError(Reason.OPTED_OUT)

    async def _body(self, response: aiohttp.ClientResponse, lease: Lease, budget: Budget) -> bytes:
        max_bytes = self._config.max_bytes
        if (response.content_length or 0) > max_bytes:
            raise FetchError(Reason.TOO_LARGE)
        parts: list[bytes] = []
        async for part in response.content.iter_any():
            parts.append(part)
            await budget.grow(lease, len(part))
            if lease.bytes > max_bytes:
                raise FetchError(Reason.TOO_LARGE)
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding in ("", "identity"):
            return body
        # In a thread: up to 100 ms of work, which nobody else should wait for.
        return await asyncio.get_running_loop().run_in_executor(None, decoded_body, body, encoding, max_bytes)


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for (a number or a date); None where it says nothing."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time())
    except (ValueError, OverflowError):
        return None


def decoded_body(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo a content encoding that we did not ask for, never beyond `max_bytes` or `_MAX_INFLATION`; raises FetchError."""
    max_bytes = min(max_bytes, _MAX_INFLATION * len(body) + 1024)
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise FetchError(Reason.BAD_RESPONSE)
    inflater = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # gzip or zlib, by its header
    try:
        plain = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise FetchError(Reason.BAD_RESPONSE) from error
    if len(plain) > max_bytes:
        raise FetchError(Reason.TOO_LARGE)
    if not inflater.eof:
        raise FetchError(Reason.TRUNCATED_DOWNLOAD)
    return plain
