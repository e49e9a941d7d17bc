"""Names -> addresses that the policy lets through, and the sockets that connect to them.

Each name is resolved once and remembered, failures too; every address is checked before aiohttp sees it, and once more in
the socket factory, which no connection can go around. So what was checked is what is connected to: rebinding a name between
check and use changes nothing. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from typing import NamedTuple

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from pipeline.errors import FetchError
from pipeline.fetch.policy import Policy, check_address
from pipeline.schema import Reason

_TTL_S = 300.0  # chunks of a manifest name the same hosts again for minutes
_FAILURE_TTL_S = 60.0
_MAX_NAMES = 20_000  # some 1 KB each

AddrInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[object, ...]]


class _Answer(NamedTuple):
    expires: float  # time.monotonic()
    found: asyncio.Task[list[ResolveResult] | Exception]


class CheckedResolver(AbstractResolver):
    """A cache over aiohttp's resolver (aiodns where installed, else threads) that hands on only addresses the policy allows."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._inner = DefaultResolver()
        self._answers: dict[str, _Answer] = {}

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """Addresses of `host`; raises OSError as getaddrinfo does, FetchError where the policy allows none of them."""
        answer = self._answers.get(host)
        if answer is None or answer.expires < time.monotonic():
            if len(self._answers) >= _MAX_NAMES:
                self._answers.pop(next(iter(self._answers)))
            answer = _Answer(time.monotonic() + _TTL_S, asyncio.create_task(self._look_up(host, family)))
            self._answers[host] = answer
        # Shielded: the lookup serves all who wait for it, and the cache, when one of them gives up.
        found = await asyncio.shield(answer.found)
        if isinstance(found, Exception):
            raise found.with_traceback(None)
        return [{**result, "port": port} for result in found]

    async def _look_up(self, host: str, family: socket.AddressFamily) -> list[ResolveResult] | Exception:
        """Never raises: an exception that nobody waits for any more would be reported as lost."""
        try:
            return self._permitted(await self._inner.resolve(host, 0, family))
        except UnicodeError:  # a label that is empty or longer than 63
            failure: Exception = FetchError(Reason.DNS)
        except (OSError, FetchError) as error:
            failure = error
        if host in self._answers:
            self._answers[host] = self._answers[host]._replace(expires=time.monotonic() + _FAILURE_TTL_S)
        return failure

    def _permitted(self, found: list[ResolveResult]) -> list[ResolveResult]:
        permitted = []
        for result in found:
            try:
                check_address(ipaddress.ip_address(result["host"]), self._policy.allowed_networks)
            except FetchError:
                continue
            permitted.append(result)
        if not permitted:
            raise FetchError(Reason.REFUSED_ADDRESS if found else Reason.DNS)
        return permitted

    async def close(self) -> None:
        """Drop lookups still under way (those in threads end on their own)."""
        tasks = [answer.found for answer in self._answers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._inner.close()


def checked_socket(policy: Policy, info: AddrInfo) -> socket.socket:
    """A socket for `info`, aiohttp's socket factory; raises FetchError for an address that the policy refuses."""
    family, kind, protocol, _, sockaddr = info
    check_address(ipaddress.ip_address(str(sockaddr[0])), policy.allowed_networks)
    return socket.socket(family, kind, protocol)
