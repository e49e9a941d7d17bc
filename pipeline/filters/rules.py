"""Rules that look at one row at a time, how rules combine, and which columns each rule needs.

A rule keeps a row or drops it; nothing is unknown: a row without a value is kept by no bound and no list of values.
Knows nothing of other rows, or of files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pipeline.errors import ConfigError
from pipeline.filter_rules import (
    All,
    AnyOf,
    BestCaption,
    Compare,
    Leaf,
    Member,
    Not,
    Placeholders,
    Quantile,
    Rule,
    Top,
    TopFraction,
    Unique,
    Value,
    leaves,
)
from pipeline.filters.source import Layout
from pipeline.filters.values import Mask, Numbers, View, is_number, is_text

Bound = float | dict[str, float]
COMPARISONS: Mapping[str, Callable[[Numbers, Numbers | float], Mask]] = {
    "at_least": np.greater_equal,
    "above": np.greater,
    "at_most": np.less_equal,
    "below": np.less,
}


class Need(NamedTuple):
    """A column that a rule asks for, and as what."""

    column: str
    kind: str  # number, key, others (the best of a row's other captions), value, text


def is_local(rule: Rule) -> bool:
    """Whether the rule looks at one row at a time."""
    return all(isinstance(leaf, Compare | Member) for leaf in leaves(rule))


def needs(leaf: Leaf, layout: Layout) -> list[Need]:
    """What the rule reads. Raises ConfigError for columns that are not there."""
    match leaf:
        case Compare():
            by = [Need(layout.resolve(leaf.by_value_of), "text")] if leaf.by_value_of is not None else []
            return [Need(layout.resolve(leaf.column), "number"), *by]
        case Member():
            return [Need(layout.resolve(leaf.column), "value")]
        case Quantile():
            return [Need(layout.resolve(leaf.column), "number")]
        case TopFraction() | Top():
            return [Need(layout.resolve(leaf.by), "number")]
        case BestCaption():
            image = leaf.best_caption if isinstance(leaf.best_caption, str) else layout.ours("image_sha256")
            score = layout.resolve(leaf.by)
            rivals = leaf.min_margin is not None and score in layout.lists and not layout.exploded
            others = [Need(score, "others")] if rivals else []
            return [Need(layout.resolve(image), "key"), Need(score, "number"), *others]
        case Unique():
            by = [Need(layout.resolve(leaf.by), "number")] if leaf.by is not None else []
            return [Need(layout.resolve(leaf.unique), "key"), *by]
        case Placeholders():
            url = leaf.url or layout.url
            if url is None:
                raise ConfigError("the rule on placeholders needs URLs: name their column with --input.columns.url")
            return [Need(layout.resolve(leaf.image or layout.ours("image_sha256")), "key"), Need(layout.resolve(url), "key")]


def check_types(rule: Rule, layout: Layout, schemas: Mapping[str, pa.Schema]) -> None:
    """Raise ConfigError where a file lacks a column that the rule needs, or holds something else in it."""
    for leaf in leaves(rule):
        for column, kind in needs(leaf, layout):
            for url, schema in schemas.items():
                if column not in schema.names:
                    raise ConfigError(f"{url} has no column {column!r} to filter by; its columns are {', '.join(schema.names)}")
                found = _value_type(schema.field(column).type, column, layout)
                _check_type(found, kind, f"rule {leaf.label!r}: column {column!r} of {url}")
                if isinstance(leaf, Member):
                    _check_values(found, leaf.allowed or leaf.forbidden or [], column)


def _value_type(kind: pa.DataType, column: str, layout: Layout) -> pa.DataType:
    if column in layout.lists:
        if layout.ranking not in layout.lists:
            raise ConfigError(f"column {column!r} holds lists, but there is no list of scores {layout.ranking!r} to rank by")
        kind = kind if pt.is_null(kind) else kind.value_type
    return kind.value_type if pt.is_dictionary(kind) else kind


def _check_type(found: pa.DataType, kind: str, where: str) -> None:
    text = is_text(found) or pt.is_null(found)
    fits = {
        "number": is_number(found),
        "others": is_number(found),
        "text": text,
        "value": text or is_number(found),
        "key": text or pt.is_integer(found) or pt.is_binary(found) or pt.is_large_binary(found),
    }
    if not fits[kind]:
        takes = {"text": "texts", "value": "texts or numbers", "key": "texts, bytes or integers"}.get(kind, "numbers")
        raise ConfigError(f"{where} is {found}: this rule takes {takes}")


def _check_values(found: pa.DataType, values: list[Value], column: str) -> None:
    for value in values:
        fits = {
            str: is_text(found),
            bool: pt.is_boolean(found),
            int: is_number(found) and not pt.is_boolean(found),
            float: is_number(found) and not pt.is_boolean(found),
        }
        if value is not None and not pt.is_null(found) and not fits[type(value)]:
            hint = ": quote it, YAML takes no and yes for false and true" if isinstance(value, bool) else ""
            raise ConfigError(f"column {column!r} is {found}: {value!r} can't be one of its values{hint}")


def combine(rule: Rule, leaf_mask: Callable[[Leaf], Mask]) -> Mask:
    """Which rows a rule keeps, from what its leaves keep of the same rows."""
    match rule:
        case All():
            return all_of([combine(inner, leaf_mask) for inner in rule.all])
        case AnyOf():
            return ~all_of([~combine(inner, leaf_mask) for inner in rule.any])
        case Not():
            return ~combine(rule.rule, leaf_mask)
        case _:
            return leaf_mask(rule)


def all_of(masks: list[Mask]) -> Mask:
    """Rows that every mask keeps."""
    kept: Mask = np.logical_and.reduce(masks)
    return kept


def local_mask(view: View, leaf: Leaf) -> Mask:
    """Which rows of a batch a rule of one row at a time keeps."""
    if isinstance(leaf, Compare):
        values = view.numbers(view.layout.resolve(leaf.column))
        masks = [COMPARISONS[name](values, _bound(bound, leaf, view, values.dtype)) for name, bound in leaf.bounds()]
        return all_of(masks)
    if isinstance(leaf, Member):
        return _member(leaf, view.array(view.layout.resolve(leaf.column)))
    raise TypeError(f"{leaf.label} looks at other rows")


def _bound(bound: Bound, leaf: Compare, view: View, dtype: np.dtype[np.floating]) -> Numbers | float:
    """One bound, or a bound a row, in the column's own precision: 0.7 is what the column holds where it was written 0.7."""
    if not isinstance(bound, dict) or leaf.by_value_of is None:
        return float(np.asarray(bound, dtype))
    by = view.array(view.layout.resolve(leaf.by_value_of))
    number = pc.index_in(by.cast(pa.string()), value_set=pa.array(list(bound), pa.string()))
    otherwise = np.nan if leaf.otherwise is None else leaf.otherwise
    table = np.array([*bound.values(), otherwise], dtype)
    found: Numbers = table[pc.fill_null(number, len(bound)).to_numpy(zero_copy_only=False)]
    return found


def _member(leaf: Member, column: pa.Array) -> Mask:
    listed = leaf.allowed if leaf.allowed is not None else leaf.forbidden or []
    values = [value for value in listed if value is not None]
    missing = column.is_null().to_numpy(zero_copy_only=False)
    if pt.is_floating(column.type):
        missing |= np.isnan(pc.fill_null(column, 0).to_numpy(zero_copy_only=False))
    found = pc.is_in(column, value_set=pa.array(values).cast(column.type) if values else pa.array([], column.type))
    hit: Mask = found.to_numpy(zero_copy_only=False) & ~missing
    kept: Mask = hit if leaf.allowed is not None else ~hit & ~missing
    return kept | missing if leaf.allowed is not None and None in listed else kept
