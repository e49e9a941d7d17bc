"""Samples as a user draws them: what they stand for, their keys, what is saved of them."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.calibration.fit import FitSettings, fit
from pipeline.calibration.sample import SampleSettings, draw_sample, save_sample
from pipeline.config import Config
from pipeline.errors import ConfigError, ManifestError
from tests.calibration.outputs import STORE, config_of, label, png, scored, write_labels


def test_a_sample_stands_for_the_rows_with_a_score(data: Path) -> None:
    sample = draw_sample(config_of(data), SampleSettings(rows=200, bins=7))
    table = sample.table.to_pandas()
    assert (sample.rows, sample.scored, len(table)) == (2_000, 1_800, 200)
    assert table.weight.sum() == pytest.approx(1_800)
    assert table.key.is_unique
    assert table.label.isna().all()
    whole = pq.read_table(data).to_pandas().set_index("uid").loc[table.key]
    assert (whole.itm_score.to_numpy() == table.itm_score.to_numpy()).all()
    assert (whole.text.to_numpy() == table.caption.to_numpy()).all()
    assert whole.url.fillna("").tolist() == table.url.fillna("").tolist()
    for number, stratum in enumerate(sample.strata):
        inside = table[table.stratum == number]
        assert len(inside) == stratum.drawn
        assert (inside.stratum_rows == stratum.rows).all()
        assert inside.itm_score.between(stratum.low, stratum.high).all()
    assert not table.stratum.is_monotonic_increasing, "whoever stops half-way has labelled some of every stratum"
    again = draw_sample(config_of(data), SampleSettings(rows=200, bins=7))
    assert again.table.equals(sample.table)
    other = draw_sample(config_of(data), SampleSettings(rows=200, bins=7, seed=1))
    assert set(other.table["key"].to_pylist()) != set(table.key)


def test_all_rows_where_more_are_asked_for(data: Path) -> None:
    sample = draw_sample(config_of(data), SampleSettings(rows=5_000, column="itm_logit", strata="widths", bins=3))
    assert len(sample.table) == 1_800
    assert set(sample.table["weight"].to_pylist()) == {1.0}
    assert sample.table.schema.names[3] == "itm_logit"


def test_rows_without_a_key_are_known_by_file_and_number(tmp_path: Path) -> None:
    (tmp_path / "scored").mkdir()
    table = scored(0, 300).drop_columns(["uid"])
    for name, part in (("a", table.slice(0, 100)), ("b", table.slice(100))):
        pq.write_table(part, tmp_path / "scored" / f"{name}.parquet", row_group_size=30)
    config = config_of(tmp_path / "scored")
    sample = draw_sample(config, SampleSettings(rows=80))
    found = fit(config, FitSettings(labels=label(sample.table, tmp_path / "labels.csv"), resamples=10))
    assert found.labelled.accounts.used == 80
    by_key = dict(zip(sample.table["key"].to_pylist(), sample.table["caption"].to_pylist(), strict=True))
    key = next(key for key in by_key if "/b.parquet#" in key)
    assert by_key[key] == f"=caption, {100 + int(key.rpartition('#')[2])}"


def test_keys_that_do_not_tell_rows_apart_are_refused(tmp_path: Path) -> None:
    table = scored(0, 300)
    pq.write_table(table.set_column(0, "uid", pa.array(["same"] * 300)), tmp_path / "a.parquet")
    with pytest.raises(ManifestError, match=r"'uid' does not tell rows apart.*--input\.columns\.key"):
        draw_sample(config_of(tmp_path / "a.parquet"), SampleSettings(rows=10))


def test_lists_of_captions_are_labelled_by_their_best(tmp_path: Path) -> None:
    table = pa.table(
        {
            "uid": ["a", "b", "c"],
            "url": ["u"] * 3,
            "captions": [["no", "yes"], ["only"], []],
            "itm_score": pa.array([[0.1, 0.9], [0.4], []], pa.list_(pa.float32())),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    config = config_of(tmp_path / "a.parquet")
    sample = draw_sample(config, SampleSettings(rows=10))
    rows = {row["key"]: (row["caption"], row["itm_score"]) for row in sample.table.to_pylist()}
    assert rows == {"a": ("yes", pytest.approx(0.9)), "b": ("only", pytest.approx(0.4))}
    labels = write_labels(
        tmp_path / "l.csv", [{"key": "a", "label": "y"}, {"key": "b", "label": "n"}, {"key": "c", "label": 1}]
    )
    found = fit(config, FitSettings(labels=labels, resamples=5))
    assert (found.labelled.accounts.used, found.labelled.accounts.unscored) == (2, 1)
    with pytest.raises(ConfigError, match="explode"):
        draw_sample(config_of(tmp_path / "a.parquet", filter={"captions": "explode"}), SampleSettings())


def test_a_spreadsheet_runs_no_caption(data: Path, tmp_path: Path) -> None:
    sample = draw_sample(config_of(data), SampleSettings(rows=20))
    save_sample(sample, str(tmp_path / "s.csv"), STORE)
    save_sample(sample, str(tmp_path / "s.parquet"), STORE)
    read = pd.read_csv(tmp_path / "s.csv")
    assert read.caption.str.startswith("'=caption, ").all()
    assert read.key.tolist() == sample.table["key"].to_pylist()
    assert pq.read_table(tmp_path / "s.parquet").equals(sample.table)


def test_thumbnails_of_what_can_be_decoded(tmp_path: Path) -> None:
    truncated = png(1)[:60]
    blobs = [png(1), b"<svg onload=alert(1)>", None, truncated]
    images = [None if blob is None else {"bytes": blob, "path": "x"} for blob in blobs]
    table = pa.table({"uid": ["a", "b", "c", "d"], "text": ["t"] * 4, "image": images, "itm_score": [0.1, 0.2, 0.3, 0.4]})
    pq.write_table(table, tmp_path / "a.parquet")
    sample = draw_sample(config_of(tmp_path / "a.parquet"), SampleSettings(thumbnails=True))
    found = {row["key"]: row["image"] for row in sample.table.to_pylist()}
    with Image.open(io.BytesIO(found.pop("a"))) as image:
        assert (image.format, image.size) == ("JPEG", (512, 171))
    assert found == {"b": None, "c": None, "d": None}
    named = {"manifest": str(tmp_path / "a.parquet"), "columns": {"image": "text"}}
    with pytest.raises(ConfigError, match=r"no column 'text' of image bytes.*--thumbnails"):
        draw_sample(Config.model_validate({"input": named}), SampleSettings(thumbnails=True))
