"""Filtering against a naive implementation of the documented rules, row by row in plain Python."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.filter_rules import Rule, parse_rule
from pipeline.filters import captions, values
from pipeline.filters.run import FilterSummary, filter_dataset
from pipeline.filters.source import find_dataset

Row = dict[str, Any]
Keep = list[bool]
TENTHS = [round(0.1 * tenth, 1) for tenth in range(11)]  # few values: ties everywhere
SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("language", pa.string()),
        ("pages", pa.int32()),
        ("itm_score", pa.float32()),
        ("itc_similarity", pa.float64()),
        ("status", pa.dictionary(pa.int8(), pa.string())),
        ("image_sha256", pa.string()),
    ]
)


def sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


# ------------------------------------------------------------------ the naive implementation


def single(value: float | None) -> float | None:
    return None if value is None else float(np.float32(value))


def naive(rule: Any, rows: list[Row]) -> Keep:
    """What a rule keeps of the rows that reach it."""
    key = next(key for key in NAIVE if key in rule)
    return NAIVE[key](rule, rows)


def compare(rule: Any, rows: list[Row]) -> Keep:
    def keeps(row: Row) -> bool:
        value = row[rule["column"]]
        if value is None or math.isnan(value):
            return False
        for name, holds in (
            ("at_least", lambda a, b: a >= b),
            ("above", lambda a, b: a > b),
            ("at_most", lambda a, b: a <= b),
            ("below", lambda a, b: a < b),
        ):
            bound = rule.get(name)
            if isinstance(bound, dict):
                bound = bound.get(row[rule["by_value_of"]], rule.get("otherwise"))
                if bound is None:
                    return False
            bound = single(bound) if rule["column"] == "itm_score" else bound
            if bound is not None and not holds(value, bound):
                return False
        return True

    return [keeps(row) for row in rows]


def member(rule: Any, rows: list[Row]) -> Keep:
    column = [row[rule["column"]] for row in rows]
    if "in" in rule:
        return [value in rule["in"] for value in column]
    return [value is not None and value not in rule["not_in"] for value in column]


def ranked(rows: list[Row], column: str) -> list[int]:
    """Rows with a value, best first, equals in their order."""
    held = [index for index, row in enumerate(rows) if row[column] is not None and not math.isnan(row[column])]
    return sorted(held, key=lambda index: -rows[index][column])


def best(count: int, rule: Any, rows: list[Row]) -> Keep:
    chosen = set(ranked(rows, rule["by"])[:count])
    return [index in chosen for index in range(len(rows))]


def quantile(rule: Any, rows: list[Row]) -> Keep:
    order = ranked(rows, rule["column"])[::-1]
    if not order:
        return [False] * len(rows)
    border = rows[order[math.ceil(Fraction(str(rule["quantile"])) * (len(order) - 1))]][rule["column"]]
    return compare({"column": rule["column"], "at_least": border}, rows)


def best_of_group(column: str, rule: Any, rows: list[Row]) -> Keep:
    by = rule.get("by")

    def value(index: int) -> float:
        found = rows[index][by] if by else 0.0
        return -math.inf if found is None or math.isnan(found) else found

    keep = [True] * len(rows)
    for key in {row[column] for row in rows} - {None}:
        group = [index for index, row in enumerate(rows) if row[column] == key]
        group.sort(key=lambda index: -value(index))
        for index in group[1:]:
            keep[index] = False
        margin = rule.get("min_margin")
        second = value(group[1]) if len(group) > 1 else -math.inf
        if margin is not None and second > -math.inf and value(group[0]) - second < margin:
            keep[group[0]] = False
    return keep


def placeholders(rule: Any, rows: list[Row]) -> Keep:
    urls: dict[str, set[str]] = {}
    for row in rows:
        urls.setdefault(row["image_sha256"], set()).update({row["url"]} - {None})
    return [row["image_sha256"] is None or len(urls[row["image_sha256"]]) <= rule["placeholders"] for row in rows]


NAIVE: dict[str, Callable[[Any, list[Row]], Keep]] = {
    "all": lambda rule, rows: [all(keeps) for keeps in zip(*(naive(inner, rows) for inner in rule["all"]), strict=True)],
    "any": lambda rule, rows: [any(keeps) for keeps in zip(*(naive(inner, rows) for inner in rule["any"]), strict=True)],
    "not": lambda rule, rows: [not keeps for keeps in naive(rule["not"], rows)],
    "top_fraction": lambda rule, rows: best(int(Fraction(str(rule["top_fraction"])) * len(rows)), rule, rows),
    "top": lambda rule, rows: best(rule["top"], rule, rows),
    "best_caption": lambda rule, rows: best_of_group(
        "image_sha256" if rule["best_caption"] is True else rule["best_caption"], rule, rows
    ),
    "unique": lambda rule, rows: best_of_group(rule["unique"], rule, rows),
    "placeholders": placeholders,
    "quantile": quantile,
    "in": member,
    "not_in": member,
    "column": compare,
}


def naive_reasons(rules: list[Any], rows: list[Row], labels: list[str]) -> list[str | None]:
    """By row: None where it stays, else the first reason it goes."""
    reasons: list[str | None] = [None if row["status"] == "success" else row["status"] for row in rows]
    for rule, label in zip(rules, labels, strict=True):
        alive = [index for index, reason in enumerate(reasons) if reason is None]
        for index, keeps in zip(alive, naive(rule, [rows[index] for index in alive]), strict=True):
            reasons[index] = None if keeps else label
    return reasons


# ------------------------------------------------------------------ random rows and rules


@st.composite
def random_rows(draw: st.DrawFn) -> list[Row]:
    count = draw(st.integers(0, 40))
    tenths = st.sampled_from([*TENTHS, None])
    rows = []
    for number in range(count):
        failed = draw(st.integers(0, 9)) == 0
        image = draw(st.integers(0, 6))
        rows.append(
            {
                "number": number,
                "url": draw(st.sampled_from([f"http://a/{image}.jpg", f"http://b/{image}.jpg", "http://c/x.jpg", None])),
                "caption": f"caption {number}",
                "language": draw(st.sampled_from(["en", "de", "no", "", None])),
                "pages": draw(st.sampled_from([-1, 0, 1, 2, None])),
                "itm_score": None if failed else single(draw(tenths)),
                "itc_similarity": None if failed else draw(st.sampled_from([*TENTHS, None, math.nan, -0.5])),
                "status": draw(st.sampled_from(["failed_to_download", "invalid_row"])) if failed else "success",
                "image_sha256": None if failed or image == 0 else sha(image),
            }
        )
    return rows


numbers = st.sampled_from(["itm_score", "itc_similarity", "pages"])
bounds = st.sampled_from(TENTHS)
leaf_rules = st.one_of(
    st.builds(
        lambda column, name, bound: {"column": column, name: bound},
        numbers,
        st.sampled_from(["at_least", "above", "at_most", "below"]),
        bounds,
    ),
    st.builds(lambda low, high: {"column": "itm_score", "at_least": low, "below": high}, bounds, bounds),
    st.builds(
        lambda table, otherwise: {
            "column": "itm_score",
            "at_least": table,
            "by_value_of": "language",
            **({} if otherwise is None else {"otherwise": otherwise}),
        },
        st.dictionaries(st.sampled_from(["en", "de", "no"]), bounds, min_size=1),
        st.none() | bounds,
    ),
    st.builds(
        lambda name, listed: {"column": "language", name: listed},
        st.sampled_from(["in", "not_in"]),
        st.lists(st.sampled_from(["en", "de", "no", "", "xx", None])),
    ),
    st.builds(lambda listed: {"column": "pages", "in": listed}, st.lists(st.sampled_from([0, 1, 5, None]))),
    st.builds(lambda column, share: {"column": column, "quantile": share}, numbers, bounds),
    st.builds(lambda share, by: {"top_fraction": share, "by": by}, st.sampled_from(TENTHS[1:]), numbers),
    st.builds(lambda count, by: {"top": count, "by": by}, st.integers(1, 40), numbers),
    st.builds(
        lambda image, by, margin: {"best_caption": image, "by": by, **({} if margin is None else {"min_margin": margin})},
        st.sampled_from([True, "url"]),
        numbers,
        st.none() | bounds,
    ),
    st.builds(lambda column, by: {"unique": column, "by": by}, st.sampled_from(["image_sha256", "url", "pages"]), numbers),
    st.sampled_from([{"unique": "url"}, {"unique": "language"}]),
    st.builds(lambda count: {"placeholders": count}, st.integers(1, 3)),
)
rule_trees = st.recursive(
    leaf_rules,
    lambda inner: st.one_of(
        st.builds(lambda rules: {"all": rules}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda rules: {"any": rules}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda rule: {"not": rule}, inner),
    ),
    max_leaves=4,
)


def write_files(folder: Path, rows: list[Row], cuts: list[int], group_rows: int, schema: pa.Schema = SCHEMA) -> None:
    folder.mkdir()
    borders = [0, *sorted(cut % (len(rows) + 1) for cut in cuts), len(rows)]
    for number, (start, stop) in enumerate(pairwise(borders)):
        table = pa.Table.from_pylist(rows[start:stop], schema=schema)
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=group_rows)


def config_of(folder: Path, rules: list[Any], **filter: Any) -> Config:
    return Config.model_validate(
        {
            "input": {"manifest": str(folder / "in")},
            "output": {"path": str(folder / "out"), "rows_per_output_file": 7},
            "filter": {"rules": rules, "threads": 2, **filter},
        }
    )


def read(folder: Path) -> list[Row]:
    rows: list[Row] = []
    for file in sorted(folder.glob("*.parquet")):
        rows += pq.ParquetFile(file).read().to_pylist()
    return rows


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


# ------------------------------------------------------------------ lists of captions

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


def test_lists_of_all_layouts_give_the_same_entries() -> None:
    lists = [[1.0, 3.0, 3.0], None, [], [None, 2.0], [math.nan]]
    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float64())):
        column = pa.array([[9.0], *lists], kind).slice(1)
        best = captions.best_entry(column)
        assert best.tolist() == [1, 0, 0, 1, 0]
        assert captions.best_of_others(column, best).tolist() == [3.0, -math.inf, -math.inf, -math.inf, -math.inf]
        found = captions.entries(column, np.arange(5), best).to_pylist()
        assert found[:4] == [3.0, None, None, 2.0]
    fixed = pa.array([[1.0, 2.0], None, [4.0, 3.0]], pa.list_(pa.float32(), 2))
    assert captions.best_entry(fixed).tolist() == [1, 0, 0]


# ------------------------------------------------------------------ keys


@given(
    st.lists(
        st.one_of(st.none(), st.text(), st.integers(0, 9).map(sha), st.text("0123456789abcdefAG", min_size=64, max_size=64))
    )
)
def test_keys_are_equal_for_equal_texts_only(texts: list[str | None]) -> None:
    by_text: dict[str | None, tuple[int, int]] = {}
    column = pa.array(["x", *texts], pa.string()).slice(1)
    for text, (high, low) in zip(texts, values.keys(column).tolist(), strict=True):
        assert by_text.setdefault(text, (high, low)) == (high, low)
        assert (text is None) == ((high, low) == (0, 0))
    assert len(set(by_text.values())) == len(by_text)


def test_keys_of_hashes_and_integers() -> None:
    digits = ["0" * 63 + digit for digit in "0123"] + ["0123456789abcdef" * 4, "1" * 64]
    assert len({tuple(pair) for pair in values.keys(pa.array(digits)).tolist()}) == 6, "all digits count"
    found = values.keys(pa.array([0, None, -1], pa.int64())).tolist()
    assert len({tuple(pair) for pair in found}) == 3
    assert found[1] == [0, 0]


# ------------------------------------------------------------------ rules as they are written


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ({"column": "itm_score", "at_lest": 0.5}, "unknown key at_lest: did you mean at_least?"),
        ({"colum": "itm_score"}, "did you mean column?"),
        ({"column": "itm_score"}, "needs one of at_least"),
        ({"column": "a", "at_least": {"en": 0.5}}, "by_value_of"),
        ({"column": "a", "at_least": 0.5, "otherwise": 0.4}, "bounds by value"),
        ({"column": "a", "in": ["x"], "not_in": ["y"]}, "not both"),
        ({"top_fraction": 1.5, "by": "a"}, "top_fraction"),
        ({"top": 10}, "by: Field required"),
        ({"best_caption": False, "by": "a"}, "best_caption: true"),
        ({"all": []}, "all"),
        ({"any": [{"top": 0, "by": "a"}]}, "top: Input should be greater"),
        ({"column": "a", "at_least": math.nan}, "finite"),
        ("itm_score > 0.5", "a rule is a mapping"),
        ({}, "a rule has one of"),
    ],
)
def test_mistakes_in_rules(rule: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match="(?s)" + complaint.replace("?", r"\?")):
        parse_rule(rule)


@given(rule_trees)
def test_rules_survive_being_written_down(rule: Any) -> None:
    parsed: Rule = parse_rule(rule)
    assert parse_rule(parsed.model_dump()) == parsed
    assert parse_rule(parsed.model_dump(exclude_none=True)) == parsed
    assert parsed.label


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ({"column": "itm_scor", "at_least": 0.5}, "did you mean itm_score.*the columns are number, url"),
        ({"column": "language", "at_least": 0.5}, "language.*is string: this rule takes numbers"),
        ({"column": "language", "in": ["en", False]}, "False can't be one of its values: quote it"),
        ({"column": "pages", "in": ["1"]}, "'1' can't be one of its values"),
        ({"unique": "itc_similarity"}, "is double: this rule takes texts, bytes or integers"),
        ({"top": 5, "by": "itm_logit"}, "no column 'itm_logit'"),
    ],
)
def test_rules_that_do_not_fit_the_columns(rule: Any, complaint: str, tmp_path: Path) -> None:
    write_files(tmp_path / "in", [], [], 1)
    with pytest.raises(ConfigError, match=complaint):
        filter_dataset(config_of(tmp_path, [rule]))
    assert not (tmp_path / "out").exists()


def test_a_fraction_is_taken_exactly() -> None:
    assert parse_rule({"top_fraction": 0.29, "by": "a"}).count(100) == 29
    assert parse_rule({"top_fraction": 0.3, "by": "a"}).count(10) == 3


def test_bytes_are_no_urls_whatever_their_column_is_called(tmp_path: Path) -> None:
    table = pa.table({"image": [b"1", b"2"], "path": ["a.jpg", "b.jpg"], "itm_score": [0.1, 0.9]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert find_dataset(Config.model_validate({"input": {"manifest": str(tmp_path)}})).layout.url == "path"
    pq.write_table(table.drop(["path"]), tmp_path / "a.parquet")
    assert find_dataset(Config.model_validate({"input": {"manifest": str(tmp_path)}})).layout.url is None
