"""Rules as they are written: mistakes, what does not fit the columns, exact fractions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from pipeline.errors import ConfigError
from pipeline.filter_rules import Rule, parse_rule
from pipeline.filters.run import filter_dataset
from tests.filters.random_data import config_of, rule_trees, write_files


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
