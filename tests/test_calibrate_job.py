"""Samples, labels and fits as a user makes them: what is drawn, counted and printed, and what the filter then keeps."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import storage
from pipeline.calibration.calibrators import load_calibration
from pipeline.calibration.fit import FitSettings, fit
from pipeline.calibration.labels import Accounts, join, read_labels
from pipeline.calibration.sample import SampleSettings, draw_sample, save_sample
from pipeline.config import Config, StorageConfig
from pipeline.errors import ConfigError, ManifestError
from pipeline.filters.run import filter_dataset
from pipeline.filters.source import find_dataset
from pipeline.local_s3 import LocalS3
from pipeline.provenance import FileFacts, with_facts
from pipeline.tallies import Tallies

ROOT = Path(__file__).parents[1]
STORE = StorageConfig()
ROWS = 2_000
IDENTITY = {"model": "a model", "model_sha256": "ab" * 32}


def png(number: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGBA", (900, 300), (number % 256, 0, 0, 128)).save(sink, "PNG")
    return sink.getvalue()


def scored(start: int, stop: int, identity: dict[str, str] | None = None) -> pa.Table:
    """Rows as score.py writes them: every tenth failed; the chance that a row is good is its score."""
    numbers = np.arange(start, stop)
    failed = numbers % 10 == 9
    score = np.random.default_rng(7).permutation(ROWS)[start:stop] / ROWS
    table = pa.table(
        {
            "uid": [f"row {number}" for number in numbers],
            "url": pa.array([f"https://a.example/{number}.jpg" for number in numbers], mask=numbers % 50 == 48),
            "text": [f"=caption, {number}" for number in numbers],
            "itm_score": pa.array(score.astype(np.float32), mask=failed),
            "itm_logit": pa.array((8 * score - 4).astype(np.float32), mask=failed),
            "status": pa.array(np.where(failed, "failed_to_download", "success")).dictionary_encode(),
        }
    )
    facts = FileFacts(identity or IDENTITY, {}, 0, Counter(), Tallies.from_json(Tallies().as_json()), [], {})
    return with_facts(table, facts)


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


def config_of(folder: Path | str, **more: Any) -> Config:
    return Config.model_validate({"input": {"manifest": str(folder)}, **more})


def is_good(score: float, number: int) -> bool:
    return bool(np.random.default_rng(number).random() < score)


def write_labels(path: Path, rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def label(table: pa.Table, path: Path) -> str:
    """Somebody labels a sample."""
    rows = table.select(["key", "stratum", "stratum_rows", "itm_score"]).to_pylist()
    for number, row in enumerate(rows):
        row["label"] = "good" if is_good(row["itm_score"], number) else "bad"
    return write_labels(path, rows)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / "calibrate.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, cwd="/", check=False)


# ------------------------------------------------------------------ the sample


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


# ------------------------------------------------------------------ labels

label_rows = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(["row 1", "row 2", "row 9", "row 11", "nobody", "", " "]),
            "label": st.sampled_from(["good", "BAD", "1", "0", "yes", "n", "true", "skip", ""]),
        }
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=label_rows)
def test_every_row_of_a_file_of_labels_is_accounted_for(rows: list[dict[str, str]], data: Path, tmp_path: Path) -> None:
    path = write_labels(tmp_path / "l.csv", [*rows, {"key": "row 3", "label": "good"}])
    labels = read_labels(path, STORE)
    found = join(labels, find_dataset(config_of(data)), "itm_score", config_of(data))
    accounts = found.accounts
    assert sum(accounts) == 2 * accounts.rows == 2 * (len(rows) + 1)
    good = {word: word in ("good", "1", "yes", "true") for word in ("good", "BAD", "1", "0", "yes", "n", "true")}
    judged: dict[str, set[bool]] = {"row 3": {True}}
    for row in rows:
        if row["label"] in good and row["key"].strip():
            judged.setdefault(row["key"], set()).add(good[row["label"]])
    agreed = {key for key, said in judged.items() if len(said) == 1}
    assert accounts.used == len(found.good) == len(agreed - {"row 9", "nobody"})
    assert accounts.unscored == ("row 9" in agreed)
    assert accounts.missing == ("nobody" in agreed)
    assert accounts.conflicting == sum(row["label"] in good and len(judged.get(row["key"], ())) == 2 for row in rows)


def test_a_key_of_several_rows_is_nobodys(data: Path, tmp_path: Path) -> None:
    (tmp_path / "twice").mkdir()
    for name in ("a", "b"):
        pq.write_table(scored(0, 50), tmp_path / "twice" / f"{name}.parquet")
    labels = read_labels(write_labels(tmp_path / "l.csv", [{"key": "row 1", "label": "good"}]), STORE)
    config = config_of(tmp_path / "twice")
    found = join(labels, find_dataset(config), "itm_score", config)
    assert found.accounts == Accounts(1, 0, 0, 0, 0, 0, 0, 1, 0)


def test_files_as_people_have_them(data: Path, tmp_path: Path) -> None:
    (tmp_path / "excel.csv").write_bytes("\ufeffuid;is_match;note\r\nrow 1;1;a\r\nrow 2;0;b\r\n".encode())
    pq.write_table(
        pa.table({"uid": ["row 1", "row 2"], "good": [True, False], "image": [b"x", b"y"]}), tmp_path / "labels.parquet"
    )
    (tmp_path / "own.csv").write_text('name\tverdict\n"row 1"\tgood\n"row 2"\tbad\n')
    for name, columns in (("excel.csv", {}), ("labels.parquet", {}), ("own.csv", {"key": "name", "label": "verdict"})):
        labels = read_labels(str(tmp_path / name), STORE, **columns)
        assert [(entry.key, entry.good) for entry in labels.labels] == [("row 1", True), ("row 2", False)], name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("key,label\na,maybe\n", "row 1: label 'maybe' is not one of"),
        ("key,verdict\na,good\n", "set --label NAME; its columns: key, verdict"),
        ("name,label\na,good\n", "set --label-key NAME"),
        ("", "its columns: none"),
        ("key,label,weight\na,good,-1\n", "row 1: weight is '-1', no positive number"),
        ("key,label,stratum,stratum_rows\na,good,0,many\n", "row 1: stratum_rows is 'many'"),
        ("key,label,weight\nrow 1,good,2\nrow 2,bad,\n", "1 of 2 labels have no weight"),
        ("key,label,stratum,stratum_rows\nrow 1,good,0,5\nrow 2,bad,0,6\n", "different samples"),
        ("key,label\nrow 1,good\nrow 9,bad\n", "good and bad ones are both needed"),
        ("PAR1 not really", "is a corrupt Parquet file"),
        ("key,label\n\xff\xfe,good", "neither Parquet nor CSV in UTF-8"),
    ],
)
def test_labels_that_cannot_be_used_are_one_line(text: str, complaint: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ManifestError) as caught:
        fit(config_of(data), FitSettings(labels=str(tmp_path / "l.csv"), resamples=5))
    assert complaint in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_labels_stand_for_their_stratum_however_many_were_judged(data: Path, tmp_path: Path) -> None:
    sample = draw_sample(config_of(data), SampleSettings(rows=100, bins=4, strata="widths"))
    path = label(sample.table.slice(0, 37), tmp_path / "l.csv")
    found = fit(config_of(data), FitSettings(labels=path, resamples=5))
    assert found.labelled.weights.sum() == pytest.approx(1_800)
    assert found.labelled.notes == ()
    rows = [
        {**row, "label": "" if row["stratum"] == 2 else "good" if row["stratum"] else "bad"} for row in sample.table.to_pylist()
    ]
    found = fit(config_of(data), FitSettings(labels=write_labels(tmp_path / "l.csv", rows), resamples=5))
    assert found.labelled.notes == ("no usable label in stratum 2: the figures leave its rows out",)
    assert found.labelled.accounts.skipped == 25


# ------------------------------------------------------------------ the fit


def test_the_filter_keeps_just_the_rows_that_the_figures_are_of(data: Path, tmp_path: Path) -> None:
    """With every row labelled, the estimates are the truth; so what the filter keeps must have exactly that precision."""
    config = config_of(data)
    sample = draw_sample(config, SampleSettings(rows=5_000))
    path = label(sample.table, tmp_path / "l.csv")
    found = fit(config, FitSettings(labels=path, precision=0.8, thresholds=(0.7,), resamples=20))
    assert found.choice is not None
    assert found.choice.value is not None
    labels = dict(zip(*(pd.read_csv(path)[name] for name in ("key", "label")), strict=True))
    for threshold in (0.7, found.choice.value):
        output = tmp_path / f"kept {threshold}"
        summary = filter_dataset(config_of(data, output={"path": str(output)}, filter={"min_itm": threshold}))
        kept = [labels[key] == "good" for key in pd.read_parquet(output).uid]
        (row,) = (row for row in found.metrics.thresholds if np.float32(row.threshold) == np.float32(threshold))
        assert row.precision.value == pytest.approx(np.mean(kept))
        assert row.kept.value == pytest.approx(summary.kept / 1_800)
    assert np.mean(kept) >= 0.8
    assert found.choice.value == pytest.approx(0.6, abs=0.05), (
        "the chance to be good is the score: precision at t is (1 + t) / 2"
    )


def test_a_calibration_tells_what_made_it(data: Path, tmp_path: Path) -> None:
    path = label(draw_sample(config_of(data), SampleSettings(rows=1_000)).table, tmp_path / "l.csv")
    calibration = fit(config_of(data), FitSettings(labels=path, method="platt", resamples=5)).calibration
    assert calibration.provenance["model_sha256"] == IDENTITY["model_sha256"]
    assert calibration.provenance["labels"]["used"] == 1_000
    (tmp_path / "two").mkdir()
    pq.write_table(scored(0, 500), tmp_path / "two" / "a.parquet")
    pq.write_table(scored(500, ROWS, {"model": "b", "model_sha256": "cd"}), tmp_path / "two" / "b.parquet")
    with pytest.raises(ManifestError, match=r"2 models \(a model, b\)"):
        fit(config_of(tmp_path / "two"), FitSettings(labels=path, resamples=5))


def test_on_s3(data: Path, bucket: str, s3_env: LocalS3, tmp_path: Path) -> None:
    for name in ("a.parquet", "sub/c.parquet"):
        storage.write_bytes(f"{bucket}/scored/{name}", (data / name).read_bytes(), STORE)
    config = config_of(f"{bucket}/scored")
    sample = draw_sample(config, SampleSettings(rows=100))
    assert sample.table.equals(draw_sample(config_of(data), SampleSettings(rows=100)).table)
    save_sample(sample, f"{bucket}/sample.parquet", STORE)
    assert pq.read_table(io.BytesIO(storage.read_bytes(f"{bucket}/sample.parquet", STORE))).equals(sample.table)
    labels = Path(label(sample.table, tmp_path / "l.csv"))
    storage.write_bytes(f"{bucket}/l.csv", labels.read_bytes(), STORE)
    assert fit(config, FitSettings(labels=f"{bucket}/l.csv", resamples=5)).labelled.accounts.used == 100


# ------------------------------------------------------------------ the program


def test_from_scores_to_a_threshold(data: Path, tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("sample.csv", "label.html", "labels.csv", "calibration.json")}
    done = run(
        "sample", "--input.manifest", str(data), "--rows", "600", "--save", files["sample.csv"], "--page", files["label.html"]
    )
    assert done.returncode == 0, done.stderr
    assert "600 of 1,800 rows with a score drawn; 200 rows have none" in done.stdout
    assert "Content-Security-Policy" in Path(files["label.html"]).read_text()
    with Path(files["sample.csv"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["label"] = "y" if is_good(float(row["itm_score"]), number) else "n"
    write_labels(Path(files["labels.csv"]), [*rows[:-1], {**rows[-1], "label": ""}, rows[0], {**rows[0], "key": "nobody"}])
    arguments = ["fit", "--input.manifest", str(data), "--labels", files["labels.csv"], "--precision", "0.8"]
    done = run(*arguments, "--save", files["calibration.json"])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("599 of 602 labels used")
    assert "  1 without a label: left out" in lines
    assert "  1 said again what another row says: left out" in lines
    assert "  1 of keys that no row has: left out" in lines
    (chosen,) = (line for line in lines if line.startswith("precision 0.8: itm_score >= "))
    value = float(chosen.split(">= ")[1].split(";")[0])
    assert f"jobs/filter.py --filter.min_itm {value!r}" in lines
    assert any(line.startswith(f"itm_score >= {value!r} ") for line in lines)
    calibration = load_calibration(files["calibration.json"], STORE)
    assert calibration.apply([0.1, 0.5, 0.9]).tolist() == pytest.approx([0.1, 0.5, 0.9], abs=0.15)
    result = json.loads(run(*arguments, "--json", "--resamples", "50").stdout)
    assert result["choice"]["value"] == value
    assert result["choice"]["low"] < 0.6 < result["choice"]["high"], "the chance to be good is the score"
    assert result["labels"]["rows"] == sum(count for name, count in result["labels"].items() if name != "rows") == 602


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "say what to do first"),
        (["fit"], "no labels"),
        (["fit", "--labels", "/nowhere/l.csv", "--input.manifest", "DATA"], "/nowhere/l.csv"),
        (["fit", "--labels", "l.csv", "--precision", "1.5"], "--precision: Input should be less than 1"),
        (["sample", "--save", "s.csv", "--rows", "0", "--input.manifest", "DATA"], "--rows: Input should be greater"),
        (["sample", "--input.manifest", "DATA"], "nothing to write"),
        (["sample", "--save", "s.csv"], "nothing to draw from"),
        (["sample", "--save", "s.csv", "--column", "itc_similarity", "--input.manifest", "DATA"], "no column 'itc_similarity'"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], complaint: str, data: Path) -> None:
    done = run(*(str(data) if argument == "DATA" else argument for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("calibrate: error: ")
    assert complaint in line


def test_neither_ray_nor_torch_is_paid_for() -> None:
    modules = "pipeline.calibration.fit, pipeline.calibration.sample, pipeline.calibration.labelling"
    code = f"import sys, {modules}; sys.exit(bool({{'ray', 'torch', 'scipy', 'sklearn'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=250, check=False, cwd=ROOT).returncode == 0
