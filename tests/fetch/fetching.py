"""One way to fetch a list of URLs in a test, and to say what became of each."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.config import FetchConfig, StorageConfig
from pipeline.fetch import Fetcher, FetchRequest, FetchResult

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
