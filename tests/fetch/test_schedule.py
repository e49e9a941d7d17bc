"""Whose turn it is: every job once, no host above its limit, no host starved."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pipeline.fetch.schedule import Schedule


@dataclass(frozen=True)
class Job:
    """A job, told apart by its number."""

    host: str | None
    number: int


def test_hosts_take_turns() -> None:
    schedule: Schedule[Job] = Schedule(lambda job: 2)
    for number, host in enumerate("aaab"):
        schedule.add(Job(host, number))
    order = [schedule.next() for _ in range(4)]
    assert order == [Job("a", 0), Job("b", 3), Job("a", 1), None]
    schedule.release(Job("a", 0))
    assert schedule.next() == Job("a", 2)
    assert schedule.next() is None


def test_a_limit_that_changes() -> None:
    limits = {"a": 0, "b": 1}
    schedule: Schedule[Job] = Schedule(lambda job: limits[str(job.host)])
    for number, host in enumerate("aab"):
        schedule.add(Job(host, number))
    assert [schedule.next(), schedule.next()] == [Job("b", 2), None]
    limits["a"] = 2
    schedule.review("a")
    schedule.review("a")  # has its turn already
    assert schedule.next() == Job("a", 0)
    limits["a"] = 1
    assert schedule.next() is None, "shrank while its turn waited"
    schedule.release(Job("a", 0))
    assert schedule.next() == Job("a", 1)


@given(
    hosts=st.lists(st.sampled_from(["a", "b", "c", None]), max_size=40),
    limit=st.integers(1, 3),
    choices=st.lists(st.integers(0, 1_000_000), max_size=200),
)
def test_every_job_runs_once_within_the_limits(hosts: list[str | None], limit: int, choices: list[int]) -> None:
    schedule: Schedule[Job] = Schedule(lambda job: limit)
    waiting = [Job(host, number) for number, host in enumerate(hosts)]
    running: list[Job] = []
    done: list[Job] = []
    steps = iter(choices)
    while len(done) < len(hosts):
        choice = next(steps, 0)
        if waiting and choice % 3 == 1:
            schedule.add(waiting.pop())
            continue
        job = schedule.next()
        if job is not None:
            running.append(job)
        elif running:
            done.append(running.pop(choice % len(running)))
            schedule.release(done[-1])
        else:
            assert waiting, "jobs wait although nothing runs"
            schedule.add(waiting.pop())
        busy = Counter(job.host for job in running if job.host is not None)
        assert all(count <= limit for count in busy.values())
    assert sorted(done, key=lambda job: job.number) == [Job(host, number) for number, host in enumerate(hosts)]
    assert schedule.next() is None
