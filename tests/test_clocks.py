"""Seconds on blocks: on the first record only, added up by the receipts."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa
import pytest

from pipeline.clocks import StarvedClock, timed_blocks, timed_write, with_cost

BLOCK = pa.table({"row": [1, 2, 3]})


def slow_blocks() -> Iterator[pa.Table]:
    for _ in range(2):
        time.sleep(0.05)
        yield BLOCK


def test_a_fetch_task_makes_and_waits() -> None:
    found = []
    for block in timed_blocks(slow_blocks()):
        found.append((sum(block["make_s"].to_pylist()), sum(block["held_s"].to_pylist())))
        time.sleep(0.02)  # whoever takes blocks is slow
    (first_make, first_held), (second_make, second_held) = found
    assert min(first_make, second_make) >= 0.05
    assert first_held == 0
    assert second_held >= 0.02


def test_a_replica_is_starved_between_blocks_and_not_while_it_starts() -> None:
    clock = StarvedClock()
    assert clock.run(lambda block: block, BLOCK)["starved_s"].to_pylist() == [0, 0, 0]
    time.sleep(0.02)
    assert sum(clock.run(lambda block: block, BLOCK)["starved_s"].to_pylist()) >= 0.02


def test_writing_is_timed() -> None:
    def write(block: pa.Table) -> pa.Table:
        time.sleep(0.02)
        return with_cost(block, "write_s", 0)

    assert sum(timed_write(write, BLOCK)["write_s"].to_pylist()) >= 0.02


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_the_first_record_carries_the_cost(rows: int) -> None:
    block = with_cost(with_cost(BLOCK.slice(0, rows), "held_s", 1.5), "held_s", 2.5)
    assert block.column_names == ["row", "held_s"]
    assert block["held_s"].to_pylist() == [2.5, 0, 0][:rows]
