"""jobs/plan.py as a user runs it: a process of its own, what it prints, the one line that a mistake gets, no trace left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import Config
from pipeline.errors import ConfigError, ManifestError
from pipeline.planning.run import make_plan
from tests.greys import png
from tests.test_preview import Silent
from tests.test_score_job import environment
from tests.tiny import tiny_checkpoint

PLAN = Path(__file__).parents[1] / "jobs" / "plan.py"
TIMEOUT_S = 180
ROWS = 40  # the last of them names no file


def run_plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PLAN), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment(None), cwd="/", check=False
    )


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """Of a small manifest with images beside it, and a model of random weights."""
    (tmp_path / "in").mkdir()
    for number in range(ROWS - 1):
        (tmp_path / "in" / f"{number}.png").write_bytes(png(6 * number))
    table = pa.table({"url": [f"{n}.png" for n in range(ROWS)], "caption": [f"caption {n}" for n in range(ROWS)]})
    pq.write_table(table, tmp_path / "in" / "m.parquet")
    return ["--input.manifest", str(tmp_path / "in"), "--model.checkpoint", tiny_checkpoint(tmp_path), "--plan.seconds", "3"]


@pytest.mark.slow
def test_a_plan_measures_a_start_and_writes_nothing(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = run_plan(*flags, "--output.path", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["rows"], plan["sample"]["rows"]) == (ROWS, ROWS)
    assert plan["expected"] == [
        {"status": "failed_to_download", "reason": "not found", "sampled": 1, "rows": 1},
        {"status": "success", "reason": None, "sampled": ROWS - 1, "rows": ROWS - 1},
    ]
    here, starts = plan["here"], plan["here"]["starts"]
    assert starts["measured"] is True
    assert min(starts["program_s"], starts["ray_s"], starts["stream_s"], starts["load_s"], starts["end_s"]) > 0
    fixed_s = sum(starts[name] for name in ("program_s", "ray_s", "stream_s", "end_s"))
    assert fixed_s < here["wall_s"]
    assert here["rows_per_s"] == pytest.approx(min(rate for rate in here["rates"].values() if rate is not None))
    assert plan["costs"]["decode_core_s"] > 0
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_without_a_pilot_no_ray_is_started_and_starting_is_assumed(flags: list[str], tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    text = "instances: [{name: tower, cpus: 64, memory_gib: 64, network_gbps: 1, usd_per_hour: 3}]"
    mine.write_text(text)
    done = run_plan(*flags, "--no-plan.pilot", "--plan.instances", str(mine), "--plan.machines", "2")
    assert done.returncode == 0, done.stderr
    assert "40 rows" in done.stdout
    assert "97.5%" in done.stdout
    assert "not found" in done.stdout
    assert "end 2.5 s: assumed" in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if "tower" in line)
    assert line.startswith("2 x tower")
    assert "what binds here is" in done.stdout
    assert "assumptions" in done.stdout


def refused(*arguments: str) -> str:
    done = run_plan(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("plan: error: ")
    return line


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    assert str(tmp_path / "none") in refused("--input.manifest", str(tmp_path / "none"))
    bad = tmp_path / "bad.yaml"
    bad.write_text("instances: 3")
    assert str(bad) in refused("--input.manifest", str(tmp_path), "--plan.instances", str(bad))


def test_nothing_to_plan(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--input\.manifest"):
        make_plan(Config(), Silent())
    pq.write_table(pa.table({"url": pa.array([], pa.string()), "caption": pa.array([], pa.string())}), tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="no rows"):
        make_plan(Config.model_validate({"input": {"manifest": str(tmp_path)}}), Silent())
