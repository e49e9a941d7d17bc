"""Weights in and out: three formats in both directions, other image sizes, and files that are not what they should be."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import BlipForImageTextRetrieval

from pipeline.model import BLIP_ITM, load_checkpoint, load_model, save_checkpoint
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


def test_names_are_translated_both_ways(tmp_path: Path) -> None:
    theirs, ours = reference_pair(SMALL_SIZE, SMALL_TEXT, SMALL_VIT, 24)
    own_names = [name for name in ours.state_dict() if not name.endswith("position_ids")]
    assert sorted(map(to_hugging_face, own_names)) == sorted(theirs.state_dict())
    assert [from_hugging_face(to_hugging_face(name)) for name in own_names] == own_names
    assert not any(map(is_foreign, own_names))
    save_checkpoint(ours, tmp_path, format="huggingface")
    assert sorted(load_file(tmp_path / "model.safetensors")) == sorted(theirs.state_dict())
