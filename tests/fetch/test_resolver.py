"""Names: looked up once, checked before anybody connects, failures remembered; a name that changes its mind changes nothing."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterator

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from pipeline.config import FetchConfig
from pipeline.errors import FetchError
from pipeline.fetch.policy import Policy
from pipeline.fetch.resolver import CheckedResolver, checked_socket

LOOPBACK = Policy.of(FetchConfig(allowed_networks=["127.0.0.2/32"]), None)


class FickleResolver(AbstractResolver):
    """The attacker's name server: another answer each time."""

    answers: Iterator[list[str]] = iter(())
    lookups = 0

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        FickleResolver.lookups += 1
        await asyncio.sleep(0.01)
        found = next(self.answers, [])
        if not found:
            raise OSError("no answer")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=6, flags=0) for address in found
        ]

    async def close(self) -> None:
        pass


def resolve(monkeypatch: pytest.MonkeyPatch, *answers: list[str], times: int, at_once: bool = False) -> list[object]:
    """What so many lookups of one name give: addresses, or the exception."""
    monkeypatch.setattr(FickleResolver, "answers", iter(answers))
    monkeypatch.setattr(FickleResolver, "lookups", 0)
    monkeypatch.setattr("pipeline.fetch.resolver.DefaultResolver", FickleResolver)

    async def scenario() -> list[object]:
        resolver = CheckedResolver(LOOPBACK)

        async def one() -> object:
            try:
                return [result["host"] for result in await resolver.resolve("example.com", 80)]
            except (FetchError, OSError) as error:
                return str(error)

        results = await asyncio.gather(*(one() for _ in range(times))) if at_once else [await one() for _ in range(times)]
        await resolver.close()
        return results

    return asyncio.run(scenario())


def test_a_name_that_is_bound_to_another_address_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(monkeypatch, ["8.8.8.8"], ["169.254.169.254"], times=3) == [["8.8.8.8"]] * 3
    assert FickleResolver.lookups == 1


def test_only_addresses_that_may_be_connected_to_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(monkeypatch, ["10.0.0.1", "8.8.8.8", "127.0.0.2", "127.0.0.1"], times=1) == [["8.8.8.8", "127.0.0.2"]]
    assert resolve(monkeypatch, ["10.0.0.1", "169.254.169.254"], ["8.8.8.8"], times=2) == ["refused address"] * 2


def test_many_who_ask_at_once_and_failures_share_one_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(monkeypatch, ["8.8.8.8"], times=50, at_once=True) == [["8.8.8.8"]] * 50
    assert FickleResolver.lookups == 1
    assert resolve(monkeypatch, [], ["8.8.8.8"], times=3) == ["no answer"] * 3
    assert FickleResolver.lookups == 1


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.0.0.1"])
def test_no_socket_is_made_for_an_address_that_is_refused(address: str) -> None:
    ipaddress.ip_address(address)
    with pytest.raises(FetchError, match="refused address"):
        checked_socket(LOOPBACK, (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)))
