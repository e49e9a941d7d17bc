"""Filtering against a naive implementation of the documented rules, row by row in plain Python."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.filters.run import FilterSummary, filter_dataset
from tests.filters.naive import Row, naive_reasons, single
from tests.filters.random_data import TENTHS, config_of, random_rows, read, rule_trees, sha, write_files


def labels_of(summary: FilterSummary, rules: list[Any]) -> list[str]:
    return [entry.reason for entry in summary.dropped][-len(rules) :] if rules else []


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(random_rows(), st.lists(rule_trees, max_size=4), st.lists(st.integers(0, 100), max_size=2), st.integers(1, 9))
def test_any_rules_on_any_rows_are_what_the_naive_implementation_says(
    rows: list[Row], rules: list[Any], cuts: list[int], group_rows: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder / "in", rows, cuts, group_rows)
        summary = filter_dataset(config_of(folder, rules))
        reasons = naive_reasons(rules, rows, labels_of(summary, rules))
        kept, rejected = read(folder / "out"), read(folder / "out" / "_rejected")
        assert [row["number"] for row in kept] == [number for number, reason in enumerate(reasons) if reason is None]
        assert [(row["number"], row["drop_reason"]) for row in rejected] == [
            (number, reason) for number, reason in enumerate(reasons) if reason is not None
        ]
        assert summary.kept + sum(entry.rows for entry in summary.dropped) == summary.rows == len(rows)
        assert {entry.reason: entry.rows for entry in summary.dropped if entry.rows} == {
            reason: reasons.count(reason) for reason in reasons if reason is not None
        }
        dry = filter_dataset(config_of(folder, rules), dry_run=True)
        assert (dry.kept, dry.dropped) == (summary.kept, summary.dropped), "the same counts every time"


LISTS = pa.schema(
    [
        ("number", pa.int64()),
        ("captions", pa.list_(pa.string())),
        ("itm_score", pa.list_(pa.float32())),
        ("status", pa.string()),
        ("image_sha256", pa.string()),
    ]
)


@st.composite
def list_rows(draw: st.DrawFn) -> list[Row]:
    rows = []
    for number in range(draw(st.integers(0, 15))):
        scores = draw(st.lists(st.sampled_from([*TENTHS, None]), max_size=4))
        failed = draw(st.integers(0, 5)) == 0
        rows.append(
            {
                "number": number,
                "captions": [f"{number}-{index}" for index in range(len(scores))],
                "itm_score": None if failed else [single(score) for score in scores],
                "status": "failed_to_decode" if failed else "success",
                "image_sha256": None if failed else sha(draw(st.integers(0, 4))),
            }
        )
    return rows


def best_index(row: Row) -> int:
    scores = [-math.inf if score is None else score for score in row["itm_score"] or []]
    return scores.index(max(scores)) if scores else 0


def entry(values: list[Any] | None, index: int) -> Any:
    return values[index] if values is not None and index < len(values) else None


def one_caption(row: Row, index: int) -> Row:
    return {**row, "captions": entry(row["captions"], index), "itm_score": entry(row["itm_score"], index)}


list_rules = st.lists(
    st.sampled_from(
        [
            {"column": "itm_score", "at_least": 0.3},
            {"top_fraction": 0.5, "by": "itm_score"},
            {"unique": "image_sha256", "by": "itm_score"},
            {"best_caption": True, "by": "itm_score"},
            {"column": "captions", "not_in": ["0-0", "1-1"]},
        ]
    ),
    max_size=3,
)


@settings(max_examples=30, deadline=None)
@given(list_rows(), list_rules, st.integers(1, 5))
def test_rows_with_lists_of_captions_count_by_their_best_caption_or_one_by_one(
    rows: list[Row], rules: list[Any], group_rows: int
) -> None:
    singles = [one_caption(row, best_index(row)) for row in rows]
    exploded = [one_caption(row, index) for row in rows for index in range(max(1, len(row["captions"])))]
    expected = {"keep": (rows, singles), "best": (singles, singles), "explode": (exploded, exploded)}
    for mode, (written, judged) in expected.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_files(folder / "in", rows, [3], group_rows, LISTS)
            summary = filter_dataset(config_of(folder, rules, captions=mode))
            reasons = naive_reasons(rules, judged, labels_of(summary, rules))
            assert read(folder / "out") == [row for row, reason in zip(written, reasons, strict=True) if reason is None]
            assert summary.rows == len(judged)
            assert len(read(folder / "out" / "_rejected")) == summary.rows - summary.kept


def test_the_margin_of_a_list_is_to_the_best_of_all_other_captions_of_the_image(tmp_path: Path) -> None:
    rows = [
        {"number": 0, "captions": ["a", "b"], "itm_score": [0.25, 0.875], "status": "success", "image_sha256": sha(1)},
        {"number": 1, "captions": ["c"], "itm_score": [0.5], "status": "success", "image_sha256": sha(1)},
        {"number": 2, "captions": ["d", "e"], "itm_score": [0.75, 0.625], "status": "success", "image_sha256": sha(2)},
        {"number": 3, "captions": ["f"], "itm_score": [0.125], "status": "success", "image_sha256": sha(3)},
    ]
    write_files(tmp_path / "in", rows, [], 2, LISTS)
    rule = {"best_caption": True, "by": "itm_score", "min_margin": 0.25}
    filter_dataset(config_of(tmp_path, [rule], captions="best"))
    assert [(row["number"], row["captions"]) for row in read(tmp_path / "out")] == [(0, "b"), (3, "f")]
