"""`jobs/explain.py`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_program(manifest: Path, scored: Path, tmp_path: Path) -> None:
    def job(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "jobs" / "explain.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/", check=False)

    arguments = ["--input.manifest", str(scored), "--output.path", str(tmp_path / "out"), "--model.device", "cpu"]
    arguments += ["--fetch.file_roots", str(manifest.parent)]
    done = job(*arguments, "--explain.keys", "row-0", "--explain.keys", "row-16")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 rows explained by capsieve demo model, layer 1" in done.stdout
    assert "1 failed: not found" in done.stdout
    done = job(*arguments, "--output.overwrite", "--explain.keys", "row-16", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["failed"] == {"not found": 1}
    done = job(*arguments, "--output.overwrite", "--explain.layer", "2")
    assert done.returncode == 2
    assert done.stderr == "explain: error: layer 2 of a text encoder of 3 layers has no maps of words: possible are 0 to 1\n"
