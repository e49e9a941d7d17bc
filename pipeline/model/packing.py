"""How the captions of one image share its cross-attention keys and values.

A query attends to image tokens independently of all other queries, and every image token is visible, so the captions of one
image can stand one behind the other in one long query. The keys and values (33 times larger than the queries of a 17-token
caption at 384 px) are then neither computed nor copied once a caption. Knows nothing of layers, heads or weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor there. To a GPU from pinned memory: from other memory, the host would wait for all work that is queued."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


class Packing(NamedTuple):
    """Where each of n captions stands: in one of `groups` groups of `width` slots; a group belongs to one image."""

    groups: int
    width: int
    group_image: Tensor | None  # (groups,) int64: the group's image; None: group i is image i
    slot: Tensor | None  # (n,) int64: the caption's slot, counted through the groups; None: caption i is in slot i

    def to(self, device: torch.device) -> Packing:
        """The same packing with its indices on `device`."""
        return self._replace(
            group_image=None if self.group_image is None else to_device(self.group_image, device),
            slot=None if self.slot is None else to_device(self.slot, device),
        )

    def of_groups(self, per_image: Tensor) -> Tensor:
        """(images, ...) -> (groups, ...)."""
        return per_image if self.group_image is None else per_image.index_select(0, self.group_image)

    def pack(self, per_caption: Tensor) -> Tensor:
        """(n, L, H) -> (groups, width * L, H); empty slots are zero."""
        _, length, width = per_caption.shape
        if self.slot is not None:
            slots = per_caption.new_zeros((self.groups * self.width, length, width))
            per_caption = slots.index_copy(0, self.slot, per_caption)
        return per_caption.reshape(self.groups, self.width * length, width)

    def unpack(self, packed: Tensor, length: int) -> Tensor:
        """(groups, width * length, H) -> (n, length, H): the inverse of `pack`."""
        slots = packed.reshape(self.groups * self.width, length, packed.shape[-1])
        return slots if self.slot is None else slots.index_select(0, self.slot)


def pack_captions(image_index: Tensor | None, images: int, captions: int) -> Packing:
    """Plan the packing of captions, of which number i belongs to image `image_index[i]` (None: to image i).

    A group has as many slots as an image has captions on average, and an image as many groups as it needs. However uneven the
    counts, there are at most twice as many groups as images that have captions, and at most twice as many slots as
    captions, plus one group's. Raises ValueError where indices and counts disagree.
    """
    if image_index is None:
        if images != captions:
            raise ValueError(f"{captions} captions for {images} images: one caption an image is needed, or an image_index")
        return Packing(captions, 1, None, None)
    index = image_index.detach().to("cpu", torch.int64)
    if index.shape != (captions,):
        raise ValueError(f"image_index must have shape ({captions},), one entry a caption, not {tuple(index.shape)}")
    if captions and (int(index.min()) < 0 or int(index.max()) >= images):
        raise ValueError(f"image_index must lie in 0..{images - 1}, not {int(index.min())}..{int(index.max())}")
    counts = torch.bincount(index, minlength=images)
    width = max(1, -(-captions // max(1, int((counts > 0).sum()))))
    groups_of_image = (counts + width - 1) // width
    first_group = groups_of_image.cumsum(0) - groups_of_image
    order = index.argsort(stable=True)
    rank = torch.empty_like(index)  # of a caption among those of its image
    rank[order] = torch.arange(captions) - (counts.cumsum(0) - counts)[index[order]]
    slot = (first_group[index] + rank // width) * width + rank % width
    group_image = torch.arange(images).repeat_interleave(groups_of_image)
    groups = len(group_image)
    as_images = groups == images and bool((group_image == torch.arange(images)).all())
    in_order = groups * width == captions and bool((slot == torch.arange(captions)).all())
    return Packing(groups, width, None if as_images else group_image, None if in_order else slot)
