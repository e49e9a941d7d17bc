"""Back-pressure: when downloads may start, when they pause, and that they always go on in the end."""

from __future__ import annotations

import asyncio

from pipeline.fetch.budget import Budget, Lease

KIB = 1024


def budget_of(limit_bytes: int = 1024 * KIB, max_ready: int = 100, max_running: int = 1000, max_silent: int = 0) -> Budget:
    return Budget(limit_bytes, max_ready, max_running, max_silent)


def test_starting_is_limited_by_the_mean_size() -> None:
    budget = budget_of(limit_bytes=1024 * KIB)
    for _ in range(16):  # 16 of the first guess, 64 KiB, fill it
        assert budget.admits_another()
        budget.open()
    assert not budget.admits_another()


def test_starting_is_limited_by_results_not_taken() -> None:
    budget = budget_of(max_ready=2)
    budget.put()
    assert budget.admits_another()
    budget.put()
    assert not budget.admits_another()
    budget.taken(0)
    assert budget.admits_another()


def test_one_may_always_start() -> None:
    assert budget_of(limit_bytes=1, max_ready=1).admits_another()


def test_silent_downloads_give_their_places_away_and_take_them_back() -> None:
    async def scenario() -> None:
        budget = budget_of(max_running=2, max_silent=1)
        silent, busy = budget.open(), budget.open()
        assert not budget.sweep(), "they have only just begun"
        await budget.grow(busy, 10)
        assert budget.sweep()
        assert budget.admits_another()
        other = budget.open()
        budget.sweep()
        budget.sweep()
        assert not budget.admits_another(), "all three are silent, and two count"
        budget.close(other, succeeded=False)
        await budget.grow(busy, 10)
        await budget.grow(silent, 10)
        assert budget.sweep()
        assert not budget.admits_another(), "both are back"
        budget.close(silent, succeeded=False)
        assert budget.admits_another()

    asyncio.run(scenario())


def test_readers_without_a_host_are_never_silent() -> None:
    budget = budget_of(max_running=1, max_silent=1)
    budget.open(may_fall_silent=False)
    budget.sweep()
    assert not budget.sweep()
    assert not budget.admits_another()


async def _download(budget: Budget, name: str, sizes: list[int], events: list[str], lease: Lease) -> None:
    async with asyncio.timeout(0.2) as lease.timeout:
        for size in sizes:
            await budget.grow(lease, size)
            await asyncio.sleep(0)
        events.append(f"{name} read")
        budget.close(lease, succeeded=True)
        budget.put()


def test_all_but_the_oldest_pause_and_their_clock_stops() -> None:
    async def scenario() -> list[str]:
        budget = budget_of(limit_bytes=100, max_ready=10)
        events: list[str] = []

        async def consumer() -> None:
            await asyncio.sleep(0.5)  # longer than any download may take
            events.append("consumer comes")
            budget.taken(200)
            await asyncio.sleep(0.1)
            budget.taken(60)

        first, second = budget.open(), budget.open()
        await asyncio.gather(
            _download(budget, "first", [90, 110], events, first), _download(budget, "second", [60], events, second), consumer()
        )
        assert (budget.used, budget.ready) == (0, 0)
        return events

    assert asyncio.run(scenario()) == ["first read", "consumer comes", "second read"]


def test_a_silent_one_holds_up_nobody_even_if_it_is_the_oldest() -> None:
    async def scenario() -> list[str]:
        budget = budget_of(limit_bytes=100, max_ready=10, max_silent=1)
        events: list[str] = []
        silent, other = budget.open(), budget.open()
        await budget.grow(silent, 60)
        task = asyncio.create_task(_download(budget, "other", [60, 10], events, other))
        await asyncio.sleep(0.05)
        assert events == [], "no room, and the oldest might still come"
        budget.sweep()
        budget.sweep()
        await asyncio.wait_for(task, 5)
        return events

    assert asyncio.run(scenario()) == ["other read"]


def test_huge_ones_are_read_two_at_a_time() -> None:
    async def scenario() -> list[str]:
        budget = budget_of(limit_bytes=100 * 1024 * KIB)
        events: list[str] = []
        leases = [budget.open() for _ in range(4)]
        sizes = [KIB, 2048 * KIB, KIB]
        for number, lease in enumerate(leases[:2]):
            await budget.grow(lease, 2048 * KIB)  # stays under way
            events.append(f"huge {number} began")
        third = asyncio.create_task(_download(budget, "third", sizes, events, leases[2]))
        await _download(budget, "small", [KIB], events, leases[3])
        await asyncio.sleep(0.3)  # longer than any download may take
        budget.close(leases[0], succeeded=False)
        await asyncio.wait_for(third, 5)
        return events

    assert asyncio.run(scenario()) == ["huge 0 began", "huge 1 began", "small read", "third read"]


def test_failures_give_their_bytes_back() -> None:
    async def scenario() -> int:
        budget = budget_of(limit_bytes=100)
        lease = budget.open()
        await budget.grow(lease, 70)
        budget.close(lease, succeeded=False)
        return budget.used

    assert asyncio.run(scenario()) == 0
