"""What is frequent: exact while everything has a counter, within the bound it states otherwise, whatever the order."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import tallies
from pipeline.tallies import Placeholder, Tallies, Tally, WorstHost, host_of, placeholders, tally, worst_hosts


def scores_of(*rows: tuple[str, str | None, str | None]) -> pa.Table:
    """Rows of (status, error_message, image_sha256)."""
    columns = list(zip(*rows, strict=True))
    names = ("status", "error_message", "image_sha256")
    return pa.table({name: pa.array(values, pa.string()) for name, values in zip(names, columns, strict=True)})


def urls_of(*urls: str | None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(urls, pa.string())])


def test_the_same_bytes_under_many_urls() -> None:
    scores = scores_of(
        *[("success", None, "a")] * 3,
        ("failed_to_decode", "html, not an image", "b"),
        ("failed_to_decode", "html, not an image", "b"),
        ("success", None, "c"),
        ("failed_to_download", "timeout", None),
        ("success", None, "b"),
    )
    found = tally(urls_of("u1", "u2", "u2", "u3", "u4", "u5", "u6", None), scores)
    assert found.images == Tally({("a",): 2, ("b",): 2, ("c",): 1}), "different URLs of each; rows without one do not count"
    assert placeholders(found, least_urls=2) == [Placeholder("a", 2), Placeholder("b", 2)]
    assert placeholders(found | found, least_urls=4) == [Placeholder("a", 4), Placeholder("b", 4)]


def test_the_hosts_that_most_rows_failed_at() -> None:
    rows: list[tuple[str, str, str | None, str | None]] = [
        ("http://a.example/1?secret=x", "failed_to_download", "http 404", None),
        ("http://A.example:8080/2", "failed_to_download", "http 404", None),
        ("https://a.example/3", "failed_to_decode", "truncated", "h"),
        ("https://b.example/", "failed_to_download", "dns", None),
        ("s3://bucket/key", "failed_to_download", "access denied", None),
        ("s3://bucket/key2", "failed_to_download", "access denied", None),
        ("images/relative.jpg", "failed_to_download", "not found", None),
        ("https://c.example/", "success", None, "h"),
        ("http://[/", "invalid_row", "malformed url", None),
    ]
    found = tally(urls_of(*(row[0] for row in rows)), scores_of(*(row[1:] for row in rows)))
    assert worst_hosts(found) == [
        WorstHost("a.example", 3, "http 404", 2),
        WorstHost("s3://bucket", 2, "access denied", 2),
        WorstHost("b.example", 1, "dns", 1),
    ]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://me:secret@Example.com:80/a?b#c", "example.com"),
        ("https://münchen.de/", "xn--mnchen-3ya.de"),
        ("http://[::1]/", "::1"),
        ("gs://bucket/a", "gs://bucket"),
        ("/etc/passwd", None),
        ("a.jpg", None),
        ("", None),
        ("http://[/", None),
        ("http://a\x1b[31m/", None),
    ],
)
def test_hosts_and_nothing_else_of_a_url(url: str, host: str | None) -> None:
    assert host_of(url) == host


@given(st.text())
def test_any_text_has_a_printable_host_or_none(url: str) -> None:
    host = host_of(url)
    assert host is None or (host.isascii() and host.isprintable() and "@" not in host)


def test_a_manifest_without_urls_is_not_tallied() -> None:
    assert tally(None, scores_of(("success", None, "a"))) == Tallies()


streams = st.lists(st.lists(st.integers(0, 30), max_size=60), min_size=1, max_size=5)


@given(streams, st.integers(1, 8))
def test_the_error_is_within_the_bound(shards: list[list[int]], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tallies, "SIZE", size)
        total = Tally({})
        for shard in shards:
            total |= Tally.of({(str(number),): count for number, count in Counter(shard).items()})
        truth = Counter(itertools.chain.from_iterable(shards))
        assert len(total.counts) <= size
        assert total.missed <= truth.total() / (size + 1)
        for number, count in truth.items():
            kept = total.counts.get((str(number),), 0)
            assert kept <= count <= kept + total.missed


def test_as_json_and_back() -> None:
    found = Tallies(Tally({("a" * 64,): 3}, 1), Tally({("a.example", "http 404"): 2}))
    as_json: dict[str, Any] = json.loads(json.dumps(found.as_json()))
    assert Tallies.from_json(as_json) == found
