"""The circuit breaker: when a host counts as down, and how it comes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.fetch.hosts import Hosts


def test_a_host_is_down_after_so_many_failures_in_a_row() -> None:
    hosts = Hosts(max_failures=3, down_s=60)
    for _ in range(2):
        hosts.failed("a:80", now=0)
    hosts.answered("a:80")
    for _ in range(2):
        hosts.failed("a:80", now=0)
    assert hosts.admits("a:80", now=1)
    assert hosts.failures_left("a:80") == 1
    hosts.failed("a:80", now=1)
    assert hosts.failures_left("a:80") == 0
    assert not hosts.admits("a:80", now=2)
    assert hosts.admits("b:80", now=2)


def test_one_at_a_time_asks_a_host_that_was_down() -> None:
    hosts = Hosts(max_failures=1, down_s=60)
    hosts.failed("a:80", now=0)
    assert not hosts.admits("a:80", now=59)
    assert hosts.admits("a:80", now=60)
    assert not hosts.admits("a:80", now=61), "the first has not come back yet"
    hosts.failed("a:80", now=65)
    assert not hosts.admits("a:80", now=184), "still down: twice the time"
    assert hosts.admits("a:80", now=185)
    hosts.answered("a:80")
    assert hosts.admits("a:80", now=186)
    assert hosts.admits("a:80", now=186)
    hosts.failed("a:80", now=187)
    assert hosts.admits("a:80", now=247), "an answer begins the count anew"


def test_failures_of_what_was_under_way_do_not_lengthen_the_time() -> None:
    hosts = Hosts(max_failures=1, down_s=60)
    for _ in range(20):
        hosts.failed("a:80", now=0)
    assert hosts.admits("a:80", now=60)


def test_the_time_does_not_grow_for_ever() -> None:
    hosts, now = Hosts(max_failures=1, down_s=60), 0.0
    for _ in range(10):
        hosts.failed("a:80", now)
        now += 16 * 60
        assert hosts.admits("a:80", now)


def test_who_answered_once_is_remembered() -> None:
    hosts = Hosts(max_failures=1, down_s=60)
    assert not hosts.has_answered("a:80")
    hosts.answered("a:80")
    hosts.failed("a:80", now=0)
    assert hosts.has_answered("a:80")


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=60), st.integers(1, 4))
def test_a_host_is_never_given_up(events: list[tuple[bool, float]], max_failures: int) -> None:
    """Whatever happened: once the time is over somebody asks, and an answer brings the host back."""
    hosts = Hosts(max_failures, down_s=10)
    now = 0.0
    for answered, seconds in events:
        now += seconds
        if answered:
            hosts.answered("a:80")
        else:
            hosts.failed("a:80", now)
    assert hosts.admits("a:80", now + 160)
    hosts.answered("a:80")
    assert hosts.admits("a:80", now + 160)
