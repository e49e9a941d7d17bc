"""The joint histogram: exact at its edges, in the scores' own precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.report import grid

TICKS = grid.itm_ticks(0.5)
PROBABILITIES = st.one_of(st.floats(0, 1, width=32), st.sampled_from([np.float32(tick / grid.ITM_PARTS) for tick in TICKS]))
COSINES = st.one_of(st.floats(-1.0001, 1.0001), st.sampled_from([tick / grid.ITC_PARTS for tick in grid.ITC_TICKS]))


@settings(deadline=None)
@given(st.data(), st.integers(0, 60), st.sampled_from([np.float32, np.float64]))
def test_every_two_edges_count_exactly(data: st.DataObject, size: int, dtype: type) -> None:
    itm = data.draw(arrays(dtype, size, elements=PROBABILITIES.map(dtype)))
    itc = data.draw(arrays(dtype, size, elements=COSINES.map(dtype)))
    counts = grid.count(itm, itc, TICKS)
    assert counts.sum() == size
    i, j = data.draw(st.integers(0, len(TICKS) - 1)), data.draw(st.integers(1, len(grid.ITC_TICKS) - 1))
    kept = (itm >= dtype(TICKS[i] / grid.ITM_PARTS)) & (itc >= dtype(grid.ITC_TICKS[j] / grid.ITC_PARTS))
    assert counts[i:, j:].sum() == kept.sum()


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.1234, 1 / 3, 0.99999, 1.0])
def test_the_threshold_is_an_edge(threshold: float) -> None:
    ticks = grid.itm_ticks(threshold)
    assert any(tick / grid.ITM_PARTS == pytest.approx(threshold, abs=1e-9) for tick in ticks)
    assert list(ticks) == sorted(set(ticks))
    assert len(ticks) - len(TICKS) == (threshold in (0.1234, 1 / 3, 0.99999))


@settings(deadline=None)
@given(arrays(np.int64, (3, 5), elements=st.integers(0, 3)))
def test_sparse_cells_are_read_back(counts: np.ndarray) -> None:
    found = np.zeros(15, np.int64)
    cell = -1
    cells = grid.sparse(counts)
    for distance, count in zip(cells[::2], cells[1::2], strict=True):
        cell += distance
        found[cell] = count
    assert np.array_equal(found.reshape(3, 5), counts)
    assert 0 not in cells[1::2]
