"""The text encoder's configuration and masking; its numbers are held by test_parity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.model.med import MedConfig, TextEncoder
from tests.model.builders import SMALL_TEXT, randomise

REPOSITORY = Path(__file__).parents[2]


def encoder() -> TextEncoder:
    return randomise(TextEncoder(MedConfig.read(SMALL_TEXT))).eval()


def test_default_configuration_is_found_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert MedConfig.read("configs/med_config.json") == MedConfig()


def test_a_file_as_given_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/med_config.json").write_text(json.dumps(SMALL_TEXT))
    monkeypatch.chdir(tmp_path)
    assert MedConfig.read("configs/med_config.json").hidden_size == SMALL_TEXT["hidden_size"]


def test_a_wheel_carries_the_configuration_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipeline/configs").mkdir(parents=True)
    (tmp_path / "pipeline/configs/med_config.json").write_text(json.dumps(SMALL_TEXT))
    monkeypatch.setattr("pipeline.model.med.PACKAGE_ROOT", tmp_path / "pipeline")
    monkeypatch.chdir(tmp_path)
    assert MedConfig.read("configs/med_config.json").hidden_size == SMALL_TEXT["hidden_size"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported"),
        ({"add_cross_attention": False}, "add_cross_attention is false"),
        ({"hidden_size": 50, "num_attention_heads": 4}, "hidden_size 50 cannot be divided into 4 heads"),
    ],
)
def test_sizes_that_do_not_fit_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MedConfig.read(values)


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[1]", "is not a JSON object")])
def test_a_broken_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "med.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"med\.json' {message}"):
        MedConfig.read(path)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"med_config 'nowhere\.json' not found"):
        MedConfig.read("nowhere.json")


def test_attention_is_bidirectional_and_blind_to_padding() -> None:
    model = encoder()
    ids = torch.tensor([[101, 7, 8, 9, 102]])
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    with torch.inference_mode():
        base = model(ids, mask)
        ids[0, 4] = 55
        assert torch.equal(model(ids, mask)[:, :4], base[:, :4])  # a padded token changes nothing
        ids[0, 3] = 56
        assert not torch.allclose(model(ids, mask)[:, 0], base[:, 0])  # a later token changes the first


def test_dropout_in_training_only() -> None:
    model = encoder()
    ids, mask, image = torch.tensor([[101, 7, 102]]), torch.ones(1, 3), torch.randn(1, 5, 768)
    assert torch.equal(model(ids, mask, image), model(ids, mask, image))
    model.train()
    assert not torch.equal(model(ids, mask, image), model(ids, mask, image))
