"""Which hosts answer: a circuit breaker for each, remembered from one chunk to the next.

A host is down after so many connections in a row that failed or got no answer; its rows then fail at once, but for one now
and then that asks again. Pure bookkeeping on a clock that callers hand in; knows nothing of sockets, rows or event loops.
"""

from __future__ import annotations

from dataclasses import dataclass

_MAX_HOSTS = 100_000  # some 200 bytes each
_MAX_DOUBLINGS = 4  # of the time that a host is left alone: each row that asks in vain holds up its chunk for a time-out


@dataclass(slots=True)
class _Host:
    answered: bool = False  # ever
    failures: int = 0  # in a row
    asks_again_at: float = 0.0  # where failures reach the limit
    asked_again: bool = False  # and nothing came of it yet
    in_vain: int = 0  # times that this failed, since the last answer


class Hosts:
    """What is known of each host, by its name and port; the longest known are forgotten first."""

    def __init__(self, max_failures: int, down_s: float) -> None:
        self._max_failures = max_failures
        self._down_s = down_s
        self._hosts: dict[str, _Host] = {}

    def admits(self, name: str, now: float) -> bool:
        """Whether to ask the host. True once for a host that was down for long enough: whoever got it has to try."""
        host = self._hosts.get(name)
        if host is None or host.failures < self._max_failures:
            return True
        if now < host.asks_again_at:
            return False
        host.asked_again = True
        host.asks_again_at = now + self._rest_s(host)  # until the one who asks knows more
        return True

    def has_answered(self, name: str) -> bool:
        """Whether the host ever answered."""
        host = self._hosts.get(name)
        return host is not None and host.answered

    def failures_left(self, name: str) -> int:
        """How many more failures in a row it takes for the host to count as down."""
        host = self._hosts.get(name)
        return self._max_failures - (0 if host is None else min(host.failures, self._max_failures))

    def answered(self, name: str) -> None:
        """Headers came, whatever they said."""
        host = self._host(name)
        host.answered, host.failures, host.asked_again, host.in_vain = True, 0, False, 0

    def failed(self, name: str, now: float) -> None:
        """A connection failed, or no headers came in time."""
        host = self._host(name)
        host.failures += 1
        if host.failures >= self._max_failures:
            host.in_vain += host.asked_again
            host.asked_again = False
            host.asks_again_at = now + self._rest_s(host)

    def _rest_s(self, host: _Host) -> float:
        return self._down_s * float(2 ** min(host.in_vain, _MAX_DOUBLINGS))

    def _host(self, name: str) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) >= _MAX_HOSTS:
                self._hosts.pop(next(iter(self._hosts)))
            host = self._hosts[name] = _Host()
        return host
