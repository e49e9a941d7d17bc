"""Which pairs are shown: the same as sorting all of them would find, however they are cut into batches and files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.gallery import BEST, BORDERLINE, RANGE, WORST, Gallery, Pairs, Place


def offered(frame: pd.DataFrame) -> Pairs:
    return Pairs(
        itm=frame["itm"].to_numpy(np.float32),
        logit=frame["logit"].to_numpy(np.float32),
        places=np.column_stack([frame["row"], np.zeros(len(frame), np.int64)]),
        images=pa.array(frame["image"], pa.string()),
        run=int(frame["run"].iloc[0]),
    )


def expected(frame: pd.DataFrame, rank: pd.Series[float], size: int) -> list[Place]:
    """Sort everything, keep the first of each image, keep `size` of these."""
    names = frame.image.where(frame.image.notna(), frame.run.astype(str) + "/" + frame.row.astype(str))
    ordered = frame.assign(rank=rank, name=names).sort_values(["rank", "run", "row"], ascending=[False, True, True])
    chosen = ordered.drop_duplicates("name").head(size)
    return [Place(run, row, 0) for run, row in zip(chosen.run, chosen.row, strict=True)]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 40), st.booleans())
def test_pools_find_what_sorting_finds(seed: int, size: int, batch_rows: int, equal_scores: bool) -> None:
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 3, 120).astype(np.float32)
    logit = np.round(logit) if equal_scores else logit
    images = [None if rng.random() < 0.1 else f"image-{rng.integers(0, 30)}" for _ in logit]
    itm = (1 / (1 + np.exp(-logit.astype(np.float64)))).astype(np.float32)
    frame = pd.DataFrame({"itm": itm, "logit": logit, "run": np.arange(120) // 50, "row": np.arange(120) % 50, "image": images})
    whole = Gallery(size, 0.5)
    for _, of_run in frame.groupby("run"):
        own = Gallery(size, 0.5)
        for start in range(0, len(of_run), batch_rows):
            own.offer(offered(of_run.iloc[start : start + batch_rows]), seed=7)
        whole.merge(own)
    picks = whole.picks()
    assert picks[BEST] == expected(frame, frame.logit, size)
    assert picks[WORST] == expected(frame, -frame.logit, size)
    assert picks[BORDERLINE] == expected(frame, -(frame.itm.astype(np.float64) - 0.5).abs(), size)
    parts = {min(size - 1, int(np.float32(score * np.float32(size)))) for score in itm}
    by_place = {Place(run, row, 0): score for run, row, score in zip(frame.run, frame.row, itm, strict=True)}
    drawn = [min(size - 1, int(np.float32(by_place[place] * np.float32(size)))) for place in picks[RANGE]]
    assert drawn == sorted(parts, reverse=True), "one of each part that has some"


def test_no_gallery() -> None:
    gallery = Gallery(0, 0.5)
    frame = pd.DataFrame({"itm": [0.5], "logit": [0.0], "run": [0], "row": [0], "image": ["a"]})
    gallery.offer(offered(frame), seed=1)
    assert gallery.picks() == {BEST: [], BORDERLINE: [], WORST: [], RANGE: []}
