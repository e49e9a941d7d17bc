"""Rows with lists of captions, whose scores are lists too, aligned: the best caption of a row, or a row a caption.

Knows nothing of rules or of files.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

Indices = npt.NDArray[np.int64]


class _Lists(NamedTuple):
    """n lists, flattened."""

    values: pa.Array
    starts: Indices  # (n,) into values
    lengths: Indices  # (n,); 0 of null


def _flatten(column: pa.Array) -> _Lists:
    if pt.is_null(column.type):  # of a file that holds nothing else
        column = column.cast(pa.list_(pa.float32()))
    if not pt.is_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    starts = column.offsets.to_numpy(zero_copy_only=False)[:-1]
    return _Lists(column.values, starts.astype(np.int64), lengths.astype(np.int64))


def entries(column: pa.Array, rows: Indices, index: Indices) -> pa.Array:
    """Entry `index[i]` of the list in row `rows[i]`; null where the list is null or shorter."""
    values, starts, lengths = _flatten(column)
    return values.take(pa.array(starts[rows] + index, mask=index >= lengths[rows]))


def best_entry(scores: pa.Array) -> Indices:
    """Index of the highest score of each list (n,), the first of equals; 0 where there is none."""
    flat, starts, lengths = _floats(scores)
    best = np.zeros(len(lengths), np.int64)
    filled = np.flatnonzero(lengths)
    if len(filled):
        highest = np.repeat(np.maximum.reduceat(flat, starts[filled]), lengths[filled])
        hits = np.flatnonzero(flat == highest)
        rows = np.repeat(filled, lengths[filled])[hits]
        found, first = np.unique(rows, return_index=True)
        best[found] = hits[first] - starts[found]
    return best


def best_of_others(scores: pa.Array, chosen: Indices) -> npt.NDArray[np.float64]:
    """The highest score of each list (n,) but for the chosen entry; -inf where there is no other."""
    flat, starts, lengths = _floats(scores)
    held = chosen < lengths
    flat[(starts + chosen)[held]] = -np.inf
    best = np.full(len(lengths), -np.inf)
    filled = np.flatnonzero(lengths)
    if len(filled):
        best[filled] = np.maximum.reduceat(flat, starts[filled])
    return best


class _Floats(NamedTuple):
    flat: npt.NDArray[np.float64]  # entries of all lists, nulls and NaN as -inf
    starts: Indices
    lengths: Indices


def _floats(scores: pa.Array) -> _Floats:
    values, starts, lengths = _flatten(scores)
    order = np.repeat(starts, lengths) + _within(lengths)
    flat = values.take(pa.array(order)).cast(pa.float64()).to_numpy(zero_copy_only=False)
    flat = np.where(np.isnan(flat), -np.inf, flat)
    return _Floats(flat, np.cumsum(lengths) - lengths, lengths)


def _within(lengths: Indices) -> Indices:
    """0, 1, ... of each list, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def explode(batch: pa.RecordBatch, lists: Collection[str], lengths_of: str) -> pa.RecordBatch:
    """A row an entry of the list `lengths_of`, entries of `lists` in place of the lists; one row where the list is empty."""
    lengths = np.maximum(_flatten(batch.column(lengths_of)).lengths, 1)
    return _pick(batch, lists, np.repeat(np.arange(batch.num_rows), lengths), _within(lengths))


def best_only(batch: pa.RecordBatch, lists: Collection[str], index: Indices) -> pa.RecordBatch:
    """The rows with one entry in place of each of `lists`."""
    return _pick(batch, lists, np.arange(batch.num_rows), index)


def _pick(batch: pa.RecordBatch, lists: Collection[str], rows: Indices, index: Indices) -> pa.RecordBatch:
    columns, fields = [], []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        columns.append(entries(column, rows, index) if field.name in lists else column.take(pa.array(rows)))
        fields.append(field.with_type(columns[-1].type))
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, metadata=batch.schema.metadata))
