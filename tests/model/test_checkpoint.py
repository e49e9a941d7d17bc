"""Weights in and out: three formats in both directions, other image sizes, and files that are not what they should be."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import pickle
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import BlipForImageTextRetrieval

from pipeline.errors import CheckpointError
from pipeline.model import BLIP_ITM, blip_itm, load_checkpoint, load_model, save_checkpoint
from pipeline.model.checkpoint import resize_positions
from pipeline.model.names import from_hugging_face, is_foreign, to_hugging_face
from pipeline.model.tokenizer import CaptionTokenizer
from pipeline.model.vit import VitShape
from tests.model.builders import CAPTIONS, SMALL_SIZE, SMALL_TEXT, SMALL_VIT, images, reference_pair, small_model

SMALL = {"med_config": SMALL_TEXT, "image_size": SMALL_SIZE, "vit": SMALL_VIT, "embed_dim": 24}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "ball", "##s"]
FORMATS = [("folder", "safetensors"), ("alone.safetensors", "safetensors"), ("hugging", "huggingface"), ("alone.pth", "pth")]


def scores(model: BLIP_ITM) -> Tensor:
    """(5, 7) both heads' answers."""
    size = model.visual_encoder.image_size
    with torch.inference_mode():
        return torch.cat([model(images(5, size), CAPTIONS), model(images(5, size), CAPTIONS, match_head="itc")], dim=1)


@pytest.mark.parametrize(("name", "format"), FORMATS)
def test_round_trip(name: str, format: str, tmp_path: Path) -> None:
    model = small_model()
    save_checkpoint(model, tmp_path / name, format=format)
    again = load_model(str(tmp_path / name))
    assert not again.training
    assert torch.equal(scores(again), scores(model))
    assert {key: tensor.shape for key, tensor in again.state_dict().items()} == {
        k: t.shape for k, t in model.state_dict().items()
    }
    into = BLIP_ITM(**SMALL).eval()
    loaded = load_checkpoint(into, tmp_path / name)
    assert loaded.model is into
    assert loaded.message == ([], [])
    assert torch.equal(scores(into), scores(model))
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize(("name", "format"), FORMATS)
def test_round_trip_of_an_own_vocabulary(name: str, format: str, tmp_path: Path) -> None:
    text = SMALL_TEXT | {"vocab_size": 10}
    model = small_model(med_config=text, tokenizer=CaptionTokenizer(WORDS))
    save_checkpoint(model, tmp_path / name, format=format)
    again = load_model(tmp_path / name)
    assert again.tokenizer.vocab == tuple(WORDS)
    assert again.tokenize("red balls")[0].tolist() == [[2, 4, 5, 6, 3]]
    assert torch.equal(scores(again), scores(model))


def test_own_folder_is_three_readable_files(tmp_path: Path) -> None:
    save_checkpoint(small_model(), tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["format"] == "capsieve BLIP_ITM 1"
    assert config["image_size"] == SMALL_SIZE
    assert config["vision"]["heads"] == SMALL_VIT.heads


def test_hugging_face_reads_what_we_write(tmp_path: Path) -> None:
    model = small_model(vit=SMALL_VIT._replace(layer_norm_eps=1e-3))
    save_checkpoint(model, tmp_path / "hf", format="huggingface")
    theirs, report = BlipForImageTextRetrieval.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report.values())
    input_ids, mask = model.tokenize(CAPTIONS)
    with torch.inference_mode():
        itm = theirs.eval()(input_ids, images(5), attention_mask=mask).itm_score
    torch.testing.assert_close(model(images(5), CAPTIONS), itm, rtol=0, atol=1e-5)


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_we_read_what_hugging_face_writes(eps: float, tmp_path: Path) -> None:
    theirs, ours = reference_pair(SMALL_SIZE, SMALL_TEXT, SMALL_VIT._replace(layer_norm_eps=eps), 24)
    theirs.save_pretrained(tmp_path)
    assert torch.equal(scores(load_model(tmp_path)), scores(ours))
    into = BLIP_ITM(**SMALL).eval()  # with the authors' epsilon
    load_checkpoint(into, tmp_path)
    assert torch.equal(scores(into), scores(ours))
    assert into.visual_encoder.shape.layer_norm_eps == eps


def test_hugging_face_configuration_may_leave_defaults_out(tmp_path: Path) -> None:
    vit, text = VitShape(96, 2, 12, layer_norm_eps=1e-5), SMALL_TEXT | {"num_attention_heads": 8}
    theirs, ours = reference_pair(SMALL_SIZE, text, vit, 24)
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for part, keys in (
        ("vision_config", ("num_attention_heads", "layer_norm_eps")),
        ("text_config", ("num_attention_heads", "layer_norm_eps")),
    ):
        for key in keys:
            del config[part][key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(scores(load_model(tmp_path)), scores(ours))


def test_published_file_without_configuration(tmp_path: Path) -> None:
    """Only tensors, and what BLIP's training leaves beside them; sizes with heads of 64."""
    model = small_model(vit="tiny", med_config=SMALL_TEXT | {"hidden_size": 128, "num_attention_heads": 2})
    beside = {"visual_encoder_m.cls_token": torch.ones(1), "text_proj_m.weight": torch.ones(1), "temp": torch.ones(())}
    beside |= {
        "image_queue": torch.ones(2, 2),
        "queue_ptr": torch.zeros(1, dtype=torch.int64),
        "text_decoder.bert.x": torch.ones(1),
    }
    torch.save({"model": model.state_dict() | beside, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "model.pth")
    again = load_model(tmp_path / "model.pth")
    assert torch.equal(scores(again), scores(model))
    assert load_checkpoint(again, tmp_path / "model.pth").message.unexpected_keys == []


def test_large_is_recognised_with_its_drop_path(tmp_path: Path) -> None:
    vit = VitShape(1024, 24, 16, mlp_width=8)  # a sliver of the large model
    with torch.device("meta"):
        model = BLIP_ITM(SMALL_TEXT | {"hidden_size": 64, "num_attention_heads": 1}, 32, vit, embed_dim=8)
    torch.save({"model": model.to_empty(device="cpu").state_dict()}, tmp_path / "large.pth")
    shape = load_model(tmp_path / "large.pth").visual_encoder.shape
    assert (shape.heads, shape.drop_path) == (16, 0.1)


@pytest.mark.parametrize("image_size", [32, 96])
def test_another_image_size(image_size: int, tmp_path: Path) -> None:
    model = small_model()
    save_checkpoint(model, tmp_path / "x.pth", format="pth")
    resized = load_model(tmp_path / "x.pth", image_size=image_size)
    positions, old = resized.visual_encoder.pos_embed.detach(), model.visual_encoder.pos_embed.detach()
    grid = old[:, 1:].reshape(1, 3, 3, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(image_size // 16,) * 2, mode="bicubic", align_corners=False)
    assert torch.equal(positions[:, :1], old[:, :1])
    torch.testing.assert_close(positions[:, 1:], expected.permute(0, 2, 3, 1).flatten(1, 2))
    assert scores(resized).isfinite().all()


def test_positions_keep_their_places_when_resized() -> None:
    rows = torch.arange(4.0).repeat_interleave(4)
    positions = torch.cat([torch.tensor([99.0]), rows]).view(1, 17, 1)
    doubled = resize_positions(positions, 65)[0, 1:, 0].view(8, 8)
    assert (doubled.std(dim=1) < 1e-5).all()  # still the same along a row of patches
    assert (doubled[:, 0].diff() > 0).all()  # and growing from row to row


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    model = small_model()
    save_file(
        {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()},
        tmp_path / "a.safetensors",
    )
    into = BLIP_ITM(**SMALL).eval()
    load_checkpoint(into, tmp_path / "a.safetensors")
    assert into.itm_head.weight.dtype == torch.float32
    torch.testing.assert_close(scores(into), scores(model), rtol=0, atol=0.05)


def test_missing_and_unexpected_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = small_model().state_dict()
    del state["vision_proj.bias"], state["text_encoder.embeddings.position_ids"]
    torch.save({"model": state | {"cls.predictions.bias": torch.zeros(2)}}, tmp_path / "x.pth")
    with caplog.at_level(logging.WARNING):
        message = load_checkpoint(BLIP_ITM(**SMALL), tmp_path / "x.pth").message
    assert message.missing_keys == ["vision_proj.bias"]
    assert message.unexpected_keys == ["cls.predictions.bias"]
    assert "passed over 1 tensors: cls.predictions.bias" in caplog.text


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
    assert stat.S_ISREG(path.stat().st_mode)


def test_names_are_translated_both_ways(tmp_path: Path) -> None:
    theirs, ours = reference_pair(SMALL_SIZE, SMALL_TEXT, SMALL_VIT, 24)
    own_names = [name for name in ours.state_dict() if not name.endswith("position_ids")]
    assert sorted(map(to_hugging_face, own_names)) == sorted(theirs.state_dict())
    assert [from_hugging_face(to_hugging_face(name)) for name in own_names] == own_names
    assert not any(map(is_foreign, own_names))
    save_checkpoint(ours, tmp_path, format="huggingface")
    assert sorted(load_file(tmp_path / "model.safetensors")) == sorted(theirs.state_dict())
