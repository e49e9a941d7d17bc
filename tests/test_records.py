"""Which rows name the same image, which have none, which have no caption."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.columns import Columns
from pipeline.records import plan_images

URLS = Columns(url="url", caption="caption", image=None, key=None)


def rows_of(**columns: list[Any]) -> pa.Table:
    table = pa.table(columns)
    return table.append_column("row", pa.array(range(table.num_rows), pa.int64()))


def test_rows_of_one_url_become_one_image() -> None:
    records = plan_images(rows_of(url=["u", "v", "u"], caption=["a", "b", "c"]), URLS)
    assert [(r.url, r.rows, r.captions) for r in records] == [("u", [0, 2], [["a"], ["c"]]), ("v", [1], [["b"]])]


def test_rows_of_one_url_that_expect_other_bytes_are_images_of_their_own() -> None:
    columns = Columns(url="url", caption="caption", image=None, key=None, sha256="hash")
    records = plan_images(rows_of(url=["u"] * 5, caption=list("abcde"), hash=["AB", None, "ab ", "cd", "  "]), columns)
    assert [(r.expected_sha256, r.rows) for r in records] == [("ab", [0, 2]), (None, [1, 4]), ("cd", [3])]


@pytest.mark.parametrize(
    ("url", "caption", "reason"),
    [
        (None, "a", "no image"),
        ("", "a", "no image"),
        ("  ", "a", "no image"),
        ("u", None, "no caption"),
        ("u", "", "no caption"),
        ("u", " \n\t", "no caption"),
    ],
)
def test_rows_without_image_or_caption_are_invalid(url: str | None, caption: str | None, reason: str) -> None:
    rows = rows_of(url=pa.array([url], pa.string()), caption=pa.array([caption], pa.string()))  # type: ignore[arg-type]
    (record,) = plan_images(rows, URLS)
    assert (record.status, record.error_message, record.url) == ("invalid_row", reason, None)


def test_an_invalid_row_does_not_spoil_others_of_its_image() -> None:
    records = plan_images(rows_of(url=["u", "u"], caption=[None, "b"]), URLS)
    assert [(r.status, r.rows) for r in records] == [("invalid_row", [0]), ("success", [1])]


def test_bytes_in_the_row_come_before_urls() -> None:
    columns = Columns(url="url", caption="caption", image="image", key=None)
    image = pa.array([{"bytes": b"x", "path": None}, {"bytes": None, "path": "p.png"}, None])
    records = plan_images(rows_of(url=[None, None, "u"], caption=["a", "b", "c"], image=image), columns)  # type: ignore[arg-type]
    assert [(r.data, r.url) for r in records] == [(b"x", None), (None, "p.png"), (None, "u")]
