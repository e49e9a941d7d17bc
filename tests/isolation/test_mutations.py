"""Thousands of mutated files of every format through the real decoder process: pixels or a reason, no crash, no hang."""

from __future__ import annotations

import pytest

from pipeline.schema import Reason
from tests.isolation.mutations import seeds, verdicts

pytestmark = pytest.mark.slow

FILES = seeds()
COUNT = 800  # of each of 21 files; `make fuzz` decodes more


@pytest.mark.parametrize("name", FILES)
def test_mutated_files_neither_crash_nor_hang_nor_bloat_the_decoder(name: str) -> None:
    found = verdicts(name, COUNT, FILES)
    assert found.total() == COUNT
    assert set(found) <= {"pixels", *Reason} - {Reason.DECODER_CRASHED, Reason.DECODER_TIMEOUT, Reason.TOO_MUCH_MEMORY}
    assert found.total() > found["pixels"] > 0
