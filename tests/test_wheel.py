"""The wheel, installed where nothing of the repository is: configs, vocabulary and demo model come with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.venvs import bare_venv

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PROGRAM = """
import json
from importlib.metadata import version
from pathlib import Path

import pipeline
from pipeline.commandline import load
from pipeline.model import blip_itm, load_model
from pipeline.model.facts import describe

configs = Path(pipeline.__file__).parent / "configs"
width = blip_itm(image_size=32, vit="tiny").text_proj.in_features  # by configs/med_config.json, the default
settings = load(str(configs / "score.yaml"))
demo = load().model
print(json.dumps({
    "version": version("capsieve"),
    "where": str(Path(pipeline.__file__).parent),
    "width": width,
    "checkpoint": settings.model.checkpoint,
    "demo": describe(demo, load().storage).name,
    "parameters": sum(p.numel() for p in load_model("").parameters()),
    "configs": sorted(path.name for path in configs.glob("*.*")),
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_works_in_an_empty_folder(tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist", cwd=ROOT)
    (wheel,) = (tmp_path / "dist").glob("capsieve-*-py3-none-any.whl")
    python = bare_venv(tmp_path / "venv")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    found = json.loads(run(python, "-c", PROGRAM, cwd=empty))
    assert Path(found["where"]).is_relative_to(tmp_path / "venv"), "not the repository's"
    assert f"capsieve-{found['version']}-" in wheel.name
    assert (found["width"], found["checkpoint"]) == (768, "Salesforce/blip-itm-base-coco")
    assert found["demo"] == "capsieve demo model"
    assert found["parameters"] > 1_000_000
    assert found["configs"] == sorted(path.name for path in (ROOT / "configs").glob("*.*"))
