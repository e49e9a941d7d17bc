"""What is frequent in an output: the same bytes under many URLs, and the hosts that most rows failed at.

A tally counts with at most `SIZE` counters, whatever it counts, and two tallies merge into one (Misra and Gries, 1982; Agarwal
et al., "Mergeable summaries", 2012). Its error is known and bounded: each count falls short of the truth by at most `missed`,
and what has no counter occurred at most `missed` times; `missed` is zero as long as everything had a counter, and never more
than a `SIZE`th of what was counted. Knows nothing of files, of Ray, or of how anything is printed. Of URLs only hosts are kept.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc
from yarl import URL

from pipeline.schema import Status

SIZE = 1_000  # counters: 70 KB of hashes a shard, and a list of the worst that people read needs far fewer
MOST_SHOWN = 10

Key = tuple[str, ...]


class Tally(NamedTuple):
    """Counts of the most frequent keys, at most `SIZE` of them."""

    counts: dict[Key, int]  # each at most the true one, and at least the true one less `missed`
    missed: int = 0

    @classmethod
    def of(cls, counts: dict[Key, int], missed: int = 0) -> Self:
        """Keep the largest; each loses what the largest of the others has, so that errors add up to no more than that."""
        if len(counts) <= SIZE:
            return cls(counts, missed)
        lost = sorted(counts.values(), reverse=True)[SIZE]
        return cls({key: count - lost for key, count in counts.items() if count > lost}, missed + lost)

    def __or__(self, other: Tally) -> Tally:
        """The tally of both."""
        return Tally.of(dict(Counter(self.counts) + Counter(other.counts)), self.missed + other.missed)


class Tallies(NamedTuple):
    """What is counted of a shard, or of many."""

    images: Tally = Tally({})  # (sha256,) -> URLs: different ones of a shard; one that two shards have counts twice
    failures: Tally = Tally({})  # (host, reason) -> rows that failed

    def __or__(self, other: Tallies) -> Tallies:
        """The tallies of both."""
        return Tallies(self.images | other.images, self.failures | other.failures)

    def as_json(self) -> dict[str, Any]:
        """For a file's metadata."""
        return {name: {"counts": [[*key, n] for key, n in t.counts.items()], "missed": t.missed} for name, t in self._named()}

    def _named(self) -> Iterable[tuple[str, Tally]]:
        return zip(self._fields, self, strict=True)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """What `as_json` made."""
        tallies = (value[name] for name in cls._fields)
        return cls(*(Tally({tuple(key): n for *key, n in tally["counts"]}, tally["missed"]) for tally in tallies))


class Placeholder(NamedTuple):
    """The same bytes under many URLs."""

    sha256: str
    urls: int  # at least


class WorstHost(NamedTuple):
    """A host at which many rows failed."""

    host: str  # store and bucket, of an object store
    rows: int  # that failed, at least
    reason: str  # the most frequent
    reason_rows: int


def tally(urls: pa.ChunkedArray | None, scores: pa.Table) -> Tallies:
    """Of a shard: its column of URLs, if it has one, beside `status`, `error_message` and `image_sha256` of the same rows."""
    if urls is None:
        return Tallies()
    table = scores.select(["status", "error_message", "image_sha256"]).append_column(
        "url", pa.array(urls.to_pylist(), pa.string())
    )
    return Tallies(_images(table), _failures(table))


def _images(table: pa.Table) -> Tally:
    known = table.select(["image_sha256", "url"]).drop_null()
    grouped = known.group_by("image_sha256").aggregate([("url", "count_distinct")])
    hashes, counts = grouped["image_sha256"].to_pylist(), grouped["url_count_distinct"].to_pylist()
    return Tally.of({(sha256,): count for sha256, count in zip(hashes, counts, strict=True)})


def _failures(table: pa.Table) -> Tally:
    at_host = pc.is_in(table["status"], pa.array([Status.FAILED_TO_DOWNLOAD, Status.FAILED_TO_DECODE]))
    failed = table.filter(at_host).select(["url", "error_message"]).drop_null()
    counts: Counter[Key] = Counter()
    for url, reason in zip(failed["url"].to_pylist(), failed["error_message"].to_pylist(), strict=True):
        host = host_of(url)
        if host is not None:
            counts[host, reason] += 1
    return Tally.of(dict(counts))


def host_of(url: str) -> str | None:
    """The host alone, or `s3://bucket`: no user, path or query, which may hold secrets. None for paths and what is no URL."""
    try:
        parsed = URL(url.strip())
        host = parsed.raw_host
    except ValueError:
        return None
    if not host or not host.isascii() or not host.isprintable():
        return None
    return host.lower() if parsed.scheme in ("http", "https") else f"{parsed.scheme}://{host}"


def placeholders(tallies: Tallies, least_urls: int) -> list[Placeholder]:
    """Hashes of bytes that lie under at least so many URLs, the most frequent first, at most `MOST_SHOWN`."""
    frequent = [Placeholder(key[0], urls) for key, urls in tallies.images.counts.items() if urls >= least_urls]
    return sorted(frequent, key=lambda one: (-one.urls, one.sha256))[:MOST_SHOWN]


def worst_hosts(tallies: Tallies) -> list[WorstHost]:
    """The hosts at which most rows failed, with the main reason of each, at most `MOST_SHOWN`."""
    by_host: dict[str, Counter[str]] = defaultdict(Counter)
    for (host, reason), rows in tallies.failures.counts.items():
        by_host[host][reason] += rows
    worst = [WorstHost(host, reasons.total(), *reasons.most_common(1)[0]) for host, reasons in by_host.items()]
    return sorted(worst, key=lambda one: (-one.rows, one.host))[:MOST_SHOWN]
