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
from pipeline.scenes.captions import Claim, describe, word
from pipeline.scenes.negatives import change_one_word, other_scene
from pipeline.scenes.render import render_jpeg
from pipeline.scenes.scene import DEMO, Scene, sample_scene
from pipeline.storage import write_bytes

BUCKET = "capsieve-demo"
MANIFEST = "manifest"
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


class Contents(NamedTuple):
    """All that is put into the bucket."""

    objects: dict[str, bytes]  # by key, the manifest's files left out
    rows: list[Row]  # of the manifest, in its order


def make_contents(addresses: Addresses, n_scenes: int) -> Contents:
    """One row a scene, half of them with s3:// URLs and half with http, and the rows that must fail among them."""
    objects, rows = _broken(addresses)
    for index in range(n_scenes):
        key = f"images/{index:05d}.jpg"
        scene, kind = sample_scene(DEMO, index), KINDS[index % len(KINDS)]
        objects[key] = render_jpeg(scene)
        caption = word(_claim(scene, kind, n_scenes, random.Random(f"demo/{index}")), f"demo/{index}")
        rows.append(Row(addresses.s3(key) if index % 8 < 4 else addresses.http(key), caption, kind, None))
    random.Random(0).shuffle(rows)
    return Contents(objects, rows)


def _claim(scene: Scene, kind: Kind, n_scenes: int, rng: random.Random) -> Claim:
    if kind is Kind.WRONG:
        return other_scene(scene, DEMO, rng, n_scenes)
    claim = describe(scene, rng)
    return change_one_word(claim, scene, rng).claim if kind is Kind.SLIGHTLY_WRONG else claim


def _broken(addresses: Addresses) -> Contents:
    """Rows that fail, each for another reason, and what they need."""
    good = render_jpeg(sample_scene(DEMO, 0))
    objects = {
        "broken/cut.jpg": good[: len(good) // 2],
        "broken/noise.jpg": bytes(range(1, 256)) * 8,
        "broken/page.jpg": b"<!DOCTYPE html><html><body><h1>This image is no longer available</h1></body></html>",
    }
    cases: list[tuple[str | None, str | None, str]] = [
        (addresses.s3("images/missing.jpg"), "a red circle", "no such object"),
        (addresses.http("images/missing.jpg"), "a blue square", "no such page"),
        (addresses.s3("broken/cut.jpg"), "a green star", "half of the file is missing"),
        (addresses.s3("broken/noise.jpg"), "two hearts", "not an image"),
        (addresses.http("broken/page.jpg"), "a yellow cross", "a web page, not an image"),
        (f"http://{addresses.silent}/slow.jpg", "a purple triangle", "a server that never answers"),
        ("http://169.254.169.254/latest/meta-data/logo.png", "three stars", "a cloud's metadata service"),
        ("ftp://example.org/picture.jpg", "an orange heart", "a protocol that is not fetched"),
        (None, "a white circle", "no URL"),
        (addresses.s3("images/00000.jpg"), None, "no caption"),
    ]
    return Contents(objects, [Row(url, caption, Kind.BROKEN, note) for url, caption, note in cases])


def upload(contents: Contents, addresses: Addresses) -> str:
    """Fill the bucket; returns the URL of the manifest's folder. Credentials are taken from the environment."""
    files = dict(contents.objects)
    for index, part in enumerate(_split(contents.rows, MANIFEST_FILES)):
        files[f"{MANIFEST}/part-{index:02d}.parquet"] = manifest_bytes(part)
    with ThreadPoolExecutor(UPLOAD_THREADS) as pool:
        list(pool.map(lambda item: write_bytes(addresses.s3(item[0]), item[1], StorageConfig()), files.items()))
    return addresses.s3(MANIFEST)


def manifest_bytes(rows: Sequence[Row]) -> bytes:
    """The rows as a Parquet file."""
    table = pa.table({name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in Row._fields})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _split(rows: Sequence[Row], parts: int) -> Iterator[Sequence[Row]]:
    for part in range(parts):
        yield rows[len(rows) * part // parts : len(rows) * (part + 1) // parts]
