"""The documented rules in plain Python, row by row: what a filter should keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

Row = dict[str, Any]
Keep = list[bool]


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
