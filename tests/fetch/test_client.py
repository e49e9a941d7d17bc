"""The fetcher against real sockets: retries, what a host may cost the others, limits, and how it ends."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.config import StorageConfig
from pipeline.fetch import Fetcher, FetchRequest, process_fetcher
from pipeline.schema import Reason
from tests.fetch.fetching import LIMITS, fetch, outcome
from tests.fetch.hostile import BODY, HostileServer


@pytest.mark.parametrize(
    ("path", "retries", "expected", "hits"),
    [
        ("/busy-once", 1, BODY, 2),
        ("/busy-once", 0, "http 429", 1),
        ("/cut-once", 1, BODY, 2),
        ("/cut-once", 0, Reason.TRUNCATED_DOWNLOAD, 1),
        ("/reset", 2, Reason.TRUNCATED_DOWNLOAD, 3),
        ("/broken", 1, "http 500", 2),
        ("/missing", 3, "http 404", 1),
        ("/noai", 3, Reason.OPTED_OUT, 1),
        ("/too-large", 3, Reason.TOO_LARGE, 1),
        ("/come-back-much-later", 3, "http 429", 1),
    ],
)
def test_what_is_retried(server: HostileServer, path: str, retries: int, expected: bytes | str, hits: int) -> None:
    config = LIMITS.model_copy(update={"retries": retries})
    assert outcome(fetch([server.url(path)], config)[0]) == expected
    assert server.hits[path] == hits


def test_every_request_gets_its_own_bytes(server: HostileServer) -> None:
    paths = [f"/number/{number}" for number in range(300)]
    results = fetch(server.url(path) for path in paths)
    assert [result.data for result in results] == [path.encode() for path in paths]


def test_a_host_that_is_down_is_not_asked_again(server: HostileServer) -> None:
    config = LIMITS.model_copy(update={"timeout_s": 0.5, "host_failures": 3, "retries": 2})
    down = [server.url("/hang", "127.0.0.1")] * 10
    good = [server.url(f"/number/{number}", "localhost") for number in range(20)]
    results = [outcome(result) for result in fetch(down + good, config)]
    assert sorted(results[:10]) == sorted([Reason.TIMEOUT] * 3 + [Reason.HOST_DOWN] * 7)
    assert server.hits["/hang"] == 3, "as many at a time as it takes to be down, and none of them again"
    assert results[10:] == [f"/number/{n}".encode() for n in range(20)]


def test_a_closed_port_is_down_too_and_other_ports_of_its_host_are_not(server: HostileServer) -> None:
    config = LIMITS.model_copy(update={"host_failures": 4})
    results = [outcome(result) for result in fetch([*["http://127.0.0.1:9/"] * 30, server.url("/ok")], config)]
    assert sorted(results[:-1]) == sorted([Reason.CONNECTION_FAILED] * 4 + [Reason.HOST_DOWN] * 26)
    assert results[-1] == BODY


def test_what_is_known_of_hosts_outlives_a_list_and_a_host_comes_back(server: HostileServer) -> None:
    config = LIMITS.model_copy(update={"host_failures": 1, "timeout_s": 0.5, "host_down_s": 3600.0})

    def reasons(fetcher: Fetcher, path: str) -> list[bytes | str]:
        return [outcome(result) for result in fetcher.fetch([FetchRequest(0, server.url(path))])]

    with Fetcher(config, StorageConfig()) as fetcher:
        assert reasons(fetcher, "/hang") == [Reason.TIMEOUT]
        assert reasons(fetcher, "/ok") == [Reason.HOST_DOWN]
    with Fetcher(config.model_copy(update={"host_down_s": 0.0}), StorageConfig()) as fetcher:
        assert reasons(fetcher, "/hang") == [Reason.TIMEOUT]
        assert reasons(fetcher, "/ok") == [BODY]


def test_hosts_that_are_silent_take_no_slots(server: HostileServer) -> None:
    """Two slots, and three downloads that hang for as long as the test lasts."""
    config = LIMITS.model_copy(update={"max_in_flight": 2, "timeout_s": 60.0, "read_timeout_s": 60.0, "max_silent": 3})
    slow = [FetchRequest(index, server.url(path)) for index, path in enumerate(["/hang", "/hang-after-headers", "/hang"])]
    good = [FetchRequest(100 + index, server.url(f"/number/{index}", "localhost")) for index in range(30)]
    with Fetcher(config, StorageConfig()) as fetcher:
        first = [result.index for _, result in zip(good, fetcher.fetch(slow + good), strict=False)]
    assert sorted(first) == [request.index for request in good]


def test_silence_has_a_limit_of_its_own(server: HostileServer) -> None:
    config = LIMITS.model_copy(update={"timeout_s": 60.0, "read_timeout_s": 0.5})
    results = fetch([server.url(path) for path in ("/hang", "/hang-after-headers", "/ok")], config)
    assert [outcome(result) for result in results] == [Reason.TIMEOUT, Reason.TIMEOUT, BODY]


def test_a_host_that_asks_for_rest_is_left_alone_by_all_rows(server: HostileServer) -> None:
    config = LIMITS.model_copy(update={"retries": 1, "max_in_flight": 1, "backoff_s": 0.0})
    results = fetch([server.url("/rest-once"), *(server.url(f"/number/{n}") for n in range(5))], config)
    assert all(result.data for result in results)
    first, second = server.asked_at["/rest-once"]
    assert second - first >= 1
    assert min(server.asked_at["/number/0"]) - first >= 1, "another row of the same host"


def test_a_slow_host_holds_up_nobody(server: HostileServer) -> None:
    slow = [FetchRequest(index, server.url("/hang", "127.0.0.1")) for index in range(20)]
    good = [FetchRequest(100 + index, server.url(f"/number/{index}", "localhost")) for index in range(50)]
    with Fetcher(LIMITS.model_copy(update={"max_per_host": 8}), StorageConfig()) as fetcher:
        first = [result.index for _, result in zip(good, fetcher.fetch(slow + good), strict=False)]
    assert sorted(first) == [request.index for request in good]


def test_the_limit_of_a_host(server: HostileServer) -> None:
    results = fetch((server.url(f"/number/{number}") for number in range(60)), LIMITS.model_copy(update={"max_per_host": 3}))
    assert all(result.data for result in results)
    assert server.most_at_once <= 3


def test_the_limit_of_downloads(server: HostileServer) -> None:
    config = LIMITS.model_copy(update={"max_in_flight": 5})
    results = fetch((server.url(f"/number/{n}", host) for n in range(30) for host in ("127.0.0.1", "localhost")), config)
    assert all(result.data for result in results)
    assert server.most_at_once <= 5


def test_a_consumer_that_stops_taking_stops_the_downloads(server: HostileServer) -> None:
    config = LIMITS.model_copy(update={"max_bytes": 4_000_000, "timeout_s": 30.0})
    requests = [FetchRequest(index, server.url(f"/bytes/2000000/{index}")) for index in range(200)]
    with Fetcher(config, StorageConfig()) as fetcher:
        results = fetcher.fetch(requests)
        next(results)
        asked = -1
        while asked != (asked := sum(server.hits.values())):  # until it comes to rest
            time.sleep(0.3)
        assert asked < 120  # 64 MiB hold 33 of them; before the first has come their size is not known
        assert sum(1 for _ in results) == 199


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("fetch")}


def _wait_for_no_threads_but(before: set[threading.Thread]) -> None:
    for _ in range(100):
        if _threads() <= before:
            return
        time.sleep(0.05)
    raise AssertionError(f"left: {_threads() - before}")


def test_leaving_early_ends_everything(server: HostileServer) -> None:
    before = _threads()
    urls = [server.url("/ok"), *(server.url("/hang", host) for host in ("127.0.0.1", "localhost") for _ in range(20))]
    with Fetcher(LIMITS.model_copy(update={"timeout_s": 60.0}), StorageConfig()) as fetcher:
        results = fetcher.fetch(FetchRequest(index, url) for index, url in enumerate(urls))
        assert next(results).index == 0
        results.close()  # type: ignore[attr-defined]  # a generator
        assert len(list(fetcher.fetch([FetchRequest(0, server.url("/ok"))]))) == 1  # and it can be used again
    _wait_for_no_threads_but(before)


def test_an_exception_of_the_consumer_ends_everything(server: HostileServer) -> None:
    before = _threads()
    requests = [FetchRequest(index, server.url(path)) for index, path in enumerate(["/ok", "/hang", "/drip"])]

    def consume() -> None:
        with Fetcher(LIMITS.model_copy(update={"timeout_s": 60.0}), StorageConfig()) as fetcher:
            for _ in fetcher.fetch(requests):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()
    _wait_for_no_threads_but(before)


def test_a_bug_reaches_the_consumer(server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(_: Exception) -> None:
        raise NotImplementedError

    monkeypatch.setattr("pipeline.fetch.downloads.row_error", buggy)
    with pytest.raises(NotImplementedError):
        fetch([server.url("/missing")])


def test_nothing_to_fetch() -> None:
    assert fetch([]) == []


def test_outside_its_block() -> None:
    with pytest.raises(RuntimeError, match="with"):
        next(Fetcher(LIMITS, StorageConfig()).fetch([]))


def test_the_fetcher_of_a_process_is_one_for_all_calls_of_the_same_settings(server: HostileServer) -> None:
    fetcher = process_fetcher(LIMITS, StorageConfig())
    assert process_fetcher(LIMITS.model_copy(), StorageConfig()) is fetcher
    assert process_fetcher(LIMITS.model_copy(update={"retries": 3}), StorageConfig()) is not fetcher
    for _ in range(2):
        assert [result.data for result in fetcher.fetch([FetchRequest(0, server.url("/ok"))])] == [BODY]
