"""`jobs/calibrate.py`: from scores to a threshold and to what the filter then keeps; what it prints, and its mistakes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.calibration.calibrators import load_calibration
from pipeline.calibration.fit import FitSettings, fit
from pipeline.calibration.sample import SampleSettings, draw_sample, save_sample
from pipeline.errors import ManifestError
from pipeline.filters.run import filter_dataset
from pipeline.local_s3 import LocalS3
from tests.calibration.outputs import IDENTITY, ROWS, STORE, config_of, is_good, label, scored, write_labels

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / "calibrate.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, cwd="/", check=False)


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
