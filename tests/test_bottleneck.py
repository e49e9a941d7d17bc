"""What held the replicas back: situations, and what is said of each."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bottleneck import Cause, Shares, cause_of, sentence, shares
from pipeline.schema import COSTS

# A run of a minute whose replicas were busy for a third of it, and whose fetch tasks waited for downloads.
USUAL = Shares(
    wall_s=60, busy=0.3, starved=0.6, download=0.7, decode=0.2, held=0.1, fetching=1.0, write_to_score=0.1
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "cause", "words"),
    [
        ({"busy": 0.97, "held": 0.9}, Cause.SCORE, "more replicas"),
        ({"busy": 0.97, "wall_s": 1.0}, Cause.SCORE, "busy 97%"),
        ({"wall_s": 1.0}, Cause.TOO_SHORT, "too short a run"),
        ({}, Cause.DOWNLOAD, "waited for bytes 70% of their time"),
        ({"decode": 0.91, "download": 0.09}, Cause.DECODE, "decoded 91% of their time; add CPUs"),
        ({"fetching": 0.2}, Cause.FEW_CHUNKS, "compute.chunk_rows"),
        ({"held": 0.8, "write_to_score": 3.0}, Cause.WRITE, "output's store"),
        ({"held": 0.8}, Cause.HAND_OVER, "compute.block_rows"),
        ({"held": 0.8, "fetching": 0.2}, Cause.HAND_OVER, "waited for room 80%"),
        ({"held": 0.8, "starved": 0.02}, Cause.REPLICA_OVERHEAD, "around the model"),
    ],
)
def test_each_situation_has_its_cause(changes: dict[str, Any], cause: Cause, words: str) -> None:
    found = USUAL._replace(**changes)
    assert cause_of(found) == cause
    assert words in sentence(found)


def test_shares_are_of_each_stage_s_own_time() -> None:
    costs = {"score_s": 60.0, "starved_s": 30.0, "make_s": 150.0, "decode_s": 90.0, "held_s": 50.0, "write_s": 6.0}
    found = shares(costs, wall_s=60.0, replicas=2, fetch_tasks=4)
    assert found == pytest.approx(
        Shares(
            wall_s=60, busy=0.5, starved=0.25, download=0.3, decode=0.45, held=0.25, fetching=200 / 240, write_to_score=0.1
        )
    )  # fmt: skip


@given(st.fixed_dictionaries({name: st.floats(0, 1e9) for name in COSTS.names}), st.floats(0, 1e6), st.integers(1, 1000))
def test_whatever_was_measured_something_can_be_said(costs: dict[str, float], wall_s: float, count: int) -> None:
    found = shares(costs, wall_s=wall_s, replicas=count, fetch_tasks=count)
    assert all(0 <= share <= 1 for share in (found.busy, found.starved, found.download, found.decode, found.held))
    assert sentence(found).startswith("replicas busy")
