"""What each kind of misbehaviour of a server ends as."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.fetch import FetchResult
from pipeline.schema import Reason
from tests.fetch.fetching import LIMITS, fetch, outcome
from tests.fetch.hostile import BODY, HostileServer

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
