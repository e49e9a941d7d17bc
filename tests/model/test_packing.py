"""Captions of one image side by side: whatever the counts, each caption meets its own image, and nothing is lost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model.packing import pack_captions

INDICES = st.integers(1, 12).flatmap(
    lambda images: st.tuples(st.just(images), st.lists(st.integers(0, images - 1), max_size=40))
)


@given(INDICES)
@settings(deadline=None)
def test_every_caption_stands_with_its_image(case: tuple[int, list[int]]) -> None:
    images, index = case
    packing = pack_captions(torch.tensor(index, dtype=torch.int64), images, len(index))
    captions = torch.arange(1, len(index) + 1).float().view(-1, 1, 1).expand(-1, 2, 1)  # caption i is i + 1, twice
    packed = packing.pack(captions)
    assert packed.shape == (packing.groups, packing.width * 2, 1)
    group_image = packing.of_groups(torch.arange(images).view(-1, 1))[:, 0].tolist()
    for group, image in zip(packed[:, :, 0].tolist(), group_image, strict=True):
        assert all(index[int(caption) - 1] == image for caption in group if caption)
    assert torch.equal(packing.unpack(packed, 2), captions)
    used = len(set(index))
    assert packing.groups <= max(2 * used, images)
    assert packing.groups * packing.width <= 2 * len(index) + 2 * used + images


def test_the_usual_cases_move_nothing() -> None:
    for index in (None, torch.arange(4), torch.arange(4).repeat_interleave(5)):
        packing = pack_captions(index, 4, 4 if index is None else len(index))
        assert packing.group_image is None
        assert packing.slot is None
    assert packing.width == 5


@pytest.mark.parametrize(
    ("index", "captions", "message"),
    [
        (None, 3, "3 captions for 2 images"),
        (torch.tensor([0]), 3, r"image_index must have shape \(3,\)"),
        (torch.tensor([0, 1, 2]), 3, r"must lie in 0..1, not 0..2"),
        (torch.tensor([0, -1, 1]), 3, r"must lie in 0..1, not -1..1"),
    ],
)
def test_wrong_index_is_named(index: torch.Tensor | None, captions: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack_captions(index, 2, captions)
