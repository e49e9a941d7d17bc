"""Five kills, one of each kind, in mid-run: every output is as if nothing had happened. `make chaos` is the long form."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.harness import BLOCK_ROWS, KILLS, REPLICAS, Chaos

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def chaos(clean_module_env: None) -> Iterator[Chaos]:
    with Chaos() as parts:
        yield parts


@pytest.fixture(scope="module")
def clean_module_env() -> Iterator[None]:
    """Nothing of a cluster that another test file has joined."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.mark.parametrize("kill", KILLS)
def test_an_output_survives(chaos: Chaos, kill: str) -> None:
    outcome = chaos.run(f"short-{kill}", kill, after_s=1.0)
    assert outcome.identical, outcome
    assert outcome.faults == []
    if kill == "driver":
        assert outcome.resumes == 1
        assert outcome.rework <= 8 * REPLICAS * BLOCK_ROWS, "rows in flight, and a part a worker"
