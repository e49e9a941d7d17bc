"""Pixels and captions in, heat maps out: a model on a device, for one image at a time.

Owns normalisation, which words a caption has, and how maps of tokens become maps of words and of the whole caption. In float32
always: gradients of half precision vanish. Knows nothing of rows, files or colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.device import Upload, choose_device
from pipeline.model.blip_itm import BLIP_ITM, ItmFirstToken
from pipeline.model.checkpoint import load_model
from pipeline.model.gradcam import check_layer, default_layer, token_maps
from pipeline.schema import FloatArray


class WordMap(NamedTuple):
    """Where one word looks."""

    word: str  # as in the caption
    map: FloatArray  # (g, g) float32, >= 0: the mean of its tokens'


class CaptionMaps(NamedTuple):
    """Where a caption looks. Values of one caption may be compared with each other, not with another's."""

    itm_score: float  # P(match), as a scorer gives it in float32
    itm_logit: float  # match minus mismatch
    map: FloatArray  # (g, g) float32, >= 0: the mean over all tokens but [CLS] and [SEP], as LAVIS shows it
    words: tuple[WordMap, ...]  # in order, without punctuation; those beyond the model's tokens are not there


class Explainer:
    """Explains pairs with a model that it takes over (moved, in eval mode).

    device: a torch device, or "auto". layer: of the text encoder, from 0; None: `default_layer`. Raises ValueError for a
    device that cannot be had, or a layer that has no maps of words.
    """

    def __init__(self, model: BLIP_ITM, device: str = "auto", layer: int | None = None) -> None:
        depth = model.text_encoder.config.num_hidden_layers
        self.layer = default_layer(depth) if layer is None else layer
        check_layer(self.layer, depth)
        self.model = model.eval().to(choose_device(device), torch.float32)
        self.image_size = model.visual_encoder.image_size
        self._upload = Upload(choose_device(device))

    def explain(self, pixels: npt.NDArray[np.uint8], captions: Sequence[str]) -> list[CaptionMaps]:
        """Maps of each caption on one image, uint8 (S, S, 3) RGB, S the model's image size."""
        if not captions:
            return []
        image = self._upload.finish(self._upload.start(pixels[None]), torch.float32)
        with torch.no_grad():
            image_tokens = self.model.encode_image(image).expand(len(captions), -1, -1)
        found = token_maps(self.model, image_tokens, *self.model.tokenize(captions), self.layer)
        logits, maps = found.itm_logits.double().cpu(), found.maps.cpu()
        scores, margins = logits.softmax(dim=1)[:, 1].tolist(), (logits[:, 1] - logits[:, 0]).tolist()
        return [self._of_words(*row) for row in zip(captions, scores, margins, maps, strict=True)]

    def _of_words(self, caption: str, score: float, logit: float, maps: Tensor) -> CaptionMaps:
        """maps: (L, g, g), of each token."""
        words = self.model.tokenizer.words(caption)
        whole = maps[words[0].start : words[-1].stop].mean(dim=0) if words else torch.zeros_like(maps[0])
        own = [
            WordMap(word.text, maps[word.start : word.stop].mean(dim=0).numpy())
            for word in words
            if any(character.isalnum() for character in word.text)
        ]
        return CaptionMaps(score, logit, whole.numpy(), tuple(own))


def load_explainer(
    checkpoint: str | Path,
    *,
    image_size: int | None = None,
    device: str = "auto",
    itm_first_token: ItmFirstToken = "cls",
    layer: int | None = None,
    storage_options: dict[str, Any] | None = None,
) -> Explainer:
    """An explainer with a checkpoint's model; the arguments are those of `load_model` and `Explainer`."""
    model = load_model(checkpoint, image_size=image_size, itm_first_token=itm_first_token, storage_options=storage_options)
    return Explainer(model, device, layer)
