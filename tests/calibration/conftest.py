"""A finished output of score.py to draw samples of."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.calibration.outputs import ROWS, scored


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished output of score.py: 2,000 rows, 1,800 with a score, in three files."""
    folder = tmp_path_factory.mktemp("data") / "scored"
    (folder / "sub").mkdir(parents=True)
    for name, start, stop in (("a", 0, 900), ("b", 900, 900), ("sub/c", 900, ROWS)):
        pq.write_table(scored(start, stop), folder / f"{name}.parquet", row_group_size=128)
    (folder / "_run.json").write_text(json.dumps({"model": "a model"}))
    (folder / "_SUCCESS").write_text("{}")
    return folder
