"""Grad-CAM: the logits of the ordinary forward, and maps as transformers', autograd's and finite differences' own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import BlipForImageTextRetrieval

from pipeline.model import BLIP_ITM
from pipeline.model.gradcam import MATCH, check_layer, default_layer, token_maps
from pipeline.model.vit import VIT_SHAPES
from tests.model.builders import CAPTIONS, SMALL_SIZE, SMALL_TEXT, SMALL_VIT, images, reference_pair, small_model

GRID = SMALL_SIZE // 16
DEEP_TEXT = SMALL_TEXT | {"num_hidden_layers": 4}


@pytest.fixture(scope="module")
def pair() -> tuple[BlipForImageTextRetrieval, BLIP_ITM]:
    return reference_pair(SMALL_SIZE, DEEP_TEXT, SMALL_VIT, 24)


def encoded(model: BLIP_ITM, captions: list[str], size: int = SMALL_SIZE) -> Tensor:
    with torch.no_grad():
        return model.encode_image(images(len(captions), size))


@pytest.mark.parametrize("first_token", ["cls", "enc"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_logits_are_those_of_the_ordinary_forward(first_token: str, layer: int) -> None:
    model = small_model(med_config=DEEP_TEXT, itm_first_token=first_token)
    tokens, (input_ids, mask) = encoded(model, CAPTIONS), model.tokenize(CAPTIONS)
    with torch.no_grad():
        wanted = model.match_logits(tokens, input_ids, mask)
    found = token_maps(model, tokens, input_ids, mask, layer)
    assert wanted.std(dim=0).min() > 0.01
    torch.testing.assert_close(found.itm_logits, wanted, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_logits_of_the_base_model() -> None:
    text = {"num_attention_heads": 12, "hidden_size": 768, "vocab_size": 30_524, "num_hidden_layers": 12}
    model = small_model(med_config=text, image_size=224, vit=VIT_SHAPES["base"])
    tokens, (input_ids, mask) = encoded(model, CAPTIONS[:2], 224), model.tokenize(CAPTIONS[:2])
    with torch.no_grad():
        wanted = model.match_logits(tokens, input_ids, mask)
    found = token_maps(model, tokens, input_ids, mask, default_layer(12))
    torch.testing.assert_close(found.itm_logits, wanted, rtol=0, atol=1e-4)
    assert found.maps.shape == (2, input_ids.shape[1], 14, 14)
    assert (found.maps.amax(dim=(2, 3)) > 0)[mask.bool()].all()


def reference_maps(theirs: BlipForImageTextRetrieval, ours: BLIP_ITM, captions: list[str], layer: int) -> Tensor:
    """(n, L, 1 + g * g): transformers' own attentions and torch's gradient, put together with loops."""
    input_ids, mask = ours.tokenize(captions)
    tokens = theirs.vision_model(images(len(captions), SMALL_SIZE)).last_hidden_state
    out = theirs.text_encoder(input_ids, attention_mask=mask, encoder_hidden_states=tokens, output_attentions=True)
    logit = theirs.itm_head(out.last_hidden_state[:, 0])[:, MATCH].sum()
    attention = out.cross_attentions[layer]  # (n, heads, L, 1 + g * g)
    (gradient,) = torch.autograd.grad(logit, attention)
    maps = torch.zeros(attention.shape[0], attention.shape[2], attention.shape[3])
    heads = attention.shape[1]
    for head in range(heads):
        maps += gradient[:, head].relu() * attention[:, head].detach() / heads
    return maps


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_maps_are_those_of_the_reference(pair: tuple[BlipForImageTextRetrieval, BLIP_ITM], layer: int) -> None:
    theirs, ours = pair
    input_ids, mask = ours.tokenize(CAPTIONS)
    found = token_maps(ours, encoded(ours, CAPTIONS), input_ids, mask, layer)
    wanted = reference_maps(theirs, ours, CAPTIONS, layer)
    for number, length in enumerate(mask.sum(dim=1).tolist()):
        own = wanted[number, :length]
        assert own.max() > 1e-4
        for row in range(GRID):
            for column in range(GRID):
                patch = own[:, 1 + row * GRID + column]
                torch.testing.assert_close(found.maps[number, :length, row, column], patch, rtol=1e-3, atol=1e-7)
        assert not found.maps[number, length:].any(), "padding has no map"


def test_in_the_last_layer_words_have_no_maps(pair: tuple[BlipForImageTextRetrieval, BLIP_ITM]) -> None:
    wanted = reference_maps(*pair, CAPTIONS[:2], DEEP_TEXT["num_hidden_layers"] - 1)
    assert wanted[:, 0].max() > 1e-4
    assert not wanted[:, 1:].any()
    with pytest.raises(ValueError, match="layer 3 of a text encoder of 4 layers has no maps of words: possible are 0 to 2"):
        check_layer(3, 4)


def explicit(model: BLIP_ITM, layer: int, change: Callable[[Tensor], Tensor]) -> None:
    """Let a layer's cross-attention compute its probabilities in the open, and `change` them (n, heads, L, patches)."""
    projections = model.text_encoder.encoder.layer[layer].crossattention.self

    def attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
        assert visible is None
        heads = [part.reshape(*part.shape[:2], projections.heads, -1).transpose(1, 2) for part in (query, key, value)]
        scaled = heads[0] @ heads[1].mT / heads[0].shape[-1] ** 0.5
        return (change(scaled.softmax(dim=-1)) @ heads[2]).transpose(1, 2).flatten(2)

    projections._attend = attend


def test_maps_are_what_finite_differences_say() -> None:
    model = small_model(med_config=DEEP_TEXT).double()
    caption = ["a small dog on a lawn"]
    tokens, (input_ids, mask) = encoded(model.float(), caption).double(), model.tokenize(caption)
    model.double()
    layer = 1
    found = token_maps(model, tokens, input_ids, mask, layer)
    seen: list[Tensor] = []
    delta = torch.zeros(0)

    def change(probabilities: Tensor) -> Tensor:
        seen.append(probabilities)
        return probabilities + delta if len(delta) else probabilities

    explicit(model, layer, change)
    step = 1e-5
    with torch.no_grad():
        logit = model.match_logits(tokens, input_ids, mask)[0, MATCH]
        probabilities = seen[0][0]
        heads, length, patches = probabilities.shape
        maps = torch.zeros(length, patches, dtype=torch.float64)
        for head in range(heads):
            for token in range(length):
                for patch in range(patches):
                    delta = torch.zeros(1, heads, length, patches, dtype=torch.float64)
                    delta[0, head, token, patch] = step
                    slope = (model.match_logits(tokens, input_ids, mask)[0, MATCH] - logit) / step
                    maps[token, patch] += max(float(slope), 0.0) * probabilities[head, token, patch] / heads
    torch.testing.assert_close(found.maps[0].flatten(1), maps[:, 1:].float(), rtol=1e-2, atol=1e-6)


def test_the_company_of_a_caption_does_not_matter() -> None:
    model = small_model(med_config=DEEP_TEXT)
    tokens = encoded(model, CAPTIONS[:2])
    together = token_maps(model, tokens, *model.tokenize(CAPTIONS[:2]), 1)
    alone = token_maps(model, tokens[:1], *model.tokenize(CAPTIONS[:1]), 1)
    length = alone.maps.shape[1]
    torch.testing.assert_close(together.maps[0, :length], alone.maps[0], rtol=1e-4, atol=1e-8)


def test_nothing_of_the_model_is_changed() -> None:
    model = small_model(med_config=DEEP_TEXT)
    before = {name: (value.clone(), value.requires_grad) for name, value in model.named_parameters()}
    token_maps(model, encoded(model, CAPTIONS), *model.tokenize(CAPTIONS), 1)
    for name, value in model.named_parameters():
        assert value.grad is None
        assert value.requires_grad == before[name][1]
        assert torch.equal(value, before[name][0])


def test_a_training_model_is_refused() -> None:
    model = small_model(med_config=DEEP_TEXT)
    tokens = encoded(model, CAPTIONS)
    with pytest.raises(ValueError, match="training mode"):
        token_maps(model.train(), tokens, *model.tokenize(CAPTIONS), 1)


@pytest.mark.parametrize(("depth", "layer"), [(12, 7), (24, 15), (6, 3), (4, 2), (3, 1), (2, 0)])
def test_the_same_relative_depth_for_every_depth(depth: int, layer: int) -> None:
    assert default_layer(depth) == layer
    check_layer(layer, depth)


def test_a_single_layer_has_no_maps_of_words() -> None:
    with pytest.raises(ValueError, match="possible are none"):
        check_layer(default_layer(1), 1)
