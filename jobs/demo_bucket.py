"""What the demo's bucket holds: rendered scenes, a manifest of good and bad captions, and rows that must fail.

Everything is a function of the number of scenes, so two runs show the same. Knows nothing of scoring or of showing.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import StorageConfig
from pipeline.scenes.captions import describe, word
from pipeline.scenes.negatives import change_one_word, other_scene
from pipeline.scenes.render import to_jpeg
from pipeline.scenes.scene import DEMO, sample_scene
from pipeline.storage import write_bytes

BUCKET = "capsieve-demo"
MANIFEST_FILES = 4
UPLOAD_THREADS = 8


class Kind(StrEnum):
    """The demo's ground truth: column `kind`."""

    GOOD = "good"
    WRONG = "wrong"  # another picture's caption
    SLIGHTLY_WRONG = "slightly wrong"  # one word changed
    BROKEN = "must fail"


KINDS = (Kind.GOOD, Kind.WRONG, Kind.GOOD, Kind.SLIGHTLY_WRONG)  # in turn


class Row(NamedTuple):
    """A row of the manifest; the fields are its columns."""

    url: str | None
    caption: str | None
    kind: str
    note: str | None  # of rows that must fail: what is wrong


class Addresses(NamedTuple):
    """Where things of the demo are."""

    endpoint: str  # of the S3 server, which is also a web server
    silent: str  # host:port that takes connections and never answers

    def s3(self, key: str) -> str:
        """The object as s3:// URL."""
        return f"s3://{BUCKET}/{key}"

    def http(self, key: str) -> str:
        """The object as plain http URL."""
        return f"{self.endpoint}/{BUCKET}/{key}"


def fill(addresses: Addresses, n_scenes: int) -> str:
    """Upload pictures and manifest; returns the URL of the manifest's folder. The environment must hold the credentials."""
    rows: list[Row] = []
    with ThreadPoolExecutor(UPLOAD_THREADS) as pool:
        rows += pool.map(lambda index: _scene_row(addresses, index, n_scenes), range(n_scenes))
    rows += broken_rows(addresses)
    random.Random(0).shuffle(rows)  # noqa: S311
    for index, part in enumerate(_split(rows, MANIFEST_FILES)):
        _upload(addresses.s3(f"manifest/part-{index:02d}.parquet"), manifest_bytes(part))
    return addresses.s3("manifest")


def _scene_row(addresses: Addresses, index: int, n_scenes: int) -> Row:
    """Upload a picture; half of them are named by s3:// URLs, half by http."""
    scene, key = sample_scene(DEMO, index), f"images/{index:05d}.jpg"
    _upload(addresses.s3(key), to_jpeg(scene))
    kind = KINDS[index % len(KINDS)]
    rng = random.Random(f"demo/{index}")
    claim = describe(scene, rng)
    if kind is Kind.WRONG:
        claim = other_scene(scene, DEMO, rng, n_scenes)
    elif kind is Kind.SLIGHTLY_WRONG:
        claim = change_one_word(claim, scene, rng).claim
    url = addresses.s3(key) if index % 8 < 4 else addresses.http(key)
    return Row(url, word(claim, f"demo/{index}"), kind, None)


def broken_rows(addresses: Addresses) -> list[Row]:
    """Rows that fail, each for another reason; uploads what they need."""
    good = to_jpeg(sample_scene(DEMO, 0))
    page = b"<!DOCTYPE html><html><body><h1>This image is no longer available</h1></body></html>"
    for key, data in {"broken/cut.jpg": good[: len(good) // 2], "broken/noise.jpg": bytes(range(1, 256)) * 8, "broken/page.jpg": page}.items():
        _upload(addresses.s3(key), data)
    cases: list[tuple[str | None, str | None, str]] = [
        (addresses.s3("images/missing.jpg"), "a red circle", "no such object"),
        (addresses.http("images/missing.jpg"), "a blue square", "no such page"),
        (addresses.s3("broken/cut.jpg"), "a green star", "the second half of the file is missing"),
        (addresses.s3("broken/noise.jpg"), "two hearts", "not an image"),
        (addresses.http("broken/page.jpg"), "a yellow cross", "a web page instead of an image"),
        (f"http://{addresses.silent}/slow.jpg", "a purple triangle", "a server that never answers"),
        ("http://169.254.169.254/latest/meta-data/logo.png", "three stars", "a cloud's metadata service: private"),
        ("ftp://example.org/picture.jpg", "an orange heart", "an address that is not fetched"),
        (None, "a white circle", "no URL"),
        (addresses.s3("images/00000.jpg"), None, "no caption"),
    ]
    return [Row(url, caption, Kind.BROKEN, note) for url, caption, note in cases]


def manifest_bytes(rows: Sequence[Row]) -> bytes:
    """The rows as a Parquet file."""
    table = pa.table({name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in Row._fields})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _split(rows: Sequence[Row], parts: int) -> Iterator[Sequence[Row]]:
    for part in range(parts):
        yield rows[len(rows) * part // parts : len(rows) * (part + 1) // parts]


def _upload(url: str, data: bytes) -> None:
    write_bytes(url, data, StorageConfig())
