"""The losses, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.scenes.patches import ATTRIBUTES, NOTHING, patch_attributes
from pipeline.scenes.scene import TRAIN, sample_scene
from pipeline.training.losses import contrastive_loss, draw_negatives, patch_classes, patch_loss


def test_contrastive_loss_is_cross_entropy_where_no_caption_fits_by_chance() -> None:
    similarity = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    fits = torch.eye(3, dtype=torch.bool)
    targets = torch.arange(3)
    expected = (
        torch.nn.functional.cross_entropy(similarity, targets) + torch.nn.functional.cross_entropy(similarity.T, targets)
    ) / 2
    assert contrastive_loss(similarity, fits, targets).item() == pytest.approx(expected.item(), rel=1e-5)


def test_contrastive_loss_does_not_push_true_pairs_apart() -> None:
    fits = torch.tensor([[True, True, False, False], [False, True, True, True]])  # caption 1 fits image 1 as well
    owner = torch.tensor([0, 0, 1, 1])
    similarity = torch.zeros(2, 4, requires_grad=True)
    contrastive_loss(similarity, fits, owner).backward()
    assert similarity.grad is not None
    assert similarity.grad[1, 1] == 0
    assert (similarity.grad[fits & (torch.arange(4) != 1)] < 0).all()
    assert (similarity.grad[~fits] > 0).all()


def test_hard_negatives_are_false_and_the_more_similar_the_likelier() -> None:
    torch.manual_seed(0)
    fits = torch.eye(4, dtype=torch.bool).repeat_interleave(2, dim=1)
    fits[0, 5] = True  # by chance
    similarity = torch.zeros(4, 8)
    similarity[0, 5] = 50.0
    similarity[0, 3] = 5.0
    drawn = [draw_negatives(similarity, fits) for _ in range(50)]
    for captions, images in drawn:
        assert not fits[torch.arange(4), captions].any()
        assert not fits[images, torch.arange(0, 8, 2)].any()
    assert sum(captions[0].item() == 3 for captions, _ in drawn) > 40


def test_patches_named_rightly_cost_nothing() -> None:
    labels = torch.from_numpy(np.stack([patch_attributes(sample_scene(TRAIN, index), 7) for index in range(4)]))
    assert patch_loss(torch.zeros(4, 49, patch_classes()), labels).loss > 5
    logits, at = torch.zeros(4, 49, patch_classes()), 0
    for index, values in enumerate(ATTRIBUTES.values()):
        wanted = torch.where(labels[..., index] == NOTHING, values, labels[..., index])
        logits.scatter_(-1, at + wanted[..., None], 50.0)
        at += values + 1
    assert at == patch_classes()
    named = patch_loss(logits, labels)
    assert named.loss.item() == pytest.approx(0, abs=1e-4)
    assert named.shape_accuracy.item() == 1
