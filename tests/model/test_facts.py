"""What the driver learns of a checkpoint without loading it, whatever the format."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.config import ModelConfig, StorageConfig
from pipeline.errors import CheckpointError
from pipeline.model import save_checkpoint
from pipeline.model.facts import ModelInfo, describe
from tests.tiny import IMAGE_SIZE, tiny_model

STORE = StorageConfig()


@pytest.mark.parametrize(
    ("name", "kind", "weights", "beside"),
    [
        ("m.safetensors", "safetensors", "m.safetensors", []),
        ("folder", "safetensors", "folder/model.safetensors", ["config.json", "vocab.txt"]),
        ("hf", "huggingface", "hf/model.safetensors", ["config.json", "vocab.txt"]),
        ("m.pth", "pth", "m.pth", []),
    ],
)
def test_facts_of_each_format(tmp_path: Path, name: str, kind: str, weights: str, beside: list[str]) -> None:
    save_checkpoint(tiny_model(), tmp_path / name, format=kind)  # type: ignore[arg-type]
    sha256 = hashlib.sha256((tmp_path / weights).read_bytes()).hexdigest()
    path = str(tmp_path / name)
    info = describe(ModelConfig(checkpoint=path), STORE)
    assert info == ModelInfo(path, sha256, info.pin, IMAGE_SIZE, 32, info.gflop)
    assert [Path(file.path).name for file in info.pin.files()] == [Path(weights).name, *beside]
    assert info.pin.weights.sha256 == sha256
    assert 0 < info.gflop < 1, "a tiny model"


def test_the_setting_of_the_image_size_wins(tmp_path: Path) -> None:
    save_checkpoint(tiny_model(), tmp_path / "m.safetensors")
    assert describe(ModelConfig(checkpoint=str(tmp_path / "m.safetensors"), image_size=64), STORE).image_size == 64


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    save_file({"layer.weight": np.zeros((2, 2), np.float32)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"not a BLIP_ITM checkpoint: it has no tensor visual_encoder\.pos_embed"):
        describe(ModelConfig(checkpoint=str(tmp_path / "m.safetensors")), STORE)


def test_no_torch_is_paid_for_safetensors(tmp_path: Path) -> None:
    save_checkpoint(tiny_model(), tmp_path / "m.safetensors")
    code = (
        "import sys; from pipeline.config import *; from pipeline.model.facts import describe; "
        f"path = {str(tmp_path / 'm.safetensors')!r}; "
        "describe(ModelConfig(checkpoint=path), StorageConfig()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
