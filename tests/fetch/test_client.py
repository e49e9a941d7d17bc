"""The fetcher against real sockets: what each kind of misbehaviour ends as, and what it does to everybody else."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pipeline.config import FetchConfig, StorageConfig
from pipeline.fetch import Fetcher, FetchRequest, FetchResult, process_fetcher
from pipeline.schema import Reason
from tests.fetch.hostile import BODY, HostileServer

LIMITS = FetchConfig(
    allowed_networks=["127.0.0.1/32"], timeout_s=1.5, connect_timeout_s=1.5, retries=0, max_bytes=100_000, max_redirects=3
)


def fetch(urls: Iterable[str], config: FetchConfig = LIMITS, base: str | None = None) -> list[FetchResult]:
    """The results in the order of the URLs."""
    requests = [FetchRequest(index, url) for index, url in enumerate(urls)]
    with Fetcher(config, StorageConfig(timeout_s=2)) as fetcher:
        results = list(fetcher.fetch(requests, base))
    assert sorted(result.index for result in results) == list(range(len(requests)))
    return sorted(results, key=lambda result: result.index)


def outcome(result: FetchResult) -> bytes | str:
    """The bytes, or the reason."""
    assert (result.data is None) != (result.error is None)
    assert result.seconds >= 0
    return result.data if result.error is None else result.error.reason  # type: ignore[return-value]


# What each path ends as

OUTCOMES: dict[str, bytes | str] = {
    "/ok": BODY,
    "/ok?name=ü &more#fragment": BODY,
    "/chunked": b"abcdefg",
    "/empty": b"",
    "/no-content": b"",
    "/until-close": BODY,
    "/to-ok": BODY,
    "/gzip": BODY,
    "/html": b"<!doctype html><p>no image here",
    "/noai-for-others": BODY,
    "/missing": "http 404",
    "/gone": "http 410",
    "/forbidden": "http 403",
    "/teapot": "http 418",
    "/broken": "http 500",
    "/come-back-much-later": "http 429",
    "/to-metadata": Reason.REFUSED_ADDRESS,
    "/to-private": Reason.REFUSED_ADDRESS,
    "/to-octal": Reason.REFUSED_ADDRESS,
    "/to-loopback-not-allowed": Reason.REFUSED_ADDRESS,
    "/to-file": Reason.REFUSED_SCHEME,
    "/to-s3": Reason.REFUSED_SCHEME,
    "/to-user-info": Reason.BAD_RESPONSE,
    "/to-nowhere": Reason.BAD_RESPONSE,
    "/to-nothing": Reason.BAD_RESPONSE,
    "/loop": Reason.TOO_MANY_REDIRECTS,
    "/hop/1": BODY,
    "/hop/0": Reason.TOO_MANY_REDIRECTS,
    "/length-too-long": Reason.TRUNCATED_DOWNLOAD,
    "/length-huge": Reason.TOO_LARGE,
    "/length-too-short": Reason.BAD_RESPONSE,
    "/length-negative": Reason.BAD_RESPONSE,
    "/lengths-differ": Reason.BAD_RESPONSE,
    "/too-large": Reason.TOO_LARGE,
    "/endless": Reason.TOO_LARGE,
    "/gzip-bomb": Reason.TOO_LARGE,
    "/gzip-cut": Reason.TRUNCATED_DOWNLOAD,
    "/gzip-not": Reason.BAD_RESPONSE,
    "/brotli": Reason.BAD_RESPONSE,
    "/headers-many": Reason.BAD_RESPONSE,
    "/header-long": Reason.BAD_RESPONSE,
    "/not-http": Reason.BAD_RESPONSE,
    "/bad-chunk": Reason.BAD_RESPONSE,
    "/noai": Reason.OPTED_OUT,
    "/noindex-for-us": Reason.OPTED_OUT,
    "/hang": Reason.TIMEOUT,
    "/hang-after-headers": Reason.TIMEOUT,
    "/drip": Reason.TIMEOUT,
    "/drip-headers": Reason.TIMEOUT,
    "/endless-interim": Reason.BAD_RESPONSE,
    "/early-hints": BODY,
    "/reset": Reason.TRUNCATED_DOWNLOAD,
    "/hang-up": Reason.CONNECTION_FAILED,
}


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, FetchResult]]:
    """Every path at once, through one fetcher."""
    with HostileServer() as server:
        server.redirects = {f"/hop/{hop}": f"/hop/{hop + 1}" for hop in range(3)} | {
            "/hop/3": "/ok",
            "/to-loopback-not-allowed": f"http://127.0.0.2:{server.port}/ok",
        }
        yield dict(zip(OUTCOMES, fetch(server.url(path) for path in OUTCOMES), strict=True))


@pytest.mark.parametrize("path", OUTCOMES)
def test_outcome(outcomes: dict[str, FetchResult], path: str) -> None:
    assert outcome(outcomes[path]) == OUTCOMES[path]


def test_nothing_else_in_reasons(outcomes: dict[str, FetchResult]) -> None:
    reasons = {result.error.reason for result in outcomes.values() if result.error is not None}
    assert all(reason in set(Reason) or reason.startswith("http ") for reason in reasons)


def test_addresses_that_do_not_answer() -> None:
    urls = [
        "http://127.0.0.1:9/",
        "https://127.0.0.1:9/",
        "http://no-such-host.invalid/",
        f"http://{'x' * 64}.com/",
        "http://a..b/",
    ]
    reasons = [outcome(result) for result in fetch(urls)]
    assert reasons == [Reason.CONNECTION_FAILED, Reason.CONNECTION_FAILED, Reason.DNS, Reason.DNS, Reason.DNS]


def test_a_name_is_refused_for_its_address(server: HostileServer) -> None:
    only_others = LIMITS.model_copy(update={"allowed_networks": ["127.0.0.2/32"]})
    server.redirects["/to-localhost"] = server.url("/ok", "localhost")
    results = fetch([server.url("/ok", "localhost"), server.url("/to-localhost", "127.0.0.2")], only_others)
    assert [outcome(result) for result in results] == [Reason.REFUSED_ADDRESS, Reason.REFUSED_ADDRESS]
    assert server.hits["/ok"] == 0


def test_a_name_of_an_allowed_address(server: HostileServer) -> None:
    assert [outcome(result) for result in fetch([server.url("/ok", "localhost")])] == [BODY]


def test_settings_that_loosen(server: HostileServer) -> None:
    config = LIMITS.model_copy(update={"respect_opt_out": False, "max_bytes": 300_000})
    results = fetch([server.url("/noai"), server.url("/too-large")], config)
    assert [len(result.data or b"") for result in results] == [len(BODY), 200_000]


def test_what_is_sent(server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    config = LIMITS.model_copy(update={"max_in_flight": 1, "user_agent": "tests/1 (+mailto:me@example.com)"})
    _, request = (outcome(result) for result in fetch([server.url("/cookie"), server.url("/echo")], config))
    assert isinstance(request, bytes)
    sent = dict(line.split(": ", 1) for line in request.decode().split("\r\n")[1:-2])
    assert sent.pop("Host") == f"127.0.0.1:{server.port}"
    assert sent == {
        "User-Agent": "tests/1 (+mailto:me@example.com)",
        "Accept": "image/*,*/*;q=0.8",
        "Accept-Encoding": "identity",
    }


def test_tls_errors(server: HostileServer, tmp_path: Path) -> None:
    assert outcome(fetch([server.url("/ok").replace("http:", "https:")])[0]) == Reason.TLS  # answers in plain HTTP
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    certificate = tmp_path / "self-signed.pem"
    options = (
        f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1 -keyout {certificate}.key"
    )
    subprocess.run(["openssl", *options.split(), "-out", str(certificate)], check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, f"{certificate}.key")
    with HostileServer(context) as secure:
        assert outcome(fetch([secure.url("/ok")])[0]) == Reason.TLS


# Retries


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


# Many at a time


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


# Local files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.jpg").write_bytes(BODY)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "large.jpg").write_bytes(b"x" * 100_001)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    (tmp_path / "out.jpg").symlink_to("/etc/hostname")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "fifo.jpg")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.jpg", BODY),
        ("./folder/../a.jpg", BODY),
        ("link.jpg", BODY),
        ("empty.jpg", b""),
        ("large.jpg", Reason.TOO_LARGE),
        ("missing.jpg", Reason.NOT_FOUND),
        ("a.jpg/b.jpg", Reason.NOT_FOUND),
        ("folder", Reason.REFUSED_PATH),
        ("fifo.jpg", Reason.REFUSED_PATH),
        ("loop.jpg", Reason.REFUSED_PATH),
        ("out.jpg", Reason.REFUSED_PATH),
        ("../a.jpg", Reason.REFUSED_PATH),
        ("/etc/hostname", Reason.REFUSED_PATH),
        ("/dev/zero", Reason.REFUSED_PATH),
        ("x" * 300, Reason.REFUSED_PATH),
    ],
)
def test_local_files(folder: Path, path: str, expected: bytes | str) -> None:
    assert outcome(fetch([path], base=str(folder))[0]) == expected


def test_local_files_by_root(folder: Path) -> None:
    config = LIMITS.model_copy(update={"file_roots": [str(folder)]})
    urls = [str(folder / "a.jpg"), f"file://{folder}/a.jpg", "/etc/hostname", "a.jpg"]
    assert [outcome(result) for result in fetch(urls, config)] == [BODY, BODY, Reason.REFUSED_PATH, Reason.BAD_URL]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(folder: Path) -> None:
    (folder / "a.jpg").chmod(0)
    assert outcome(fetch(["a.jpg"], base=str(folder))[0]) == Reason.ACCESS_DENIED
