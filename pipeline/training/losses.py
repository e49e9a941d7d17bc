"""What a model in training is asked to get right: the contrastive loss, the matching loss, and naming what patches show.

Every function is of tensors alone. Negatives are drawn from torch's global generator. Knows nothing of optimizers, of
schedules or of how scenes are sampled.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.model.blip_itm import BLIP_ITM
from pipeline.scenes.batches import CAPTIONS_PER_SCENE, Batch
from pipeline.scenes.patches import ATTRIBUTES, NOTHING

BACKDROP_WEIGHT = 0.1  # of a patch of the backdrop: there are ten times as many as of things
ITC_GROUPS, ITM_GROUPS = 2, 3  # by length, to compute less padding; more cost more in small calls than they save


class PatchLoss(NamedTuple):
    """How well the vision encoder names what patches show."""

    loss: Tensor
    shape_accuracy: Tensor  # over the patches that show a thing


class MatchingLoss(NamedTuple):
    """ITM over a batch's true and false pairs."""

    loss: Tensor
    accuracy: Tensor


class Negatives(NamedTuple):
    """False partners: for each of B images a caption, and for each image's first caption an image."""

    captions: Tensor  # (B,)
    images: Tensor  # (B,)


def caption_owners(captions: int) -> Tensor:
    """(n,) the image of each caption of a batch."""
    return torch.arange(captions) // CAPTIONS_PER_SCENE


def contrastive_loss(similarity: Tensor, fits: Tensor, owner: Tensor) -> Tensor:
    """ITC over (B, n) similarities of images and captions, both ways; `owner` (n,) is each caption's image.

    A pair is contrasted with those false pairs only that `fits` (B, n) does not mark as true.
    """
    own = similarity[owner, torch.arange(len(owner))]  # (n,)
    false = similarity.masked_fill(fits, -torch.inf)
    image_to_text = torch.logaddexp(own, false.logsumexp(dim=1)[owner]) - own
    text_to_image = torch.logaddexp(own, false.logsumexp(dim=0)) - own
    return (image_to_text.mean() + text_to_image.mean()) / 2


def draw_negatives(similarity: Tensor, fits: Tensor) -> Negatives:
    """Draw false partners, the likelier the more similar; of similarities that are all the same, any."""
    weights, allowed = similarity.masked_fill(fits, -torch.inf), 1e-9 * ~fits
    captions = torch.multinomial(weights.softmax(dim=1).nan_to_num() + allowed, 1).squeeze(1)
    first, allowed = weights[:, ::CAPTIONS_PER_SCENE], allowed[:, ::CAPTIONS_PER_SCENE]
    images = torch.multinomial((first.softmax(dim=0).nan_to_num() + allowed).T, 1).squeeze(1)
    return Negatives(captions, images)


def similarities(model: BLIP_ITM, image_tokens: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """(B, n) cosines of images and captions."""
    groups = _by_length(mask, ITC_GROUPS)
    parts = [model.text_embedding(ids[rows, :length], mask[rows, :length]) for rows, length in groups]
    text_embedding = torch.cat(parts)[torch.cat([rows for rows, _ in groups]).argsort()]
    return model.image_embedding(image_tokens) @ text_embedding.T


def matching_loss(
    model: BLIP_ITM, image_tokens: Tensor, ids: Tensor, mask: Tensor, negatives: Negatives, hard: float
) -> MatchingLoss:
    """ITM over n true captions, the same with a word changed, and the drawn negatives.

    ids, mask: (2 n, L), the true captions before the changed ones. hard: weight of the changed ones, from 0 to 1.
    """
    n, images = len(ids) // 2, len(image_tokens)
    owner, first = caption_owners(n), torch.arange(0, n, CAPTIONS_PER_SCENE)
    rows = torch.cat((torch.arange(2 * n), negatives.captions, first))  # a caption each
    of_image = torch.cat((owner, owner, torch.arange(images), negatives.images))  # and the image it is shown with
    logits = _match_logits(model, image_tokens, ids[rows], mask[rows], of_image)
    labels = (torch.arange(len(rows)) < n).long()
    weights = torch.ones(len(rows))
    weights[n : 2 * n] = hard
    loss = (F.cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()
    return MatchingLoss(loss, (logits.argmax(dim=1) == labels).float().mean())


def patch_loss(logits: Tensor, labels: Tensor) -> PatchLoss:
    """Cross-entropies of the attributes of patches, summed over attributes.

    logits: (B, T, patch_classes()). labels: (B, T, attributes) of `patch_attributes`. NOTHING is each attribute's last class.
    """
    there = labels[..., 0] != NOTHING
    weight = torch.where(there.flatten(), 1.0, BACKDROP_WEIGHT)
    losses, shape_accuracy = [], torch.tensor(torch.nan)
    for index, part in enumerate(torch.split(logits, [values + 1 for values in ATTRIBUTES.values()], dim=-1)):
        wanted = torch.where(there, labels[..., index], part.shape[-1] - 1)
        each = F.cross_entropy(part.flatten(0, 1), wanted.flatten(), reduction="none")
        losses.append((each * weight).sum() / weight.sum())
        if index == 0:
            shape_accuracy = (part.argmax(-1) == wanted)[there].float().mean()
    return PatchLoss(torch.stack(losses).sum(), shape_accuracy)


def patch_classes() -> int:
    """Width of the logits of `patch_loss`: the values of all attributes, and nothing, of each."""
    return sum(values + 1 for values in ATTRIBUTES.values())


def tokenize(model: BLIP_ITM, batch: Batch) -> tuple[Tensor, Tensor]:
    """(ids, mask), each (2 n, L): the true captions of a batch, then the changed ones."""
    return model.tokenize(batch.captions + batch.changed)


def _match_logits(model: BLIP_ITM, image_tokens: Tensor, ids: Tensor, mask: Tensor, of_image: Tensor) -> Tensor:
    """`model.match_logits`, without computing on most of the padding."""
    groups = _by_length(mask, ITM_GROUPS)
    parts = [
        model.match_logits(image_tokens, ids[rows, :length], mask[rows, :length], of_image[rows]) for rows, length in groups
    ]
    return torch.cat(parts)[torch.cat([rows for rows, _ in groups]).argsort()]


def _by_length(mask: Tensor, groups: int) -> list[tuple[Tensor, int]]:
    """Rows of (n, L) in groups of like length, shortest first, each with the length of its longest."""
    lengths = mask.sum(dim=1)
    order = lengths.argsort(stable=True)
    return [(rows, int(lengths[rows].max())) for rows in order.chunk(groups)]
