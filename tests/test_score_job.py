"""jobs/score.py as a user runs it: a process of its own, its exit codes, what it prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.local_s3 import LocalS3
from tests.greys import grey_manifest, png

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 180


def run_score(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / "score.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment(env), cwd="/", check=False
    )


def environment(extra: dict[str, str] | None) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    return clean | {"AWS_EC2_METADATA_DISABLED": "true"} | (extra or {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest with images beside it: one dead link among them."""
    (tmp_path / "in").mkdir()
    for number in range(12):
        (tmp_path / "in" / f"{number}.png").write_bytes(png(20 * number))
    urls = [f"{number}.png" for number in range(12)] + ["gone.png"]
    table = pa.table({"URL": urls, "TEXT": [f"caption {n}" for n in range(13)], "n": range(13)})
    pq.write_table(table, tmp_path / "in" / "m.parquet")
    return tmp_path


@pytest.mark.slow
def test_a_local_folder_without_any_configuration(folder: Path, checkpoint: str) -> None:
    arguments = ["--input.manifest", str(folder / "in"), "--output.path", str(folder / "out"), "--model.checkpoint", checkpoint]
    done = run_score(*arguments)
    assert done.returncode == 0, done.stderr
    assert "13 rows in 1 file, 1 shard" in done.stderr
    assert "url = URL, caption = TEXT" in done.stderr
    assert "92.3%" in done.stdout
    assert "not found" in done.stdout
    assert len(done.stderr.splitlines()) <= 7, "Ray's own lines stay out of ours"
    frame = pd.read_parquet(folder / "out")
    assert list(frame.columns[:3]) == ["URL", "TEXT", "n"]
    assert frame.n.tolist() == list(range(13))
    assert frame.itm_score.between(0, 1).sum() == 12
    assert frame.error_message.dropna().tolist() == ["not found"]

    again = run_score(*arguments, "--json", "--output.max_failed_share", "0.05")
    assert again.returncode == 3, "done, but too many rows failed"
    assert "7.7%" in again.stderr
    summary = json.loads(again.stdout)
    assert (summary["rows"], summary["rows_scored"], summary["status"]["success"]) == (13, 0, 12)


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_go_on_and_goes_on(folder: Path, checkpoint: str) -> None:
    rows = 30_000
    manifest = grey_manifest(folder, rows)
    arguments = ["--input.manifest", manifest, "--output.path", str(folder / "out"), "--model.checkpoint", checkpoint]
    command = [sys.executable, str(ROOT / "jobs" / "score.py"), *arguments, "--compute.chunk_rows", "500"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(None), cwd="/")
    staging = folder / "out" / "_staging"
    deadline = time.monotonic() + TIMEOUT_S
    while not any(staging.rglob("*.parquet")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 143, stderr
    assert "run the same command to go on" in stderr
    assert not (folder / "out" / "_lease.json").exists(), "whoever stops lets go"
    done = run_score(*arguments, "--compute.chunk_rows", "500", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert 0 < summary["rows_scored"] < rows, "what was staged is not scored again"
    assert summary["rows"] == rows
    assert pq.read_table(folder / "out" / "m-00000.parquet")["caption"].to_pylist() == [f"c{n}" for n in range(rows)]


def refused(*arguments: str, env: dict[str, str] | None = None) -> str:
    """The one line that a mistake gets."""
    done = run_score(*arguments, env=env)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("score: error: ")
    return line


def test_no_caption_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["u"], "words": ["w"]}), tmp_path / "m.parquet")
    line = refused("--input.manifest", str(tmp_path), "--output.path", str(tmp_path / "out"))
    assert "words" in line
    assert "--input.columns.caption" in line


def test_a_corrupt_file_among_good_ones(folder: Path) -> None:
    (folder / "in" / "z.parquet").write_bytes(b"PAR1 nonsense PAR1")
    line = refused("--input.manifest", str(folder / "in"), "--output.path", str(folder / "out"))
    assert "z.parquet" in line
    assert not (folder / "out").exists(), "nothing is written before the checks"


def test_an_unknown_setting() -> None:
    assert "did you mean output.path" in refused("--input.manifest", "m", "--output.pth", "o")


def test_nothing_to_score(tmp_path: Path) -> None:
    assert "--input.manifest" in refused("--output.path", str(tmp_path))
    assert "--output.path" in refused("--input.manifest", str(tmp_path))
    line = refused("--input.manifest", str(tmp_path / "none"), "--output.path", str(tmp_path / "out"))
    assert str(tmp_path / "none") in line


def test_an_output_folder_of_something_else(folder: Path, checkpoint: str) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("mine")
    arguments = ["--input.manifest", str(folder / "in"), "--output.path", str(folder / "out"), "--model.checkpoint", checkpoint]
    assert "thesis.txt" in refused(*arguments)


def test_an_output_folder_of_another_run(folder: Path, checkpoint: str) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "_run.json").write_text(json.dumps({"model": "another", "image_size": 224}))
    arguments = ["--input.manifest", str(folder / "in"), "--output.path", str(folder / "out"), "--model.checkpoint", checkpoint]
    line = refused(*arguments)
    assert "image_size was 224, now 32" in line
    assert "--output.overwrite" in line


def test_a_checkpoint_that_is_none(folder: Path) -> None:
    arguments = ["--input.manifest", str(folder / "in"), "--output.path", str(folder / "out")]
    assert "/nowhere/model.pth" in refused(*arguments, "--model.checkpoint", "/nowhere/model.pth")
    (folder / "junk.pth").write_bytes(b"no weights")
    assert "junk.pth" in refused(*arguments, "--model.checkpoint", str(folder / "junk.pth"))


def test_an_unreachable_bucket(tmp_path: Path) -> None:
    env = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    line = refused("--input.manifest", "s3://nowhere/m", "--output.path", str(tmp_path / "out"), env=env)
    assert "s3://nowhere" in line
    assert "http://127.0.0.1:9" in line


def test_wrong_credentials_and_a_missing_bucket(s3: LocalS3, tmp_path: Path) -> None:
    wrong = s3.env() | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    line = refused("--input.manifest", "s3://capsieve-tests/m", "--output.path", str(tmp_path / "out"), env=wrong)
    assert "wrong credentials for s3://capsieve-tests" in line
    line = refused("--input.manifest", "s3://no-such-bucket/m", "--output.path", str(tmp_path / "out"), env=s3.env())
    assert "no-such-bucket" in line


def test_the_driver_never_pays_for_torch() -> None:
    code = "import sys, pipeline.run; sys.exit(bool({'torch', 'transformers', 'torchvision'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=TIMEOUT_S, check=False).returncode == 0
