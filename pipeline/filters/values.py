"""A batch's columns as compact arrays: numbers with NaN for null, texts and hashes as 128-bit keys.

Of list captions, a row's value is that of its best caption. Knows nothing of rules or of files.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pipeline.filters.captions import Indices, best_entry, best_of_others, entries
from pipeline.filters.source import Layout

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.floating]
Keys = npt.NDArray[np.uint64]  # (n, 2); (0, 0) where there is no value

SHA256_DIGITS = 64
UID_DIGITS = 32
HASH_KEYS = ("capsieve-filter0", "capsieve-filter1")  # of two independent SipHashes: 64 bits alone collide at a billion rows
FOLD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)  # odd, so that nothing is lost
NO_NIBBLE = 255
NIBBLES = np.full(256, NO_NIBBLE, np.uint8)
NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


def is_number(kind: pa.DataType) -> bool:
    """Whether `numbers` takes such a column."""
    checks = (pt.is_integer, pt.is_floating, pt.is_boolean, pt.is_decimal, pt.is_null)
    return any(check(kind) for check in checks)


def is_text(kind: pa.DataType) -> bool:
    """Whether the column holds strings."""
    return bool(pt.is_string(kind) or pt.is_large_string(kind))


class View:
    """A batch, seen by rules. Lists are there only where rows were not exploded."""

    def __init__(self, batch: pa.RecordBatch, layout: Layout) -> None:
        self.batch = batch
        self.layout = layout

    def is_list(self, name: str) -> bool:
        """Whether the column has an entry a caption."""
        return name in self.layout.lists and not self.layout.exploded

    @functools.cached_property
    def best(self) -> Indices:
        """Index of each row's best caption."""
        return best_entry(self.batch.column(self.layout.ranking))

    def array(self, name: str) -> pa.Array:
        """The column, plain: dictionaries decoded, of lists the entry of the best caption."""
        column = self.batch.column(name)
        if self.is_list(name):
            column = entries(column, np.arange(self.batch.num_rows), self.best)
        return column.dictionary_decode() if pt.is_dictionary(column.type) else column

    def numbers(self, name: str) -> Numbers:
        """(n,) float32 where the column is no wider, else float64; NaN for null."""
        column = self.array(name)
        small = pt.is_float32(column.type) or pt.is_float16(column.type)
        values: Numbers = column.cast(pa.float32() if small else pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return values

    def others(self, name: str) -> npt.NDArray[np.float64]:
        """(n,) the highest value of each row's other captions; -inf where there are none."""
        return best_of_others(self.batch.column(name), self.best)

    def keys(self, name: str) -> Keys:
        """(n, 2): equal for equal values only."""
        return keys(self.array(name))


def keys(column: pa.Array) -> Keys:
    """128-bit keys of texts, bytes or integers: folded SHA-256s in hex, integers themselves, of others a hash."""
    found = np.zeros((len(column), 2), np.uint64)
    if pt.is_null(column.type):
        return found
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    if pt.is_integer(column.type):
        found[:, 0] = pc.fill_null(column, 0).to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64)
        found[:, 1] = 1  # so that 0 is a value
        found[~valid] = 0
        return found
    plain = column.cast(pa.large_binary())
    hashes = np.flatnonzero(valid & (pc.fill_null(pc.binary_length(plain), 0).to_numpy() == SHA256_DIGITS))
    digits = _fixed_width(plain if len(hashes) == len(plain) else plain.take(pa.array(hashes)), SHA256_DIGITS)
    words, right = parse_hex(digits)
    folded = words[:, :2] + words[:, 2:] * FOLD  # not the first half alone: other things than hashes may look like one
    right &= folded.any(axis=1)
    found[hashes[right]] = folded[right]
    valid[hashes[right]] = False
    rest = np.flatnonzero(valid)
    if len(rest):
        found[rest] = _hash(column.take(pa.array(rest)))
    return found


class Hex(NamedTuple):
    """n texts of hexadecimal digits."""

    words: Keys  # (n, digits / 16)
    right: Mask  # (n,) whether all are digits, in lower case


def parse_hex(digits: npt.NDArray[np.uint8]) -> Hex:
    """The words of (n, a multiple of 16) digits."""
    nibbles = NIBBLES[digits]
    pairs = (nibbles[:, ::2] << 4) | nibbles[:, 1::2]
    return Hex(pairs.view(">u8").astype(np.uint64), nibbles.max(axis=1, initial=0) < NO_NIBBLE)


def parse_uids(column: pa.Array) -> Hex:
    """High and low word of 128-bit uids of 32 hexadecimal digits, as DataComp writes them; others are not `right`."""
    if not is_text(column.type):
        return Hex(np.zeros((len(column), 2), np.uint64), np.zeros(len(column), np.bool_))
    plain = column.cast(pa.large_binary())
    fits = pc.fill_null(pc.equal(pc.binary_length(plain), UID_DIGITS), False)
    if pc.all(fits).as_py() is not False:
        return parse_hex(_fixed_width(plain, UID_DIGITS))
    padded = pc.if_else(fits, plain, pa.scalar(b"-" * UID_DIGITS, pa.large_binary()))
    return parse_hex(_fixed_width(padded, UID_DIGITS))


def _fixed_width(column: pa.Array, width: int) -> npt.NDArray[np.uint8]:
    """(n, width) bytes of an array of large binaries that all are so long."""
    if not len(column):
        return np.zeros((0, width), np.uint8)
    _, offsets, data = column.buffers()
    start = int(np.frombuffer(offsets, np.int64)[column.offset])
    return np.frombuffer(data, np.uint8)[start : start + width * len(column)].reshape(-1, width)


def _hash(column: pa.Array) -> Keys:
    from pandas.util import hash_array  # here, because most rules need no pandas

    values = column.to_numpy(zero_copy_only=False)
    return np.stack([hash_array(values, hash_key=key, categorize=False) for key in HASH_KEYS], axis=1)
