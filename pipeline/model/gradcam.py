"""Grad-CAM on the matching head's cross-attention: which patches of an image each token of a caption owes its match to.

As the authors of ALBEF and BLIP show theirs (arXiv:2107.07651, figure 2; LAVIS `compute_gradcam`): of one layer's
cross-attention, the probabilities times the positive part of the match logit's gradient by them, averaged over heads. That
layer's attention is computed explicitly, because a fused kernel gives no probabilities; all others run as they always do.
Knows nothing of strings, files or pictures.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple, cast

import torch
from torch import Tensor

from pipeline.model.blip_itm import BLIP_ITM
from pipeline.model.med import Layer, Projections
from pipeline.model.packing import Packing
from pipeline.model.texts import whole_grid

MATCH = 1  # of the itm head's two logits
# LAVIS's demonstrations look at the eighth of base's twelve layers (`block_num=7`)
_PUBLISHED_LAYER, _PUBLISHED_DEPTH = 8, 12


class TokenMaps(NamedTuple):
    """Of n (image, caption) pairs, L tokens, a grid of g by g patches."""

    itm_logits: Tensor  # (n, 2): mismatch, match
    maps: Tensor  # (n, L, g, g) float32, >= 0: rows of patches from the top; zero on padding


def default_layer(depth: int) -> int:
    """The layer looked at in a text encoder of `depth` layers, counted from 0: at base's relative depth, never the last.

    Above the last layer's cross-attention no other token reaches [CLS], so all maps but [CLS]'s own are zero there.
    """
    return max(0, min(-(-_PUBLISHED_LAYER * depth // _PUBLISHED_DEPTH), depth - 1) - 1)


def check_layer(layer: int, depth: int) -> None:
    """Raise ValueError for a layer that has no maps of words."""
    if not 0 <= layer < depth - 1:
        possible = f"0 to {depth - 2}" if depth > 1 else "none"
        raise ValueError(f"layer {layer} of a text encoder of {depth} layers has no maps of words: possible are {possible}")


def token_maps(model: BLIP_ITM, image_tokens: Tensor, input_ids: Tensor, attention_mask: Tensor, layer: int) -> TokenMaps:
    """Maps of n captions, each with its image; the logits are those of `BLIP_ITM.match_logits`, to rounding.

    image_tokens: (n, 1 + g * g, vision width), from `encode_image`. input_ids, attention_mask: (n, L), from `tokenize`.
    layer: of the text encoder, from 0. The model must be in eval mode and of plain layers (not a `Scorer`'s, which packs
    them); nothing of it is changed. Raises ValueError for a layer without maps of words, or a model that is training.
    """
    layers = model.text_encoder.encoder.layer
    check_layer(layer, len(layers))
    if model.training:
        raise ValueError("the model is in training mode: its dropout would be part of the maps")
    layout = whole_grid(attention_mask)
    image = (image_tokens, Packing(len(input_ids), 1, None, None))
    looked_at = cast(Layer, layers[layer])
    cross = looked_at.crossattention
    with torch.no_grad():  # nothing below the probabilities needs a gradient
        hidden = layout.flatten(model.text_encoder.embeddings(model.matching_ids(input_ids)))
        for below in layers[:layer]:
            hidden = below(hidden, layout, image)
        hidden = looked_at.attention(hidden, layout)
        probabilities = _probabilities(cross.self, layout.pad(hidden), image_tokens)
        values = _heads(cross.self, cross.self.value(image_tokens))
    with torch.enable_grad():
        attended = probabilities.requires_grad_() @ values  # (n, heads, L, width of a head)
        hidden = cross.output(layout.flatten(attended.transpose(1, 2).flatten(2)), hidden)
        hidden = looked_at.output(looked_at.intermediate(hidden), hidden)
        for above in layers[layer + 1 :]:
            hidden = above(hidden, layout, image)
        logits = model.itm_head(layout.pad(hidden)[:, 0])
        (gradient,) = torch.autograd.grad(logits[:, MATCH].sum(), probabilities)  # pairs do not depend on each other
    weighted = (gradient.clamp(min=0) * probabilities.detach()).mean(dim=1)[..., 1:]  # over heads; without the image's CLS
    side = isqrt(weighted.shape[-1])
    maps = (weighted * attention_mask[..., None]).reshape(*attention_mask.shape, side, side)
    return TokenMaps(logits.detach(), maps.float())


def _probabilities(projections: Projections, hidden: Tensor, image_tokens: Tensor) -> Tensor:
    """(n, heads, L, 1 + g * g): how each token's attention is divided over the image's."""
    query, key = _heads(projections, projections.query(hidden)), _heads(projections, projections.key(image_tokens))
    similarity: Tensor = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    return similarity.softmax(dim=-1)


def _heads(projections: Projections, part: Tensor) -> Tensor:
    """(n, length, hidden) -> (n, heads, length, width of a head)."""
    return part.reshape(*part.shape[:2], projections.heads, -1).transpose(1, 2)
