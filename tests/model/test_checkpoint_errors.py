"""Files and configurations that are not what they should be: one clear line each, and no code of theirs is run."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.model import BLIP_ITM, blip_itm, load_checkpoint, load_model, save_checkpoint
from pipeline.model.tokenizer import CaptionTokenizer
from tests.model.builders import SMALL_SIZE, SMALL_TEXT, SMALL_VIT, small_model

SMALL = {"med_config": SMALL_TEXT, "image_size": SMALL_SIZE, "vit": SMALL_VIT, "embed_dim": 24}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "ball", "##s"]


class RunsCode:
    """Pickles to a call that leaves a mark."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hacked",)


def _torch_bytes(payload: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    return buffer.getvalue()


def _state(**changes: Tensor | None) -> dict[str, Tensor]:
    state = small_model().state_dict() | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


BAD_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "zip_that_runs_code": (lambda: _torch_bytes({"model": RunsCode()}), r"refused: opening it would run code \(posix\.mkdir\)"),
    "pickle_that_runs_code": (lambda: pickle.dumps(RunsCode()), "refused: "),
    "old_pickle_that_runs_code": (lambda: pickle.dumps(RunsCode(), protocol=2), "refused: .*(posix.mkdir|damaged)"),
    "objects_beside_tensors": (
        lambda: _torch_bytes({"model": _state(), "args": argparse.Namespace()}),
        r"refused: opening it would run code \(argparse\.Namespace\)",
    ),
    "empty": (lambda: b"", "is empty"),
    "web_page": (lambda: b"<!DOCTYPE html>" + b"x" * 5000, "is not a checkpoint: neither a PyTorch file nor safetensors"),
    "cut_off": (lambda: _torch_bytes({"model": _state()})[:50_000], "is cut off"),
    "garbage_pickle": (lambda: b"\x80\x02garbage", "refused: its pickle is damaged"),
    "other_zip": (lambda: b"PK\x05\x06" + bytes(18), "is not a checkpoint"),
    "one_tensor": (lambda: _torch_bytes(torch.zeros(3)), "it holds a Tensor, not tensors by name"),
    "no_tensors": (lambda: _torch_bytes({"model": {"a": 1}}), "it holds no tensors"),
    "another_model": (
        lambda: _torch_bytes({"model": {"conv.weight": torch.zeros(3)}}),
        "is not a BLIP_ITM checkpoint: it has no tensor",
    ),
    "missing": (lambda: _torch_bytes({"model": _state(itm_head__bias=None)}), r"lacks 1 tensors of the model: itm_head\.bias"),
    "misshapen": (
        lambda: _torch_bytes({"model": _state(itm_head__weight=torch.zeros(3, 48))}),
        r"1 tensors of the wrong shape: itm_head\.weight is \(3, 48\), the model's \(2, 48\)",
    ),
    "integers": (
        lambda: _torch_bytes({"model": _state(itm_head__weight=torch.zeros(2, 48, dtype=torch.int8))}),
        r"not floating point: itm_head\.weight is torch\.int8",
    ),
    "sparse": (
        lambda: _torch_bytes({"model": _state(itm_head__weight=torch.zeros(2, 48).to_sparse())}),
        r"itm_head\.weight is not a plain",
    ),
    "odd_positions": (
        lambda: _torch_bytes({"model": _state(visual_encoder__pos_embed=torch.zeros(1, 12, 40))}),
        "has 12 positions, which is not 1 and a square",
    ),
    "odd_rank": (
        lambda: _torch_bytes({"model": _state(visual_encoder__pos_embed=torch.zeros(10, 40))}),
        "which BLIP_ITM's cannot have",
    ),
    "unknown_heads": (lambda: _torch_bytes({"model": _state()}), "vision width 40 does not tell its number of heads"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_one_clear_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, message = BAD_FILES[case]
    Path("bad.pth").write_bytes(make())
    load = partial(blip_itm, **SMALL) if case in ("missing", "misshapen", "integers", "sparse") else load_model
    with pytest.raises(CheckpointError, match=message) as caught:
        load("bad.pth")
    assert "bad.pth" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "capsieve BLIP_ITM 9"}, "format 'capsieve BLIP_ITM 9', this version reads"),
        ({"image_size": 64}, "image_size is 64, but the tensors say 48"),
        ({"vision": {"width": 1, "depth": 1, "heads": 1}}, "vision.width is 1, but the tensors say 40"),
        ({"vision": SMALL_VIT._asdict() | {"heads": 7}}, "vision width 40 cannot be divided into 7 heads"),
        ({"vision": SMALL_VIT._asdict() | {"heads": "5"}}, "cannot be divided into '5' heads"),
        ({"vision": {"colour": "red"}}, "bad configuration: TypeError"),
        ({"text": SMALL_TEXT | {"num_hidden_layers": 10**9}}, "text.num_hidden_layers is 1000000000, but the tensors say 3"),
        ({"format": "", "model_type": "clip"}, "neither capsieve's nor that of a Hugging Face BLIP model"),
    ],
)
def test_configuration_that_contradicts_the_tensors(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_checkpoint(small_model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("[]", "is not a JSON object"), ("[" * 100_000, "is not JSON")]
)
def test_configuration_that_is_no_json(text: str, message: str, tmp_path: Path) -> None:
    save_checkpoint(small_model(), tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path)


def test_vocabulary_that_does_not_fit_the_weights(tmp_path: Path) -> None:
    save_checkpoint(small_model(med_config=SMALL_TEXT | {"vocab_size": 9}, tokenizer=CaptionTokenizer(WORDS)), tmp_path)
    (tmp_path / "vocab.txt").write_text("red\n")
    with pytest.raises(CheckpointError, match="it is not a BERT vocabulary"):
        load_model(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match="the tokenizer has 30524 entries, but vocab_size of med_config is 9"):
        load_model(tmp_path)


def test_another_number_of_heads_is_refused(tmp_path: Path) -> None:
    save_checkpoint(small_model(), tmp_path)
    with pytest.raises(CheckpointError, match="has 5 vision heads, the model has 4"):
        load_checkpoint(BLIP_ITM(**SMALL | {"vit": SMALL_VIT._replace(heads=4)}), tmp_path)


def test_writing_where_one_may_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(small_model(), tmp_path / "file" / "model")
    with pytest.raises(ValueError, match="format 'onnx' is not one of"):
        save_checkpoint(small_model(), tmp_path / "x", format="onnx")  # type: ignore[arg-type]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    save_checkpoint(small_model(), path)
    before = path.read_bytes()
    monkeypatch.setattr("pipeline.model.weights.save_file", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(CheckpointError, match="disk full"):
        save_checkpoint(small_model(1), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]
