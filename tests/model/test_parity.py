"""BLIP_ITM against Hugging Face's BlipForImageTextRetrieval: the same weights and inputs give the same numbers."""

from __future__ import annotations

import pytest
import torch
from transformers import BlipForImageTextRetrieval

from pipeline.model import BLIP_ITM
from pipeline.model.vit import VIT_SHAPES
from tests.model.builders import CAPTIONS, SMALL_SIZE, SMALL_TEXT, SMALL_VIT, images, reference_pair

TOLERANCE = 1e-4  # largest absolute difference, float32


def largest_difference(theirs: BlipForImageTextRetrieval, ours: BLIP_ITM, captions: list[str], image_size: int) -> float:
    """Over both heads, forward and score_pairs; also asserts that the reference's own numbers vary."""
    pixels = images(len(captions), image_size)
    input_ids, mask = ours.tokenize(captions)
    with torch.inference_mode():
        itm, itc = (theirs(input_ids, pixels, use_itm_head=head, attention_mask=mask).itm_score for head in (True, False))
        pairs = ours.score_pairs(pixels, input_ids, mask)
        differences = [
            ours(pixels, captions) - itm,
            ours(pixels, captions, match_head="itc") - itc,
            pairs.itm_logits - itm,
            pairs.itc_similarity - itc.diagonal(),
        ]
    assert itm.std(dim=0).min() > 0.01  # all weights in play, no head that answers a constant
    assert itc.std() > 0.01
    return max(float(difference.abs().max()) for difference in differences)


def test_small_model_matches() -> None:
    theirs, ours = reference_pair(SMALL_SIZE, SMALL_TEXT, SMALL_VIT, 24)
    assert largest_difference(theirs, ours, CAPTIONS, SMALL_SIZE) < 1e-5


def test_epsilon_of_either_implementation_matches() -> None:
    vit = SMALL_VIT._replace(layer_norm_eps=1e-2)  # far above both published values, so that ignoring it shows
    theirs, ours = reference_pair(SMALL_SIZE, SMALL_TEXT, vit, 24)
    assert largest_difference(theirs, ours, CAPTIONS, SMALL_SIZE) < 1e-5
    ours.visual_encoder.set_layer_norm_eps(1e-6)
    assert largest_difference(theirs, ours, CAPTIONS, SMALL_SIZE) > 1e-3


def test_padding_to_35_gives_the_same_numbers() -> None:
    theirs, ours = reference_pair(SMALL_SIZE, SMALL_TEXT, SMALL_VIT, 24)
    pixels, captions = images(2), ["a cat", "a small dog"]
    input_ids, mask = (torch.nn.functional.pad(part, (0, 35 - part.shape[1])) for part in ours.tokenize(captions))
    with torch.inference_mode():
        itm = theirs(input_ids, pixels, attention_mask=mask).itm_score
        torch.testing.assert_close(ours(pixels, captions), itm, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("image_size", [224, 384])
def test_base_model_matches(image_size: int) -> None:
    text = {"num_attention_heads": 12, "hidden_size": 768, "vocab_size": 30_524}
    theirs, ours = reference_pair(image_size, text, VIT_SHAPES["base"], 256)
    difference = largest_difference(theirs, ours, CAPTIONS[:3], image_size)
    print(f"largest difference at {image_size} px: {difference:.2e}")  # noqa: T201
    assert difference < TOLERANCE
