"""A labelled manifest, scored: the right label beside the right scores, failures counted, mistakes refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import Config
from pipeline.errors import ManifestError
from pipeline.labelled import LabelledScores, score_labelled
from tests.echo import EchoScorer
from tests.greys import png


def score(path: Path, columns: dict[str, Any], *, label: str | None = None, chunk_rows: int = 4) -> LabelledScores:
    manifest = path / "labelled.parquet"
    pq.write_table(pa.table(columns), manifest, row_group_size=3)
    config = Config.model_validate(
        {"input": {"manifest": str(manifest)}, "compute": {"chunk_rows": chunk_rows, "batch_size": 2}}
    )
    return score_labelled(config, EchoScorer(), 16, label_column=label)


def test_each_pair_keeps_its_own_label_and_scores(tmp_path: Path) -> None:
    greys = [0, 255, 51, 204, 102, 153, 51]
    columns = {
        "image": [png(grey) for grey in greys],
        "caption": ["x" * (number + 1) for number in range(7)],
        "label": [number % 2 for number in range(7)],
    }
    pairs = score(tmp_path, columns)
    numbers = np.round(pairs.itc_similarity * 1000).astype(int) - 1  # the echo's cosine tells the caption's length
    assert sorted(numbers) == list(range(7))
    assert pairs.labels.tolist() == [bool(number % 2) for number in numbers]
    assert pairs.itm_logit == pytest.approx([greys[number] / 255 for number in numbers], abs=1e-3)
    same = [int(place) for place in np.flatnonzero(np.isin(numbers, [2, 6]))]
    assert pairs.images[same[0]] == pairs.images[same[1]]
    assert len(set(pairs.images)) == 6
    assert pairs.failures.total() == 0


def test_pairs_that_cannot_be_scored_are_counted_by_reason(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(png(100))
    (tmp_path / "bad.png").write_bytes(b"no image")
    columns = {
        "url": ["good.png", "bad.png", "gone.png", "good.png", "good.png"],
        "caption": ["a", "b", "c", "", "eeeee"],
        "label": ["good", "bad", "good", "bad", "bad"],
    }
    pairs = score(tmp_path, columns)
    assert sorted(zip(pairs.itc_similarity.round(3).tolist(), pairs.labels.tolist(), strict=True)) == [
        (0.001, True),
        (0.005, False),
    ]
    assert pairs.failures == {"not an image": 1, "not found": 1, "no caption": 1}


def test_the_label_column_is_found_or_named(tmp_path: Path) -> None:
    columns = {"image": [png(1), png(2)], "caption": ["a", "b"], "is_match": [True, False], "verdict": [False, True]}
    assert sorted(score(tmp_path, columns).labels.tolist()) == [False, True]
    named = score(tmp_path, columns, label="verdict")
    assert named.labels[named.itm_logit.argmax()]


@pytest.mark.parametrize(
    ("columns", "label", "message"),
    [
        ({"image": [png(1)], "caption": ["a"]}, None, "no label column in the manifest: set --label NAME"),
        ({"image": [png(1)], "caption": ["a"], "label": [1]}, "truth", "no column 'truth'"),
        ({"image": [png(1)], "caption": ["a"], "label": [3]}, None, "column 'label': label 3 of row 0"),
        ({"image": [png(1)], "caption": [["a", "b"]], "label": [1]}, None, "one caption a row"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, columns: dict[str, Any], label: str | None, message: str) -> None:
    with pytest.raises(ManifestError, match=message) as caught:
        score(tmp_path, columns, label=label)
    assert "\n" not in str(caught.value)
