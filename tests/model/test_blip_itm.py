"""The model's public interface, its one-pass way, and what it says to bad input. Its numbers are held by test_parity."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
import torch

import pipeline.model
from pipeline.errors import CheckpointError
from pipeline.model import BLIP_ITM, blip_itm, init_tokenizer, load_checkpoint, save_checkpoint
from pipeline.model.tokenizer import CaptionTokenizer
from tests.model.builders import CAPTIONS, SMALL_SIZE, SMALL_TEXT, SMALL_VIT, images, randomise, small_model

SMALL = {"med_config": SMALL_TEXT, "image_size": SMALL_SIZE, "vit": SMALL_VIT, "embed_dim": 24}


def test_published_interface() -> None:
    parameters = inspect.signature(BLIP_ITM).parameters
    defaults = {name: parameter.default for name, parameter in list(parameters.items())[:6]}
    assert defaults == {
        "med_config": "configs/med_config.json",
        "image_size": 384,
        "vit": "base",
        "vit_grad_ckpt": False,
        "vit_ckpt_layer": 0,
        "embed_dim": 256,
    }
    assert list(inspect.signature(load_checkpoint).parameters)[:2] == ["model", "url_or_filename"]
    model = small_model()
    for part in ("visual_encoder", "tokenizer", "text_encoder", "vision_proj", "text_proj", "itm_head"):
        assert hasattr(model, part)


def test_base_has_the_published_tensors() -> None:
    with torch.device("meta"):
        model = BLIP_ITM()
    state = model.state_dict()
    assert len(state) == 473
    assert sum(parameter.numel() for parameter in model.parameters()) == 223_744_258
    assert state["text_encoder.embeddings.position_ids"].shape == (1, 512)
    for name, shape in {
        "visual_encoder.pos_embed": (1, 577, 768),
        "visual_encoder.blocks.11.attn.qkv.weight": (2304, 768),
        "text_encoder.encoder.layer.11.crossattention.self.value.bias": (768,),
        "text_encoder.embeddings.word_embeddings.weight": (30_524, 768),
        "itm_head.weight": (2, 768),
        "text_proj.weight": (256, 768),
    }.items():
        assert state[name].shape == shape


def test_large_attends_from_768_to_1024() -> None:
    with torch.device("meta"):
        model = BLIP_ITM(vit="large", vit_grad_ckpt=True, vit_ckpt_layer=12)
    assert model.text_encoder.encoder.layer[0].crossattention.self.key.weight.shape == (768, 1024)
    assert model.visual_encoder.checkpointed_blocks == 12


def test_importing_a_submodule_first_leaves_the_function_in_place() -> None:
    code = (
        "import pipeline.model.blip_itm; from pipeline.model import blip_itm;"
        "import types; assert isinstance(blip_itm, types.FunctionType)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["pipeline.model", "pipeline.model.source", "pipeline.model.tokenizer"])
def test_a_driver_does_not_pay_for_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_name_of_the_package() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'blip_decoder'"):
        _ = pipeline.model.blip_decoder


@pytest.mark.parametrize("first_token", ["cls", "enc"])
@pytest.mark.parametrize("index", [None, [0, 0, 1, 2, 2], [2, 0, 2, 2, 2], [1, 1, 1, 1, 1]])
def test_one_pass_equals_each_head(first_token: str, index: list[int] | None) -> None:
    model = small_model(itm_first_token=first_token)
    image_index = None if index is None else torch.tensor(index)
    pixels = images(5 if index is None else 3)
    of_pairs = pixels if image_index is None else pixels[image_index]
    with torch.inference_mode():
        scores = model.score_pairs(pixels, *model.tokenize(CAPTIONS), image_index)
        torch.testing.assert_close(scores.itm_logits, model(of_pairs, CAPTIONS), rtol=0, atol=1e-5)
        cosines = model(of_pairs, CAPTIONS, match_head="itc").diagonal()
        torch.testing.assert_close(scores.itc_similarity, cosines, rtol=0, atol=1e-5)


def test_keys_and_values_are_made_once_an_image() -> None:
    model = small_model()
    rows = []
    for layer in model.text_encoder.encoder.layer:
        layer.crossattention.self.key.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    model.visual_encoder.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    model.score_pairs(images(2), *model.tokenize(CAPTIONS), torch.tensor([0, 0, 0, 1, 0]))
    assert rows == [2] * (1 + len(model.text_encoder.encoder.layer))


def test_scores_do_not_depend_on_the_rest_of_the_batch() -> None:
    model = small_model()
    pixels = images(5)
    with torch.inference_mode():
        together = model.score_pairs(pixels, *model.tokenize(CAPTIONS))
        for index, caption in enumerate(CAPTIONS):
            alone = model.score_pairs(pixels[index : index + 1], *model.tokenize(caption))
            torch.testing.assert_close(alone.itm_logits[0], together.itm_logits[index], rtol=0, atol=1e-5)
            torch.testing.assert_close(alone.itc_similarity[0], together.itc_similarity[index], rtol=0, atol=1e-5)


def test_enc_stands_before_the_matching_text_alone() -> None:
    cls, enc = small_model(), small_model(itm_first_token="enc")
    seen = []
    enc.text_encoder.embeddings.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][:, 0].tolist()))
    input_ids, mask = enc.tokenize(["a cat", "a dog"])
    with torch.inference_mode():
        ours, theirs = (model.score_pairs(images(2), input_ids, mask) for model in (enc, cls))
    assert sorted(seen) == [[101, 101], [30_523, 30_523]]
    assert input_ids[:, 0].tolist() == [101, 101]
    assert not torch.allclose(ours.itm_logits, theirs.itm_logits)
    assert torch.equal(ours.itc_similarity, theirs.itc_similarity)


def test_itc_is_a_matrix_of_cosines() -> None:
    model = small_model()
    cosines = model(images(2), CAPTIONS, match_head="itc")
    assert cosines.shape == (2, 5)
    assert cosines.abs().max() <= 1 + 1e-6


def test_one_string_is_one_caption() -> None:
    model = small_model()
    assert torch.equal(model(images(1), "a cat"), model(images(1), ["a cat"]))


@pytest.mark.parametrize(
    ("pixels", "captions", "head", "message"),
    [
        (images(2), ["a", "b"], "vqa", "match_head 'vqa' is not one of 'itm', 'itc'"),
        (images(2), ["a"], "itm", "one caption an image, not 1 captions for 2 images"),
        (images(2), "a", "itm", "one caption an image, not 1 captions for 2 images"),
        (images(2)[0], ["a"], "itm", "4 dimensions"),
        (images(2)[:, :1], ["a", "b"], "itc", "3 channels"),
        (images(2, 64), ["a", "b"], "itm", "48 x 48 pixels"),
    ],
)
def test_bad_input_is_named(pixels: torch.Tensor, captions: Any, head: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model()(pixels, captions, match_head=head)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"itm_first_token": "sep"}, "itm_first_token 'sep' is not one of"),
        (
            {"med_config": SMALL_TEXT | {"vocab_size": 30_522}},
            "tokenizer has 30524 entries, but vocab_size of med_config is 30522",
        ),
        ({"med_config": SMALL_TEXT | {"max_position_embeddings": 20}}, "up to 35 tokens, but max_position_embeddings is 20"),
        ({"med_config": SMALL_TEXT | {"pad_token_id": 1}}, r"\[PAD\] is 0 in the tokenizer"),
    ],
)
def test_parts_that_do_not_fit_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BLIP_ITM(**SMALL | options)


def test_a_vocabulary_of_ones_own() -> None:
    tokenizer = CaptionTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "ball"])
    model = BLIP_ITM(**SMALL | {"med_config": SMALL_TEXT | {"vocab_size": 8}}, tokenizer=tokenizer)
    assert model.tokenize("red ball")[0].tolist() == [[2, 4, 5, 3]]
    assert model.text_encoder.embeddings.word_embeddings.num_embeddings == 8
    assert model(images(1), "red zebra").shape == (1, 2)


def test_training_reaches_every_parameter() -> None:
    model = randomise(BLIP_ITM(**SMALL, vit_grad_ckpt=True, vit_ckpt_layer=2)).train()
    input_ids, mask = model.tokenize(CAPTIONS[:2])
    image_tokens = model.encode_image(images(2))
    logits = model.match_logits(image_tokens, input_ids, mask, torch.tensor([1, 1]))
    cosines = model.image_embedding(image_tokens) @ model.text_embedding(input_ids, mask).T
    (logits.square().sum() + cosines.square().sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_blip_itm_wants_every_tensor(tmp_path: Any) -> None:
    model = small_model()
    save_checkpoint(model, tmp_path / "whole.pth", format="pth")
    assert torch.equal(blip_itm(str(tmp_path / "whole.pth"), **SMALL).itm_head.weight, model.itm_head.weight)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("itm_head")}
    torch.save({"model": state}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"part\.pth' lacks 2 tensors of the model: itm_head\.weight, itm_head\.bias"):
        blip_itm(str(tmp_path / "part.pth"), **SMALL)
    assert isinstance(blip_itm(**SMALL), BLIP_ITM)


def test_tokenizer_is_the_published_one() -> None:
    assert len(init_tokenizer()) == 30_524
