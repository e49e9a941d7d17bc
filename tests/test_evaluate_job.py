"""jobs/evaluate.py and jobs/train_demo_model.py as a user runs them: what they print, their exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.scenes.evaluation import scene_captions
from pipeline.scenes.render import render_jpeg
from pipeline.scenes.scene import DEMO

ROOT = Path(__file__).parents[1]


def run_job(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, cwd="/", check=False)


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    """Thirty rendered scenes, each with a true caption and another scene's."""
    rows = [scene_captions(DEMO, index, 100) for index in range(30)]
    table = {
        "image": [render_jpeg(row.scene) for row in rows for _ in range(2)],
        "caption": [caption for row in rows for caption in (row.true, row.other)],
        "good": ["yes", "no"] * 30,
    }
    pq.write_table(pa.table(table), tmp_path / "labelled.parquet")
    return str(tmp_path / "labelled.parquet")


@pytest.mark.slow
def test_a_labelled_manifest_as_json_and_as_a_table(labelled: str) -> None:
    arguments = ("--input.manifest", labelled, "--itm-threshold", "0.5", "--resamples", "50")
    done = run_job("evaluate", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["itm"]["pairs"] == 60
    assert result["itm"]["positives"] == 30
    assert result["itm"]["auc"]["value"] > 0.9
    (row,) = result["itm"]["thresholds"]
    assert row["itm_score"] == pytest.approx(0.5)
    assert row["precision"]["low"] <= row["precision"]["value"] <= row["precision"]["high"]
    assert len(result["itc"]["thresholds"]) == 5
    table = run_job("evaluate", *arguments).stdout
    assert "60 pairs, 30 of them good" in table
    assert "itm_score >= 0.5000" in table
    assert f"{result['itm']['auc']['value']:.3f} [" in table


@pytest.mark.slow
def test_rendered_scenes_as_a_table() -> None:
    done = run_job("evaluate", "--scenes", "test", "--scene-count", "60", "--resamples", "20")
    assert done.returncode == 0, done.stderr
    for words in ("another scene's caption", "one word changed", "unseen", "itc"):
        assert words in done.stdout


@pytest.mark.slow
def test_training_stops_at_its_time_and_goes_on_to_a_model(tmp_path: Path) -> None:
    arguments = ("--out", str(tmp_path / "run"), "--steps", "4", "--scenes", "64", "--threads", "1")
    stopped = run_job("train_demo_model", *arguments, "--minutes", "0.000001")
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout == "stopped after 1 of 4 steps; the same command with --resume goes on\n"
    again = run_job("train_demo_model", *arguments)
    assert again.returncode == 2
    assert "give --resume" in again.stderr
    resumed = run_job("train_demo_model", *arguments, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert {path.name for path in (tmp_path / "run" / "model").iterdir()} == {"model.safetensors", "config.json", "vocab.txt"}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("evaluate", [], "nothing to evaluate"),
        ("evaluate", ["--scenes", "test", "--input.manifest", "x"], "not both"),
        ("evaluate", ["--scenes", "test", "--resamples", "0"], "--resamples must be at least 1"),
        ("evaluate", ["--input.manifest", "/nowhere.parquet"], "/nowhere.parquet"),
        ("train_demo_model", [], "--out"),
        ("train_demo_model", ["--out", "/tmp/nothing-here", "--resume"], "nothing to resume"),
        ("train_demo_model", ["--out", "/tmp/nothing-here", "--steps", "0"], "--steps must be above 0"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(name: str, arguments: list[str], message: str) -> None:
    done = run_job(name, *arguments)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert message in done.stderr
    assert not done.stdout
