"""Tokens without padding: every token comes back to its place, repeats are found, and a compiled model sees few shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model.texts import LENGTHS, Texts, plan_texts, real_lengths, rounded_up, whole_grid
from tests.model.builders import CAPTIONS, images, small_model

LENGTH_LISTS = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def mask_of(lengths: list[int]) -> torch.Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


@given(LENGTH_LISTS, st.booleans())
@settings(deadline=None)
def test_every_token_comes_back_to_its_place(lengths: list[int], few_shapes: bool) -> None:
    mask = mask_of(lengths)
    grid = torch.randn(*mask.shape, 3)
    layout = real_lengths(mask, few_shapes=few_shapes)
    tokens = layout.flatten(grid)
    assert len(tokens) == (rounded_up(sum(lengths)) if few_shapes else sum(lengths))
    assert torch.equal(layout.pad(tokens)[mask.bool()], grid[mask.bool()])
    assert torch.equal(layout.visible[:, 0, 0], mask.bool())


def test_captions_of_one_length_move_nothing() -> None:
    assert real_lengths(mask_of([4, 4, 4])).place is None
    grid = torch.randn(2, 3, 5)
    assert torch.equal(whole_grid(mask_of([3, 1])).pad(whole_grid(mask_of([3, 1])).flatten(grid)), grid)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=20))
@settings(deadline=None)
def test_no_text_runs_twice_with_an_image(pairs: list[tuple[int, int]]) -> None:
    image_index = torch.tensor([image for image, _ in pairs])
    texts = Texts(torch.tensor([[7, number, 8] for _, number in pairs]), torch.ones(len(pairs), 3, dtype=torch.int64))
    plan = plan_texts(texts, image_index)
    assert len(plan.alone.input_ids) == len({number for _, number in pairs})
    assert torch.equal(plan.alone.input_ids[plan.alone_of], texts.input_ids)
    assert len(plan.paired.input_ids) == len(set(pairs))
    found = plan.paired_of if plan.paired_of is not None else torch.arange(len(pairs))
    assert torch.equal(plan.paired.input_ids[found], texts.input_ids)
    assert plan.paired_image is not None
    assert torch.equal(plan.paired_image[found], image_index)


def test_a_pad_token_that_was_written_is_no_padding() -> None:
    ids = torch.tensor([[101, 0, 102], [101, 102, 0]])
    masks = torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert len(plan_texts(Texts(ids, masks), None).alone.input_ids) == 2
    same_ids = torch.tensor([[101, 0, 0], [101, 0, 0]])
    assert len(plan_texts(Texts(same_ids, masks), None).alone.input_ids) == 2


def test_few_numbers_come_of_rounding_up() -> None:
    rounded = {rounded_up(count) for count in range(1, 4_097)}
    assert len(rounded) <= 4 * 13
    assert all(count <= rounded_up(count) <= max(count, 1.25 * count + 1) for count in range(1, 4_097))


@pytest.mark.parametrize("index", [None, [2, 0, 2, 2, 2]])
def test_few_shapes_give_the_same_numbers(index: list[int] | None) -> None:
    model = small_model()
    lengths = set()
    model.text_encoder.embeddings.register_forward_pre_hook(lambda module, inputs: lengths.add(inputs[0].shape[1]))
    image_index = None if index is None else torch.tensor(index)
    with torch.inference_mode():
        image_tokens = model.encode_image(images(5 if index is None else 3))
        expected = model.score_texts(image_tokens, *model.tokenize(CAPTIONS), image_index)
        lengths.clear()
        found = model.score_texts(image_tokens, *model.tokenize(CAPTIONS), image_index, few_shapes=True)
    for part, other in zip(found, expected, strict=True):
        torch.testing.assert_close(part, other, rtol=0, atol=1e-5)
    assert lengths <= set(LENGTHS)
