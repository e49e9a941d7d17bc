"""Columns as numbers and keys: lists of every layout, texts, hashes and integers; which column is the URL."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Config
from pipeline.filters import captions, values
from pipeline.filters.source import find_dataset
from tests.filters.random_data import sha


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


def test_bytes_are_no_urls_whatever_their_column_is_called(tmp_path: Path) -> None:
    table = pa.table({"image": [b"1", b"2"], "path": ["a.jpg", "b.jpg"], "itm_score": [0.1, 0.9]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert find_dataset(Config.model_validate({"input": {"manifest": str(tmp_path)}})).layout.url == "path"
    pq.write_table(table.drop(["path"]), tmp_path / "a.parquet")
    assert find_dataset(Config.model_validate({"input": {"manifest": str(tmp_path)}})).layout.url is None
