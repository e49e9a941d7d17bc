"""Back-pressure: when downloads may start, when they pause, and that they always go on in the end."""

from __future__ import annotations

import asyncio

from pipeline.fetch.budget import Budget

KIB = 1024


def test_starting_is_limited_by_the_mean_size() -> None:
    budget = Budget(limit_bytes=1024 * KIB, max_ready=100)
    assert budget.admits_another(15)  # 16 of the first guess, 64 KiB, fill it
    assert not budget.admits_another(16)


def test_starting_is_limited_by_results_not_taken() -> None:
    budget = Budget(limit_bytes=1024 * KIB, max_ready=2)
    budget.put()
    assert budget.admits_another(0)
    budget.put()
    assert not budget.admits_another(0)
    budget.taken(0)
    assert budget.admits_another(0)


def test_one_may_always_start() -> None:
    assert Budget(limit_bytes=1, max_ready=1).admits_another(0)


def test_all_but_the_oldest_pause_and_their_clock_stops() -> None:
    async def scenario() -> list[str]:
        budget = Budget(limit_bytes=100, max_ready=10)
        events: list[str] = []

        async def download(name: str, sizes: list[int]) -> None:
            async with asyncio.timeout(0.2) as timeout:
                lease = budget.open(timeout)
                for size in sizes:
                    await budget.grow(lease, size)
                    await asyncio.sleep(0)
                events.append(f"{name} read")
                budget.close(lease, succeeded=True)
                budget.put()

        async def consumer() -> None:
            await asyncio.sleep(0.5)  # longer than any download may take
            events.append("consumer comes")
            budget.taken(200)
            await asyncio.sleep(0.1)
            budget.taken(60)

        await asyncio.gather(download("first", [90, 110]), download("second", [60]), consumer())
        assert (budget.used, budget.ready) == (0, 0)
        return events

    assert asyncio.run(scenario()) == ["first read", "consumer comes", "second read"]


def test_failures_give_their_bytes_back() -> None:
    async def scenario() -> int:
        budget = Budget(limit_bytes=100, max_ready=10)
        async with asyncio.timeout(1) as timeout:
            lease = budget.open(timeout)
            await budget.grow(lease, 70)
            budget.close(lease, succeeded=False)
        return budget.used

    assert asyncio.run(scenario()) == 0
