"""The vision encoder: timm's computation and names, and what training adds."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

from pipeline.model import create_vit
from pipeline.model.vit import VIT_SHAPES, DropPath, VisionTransformer, VitShape
from tests.model.builders import SMALL_SIZE, SMALL_VIT, images, randomise


@pytest.mark.parametrize(("vit", "image_size"), [("tiny", 112), (VIT_SHAPES["base"]._replace(depth=2), 224)])
def test_matches_timm(vit: str | VitShape, image_size: int) -> None:
    encoder, width = create_vit(vit, image_size)
    randomise(encoder).eval()
    shape = encoder.shape
    theirs = TimmVisionTransformer(
        img_size=image_size, embed_dim=width, depth=shape.depth, num_heads=shape.heads, num_classes=0, global_pool=""
    )
    theirs.load_state_dict(encoder.state_dict(), strict=True)
    pixels = images(2, image_size)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(pixels), theirs.eval()(pixels), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("vit", "width", "depth"), [("tiny", 192, 5), ("base", 768, 12), ("large", 1024, 24)])
def test_sizes_by_name(vit: str, width: int, depth: int) -> None:
    with torch.device("meta"):
        encoder, found = create_vit(vit, 384)
        tokens = encoder(torch.empty(2, 3, 384, 384))
    assert (found, len(encoder.blocks), tokens.shape) == (width, depth, (2, 577, width))


def test_drop_path_grows_with_depth_in_large_alone() -> None:
    with torch.device("meta"):
        rates = {vit: [block.drop_path.rate for block in create_vit(vit, 224).encoder.blocks] for vit in ("base", "large")}
    assert set(rates["base"]) == {0.0}
    assert rates["large"] == pytest.approx([0.1 * index / 23 for index in range(24)])


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    branch = torch.ones(4000, 3, 2)
    dropped = DropPath(0.25)(branch)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (dropped.flatten(1).std(dim=1) == 0).all()
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)
    assert DropPath(0.25).eval()(branch) is branch


@pytest.mark.parametrize("ckpt_layer", [1, 3])
def test_gradient_checkpointing_changes_memory_only(ckpt_layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        "pipeline.model.vit.checkpoint",
        lambda block, tokens, **options: calls.append(block) or _checkpoint(block, tokens, **options),
    )
    plain = randomise(create_vit(SMALL_VIT, SMALL_SIZE).encoder).train()
    saving = create_vit(SMALL_VIT, SMALL_SIZE, use_grad_checkpointing=True, ckpt_layer=ckpt_layer).encoder.train()
    saving.load_state_dict(plain.state_dict())
    for encoder in (plain, saving):
        encoder(images(2)).square().mean().backward()
    assert calls == list(saving.blocks)[-ckpt_layer:]
    for (name, expected), parameter in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, expected.grad)


_checkpoint = torch.utils.checkpoint.checkpoint


def test_initial_values() -> None:
    torch.manual_seed(0)
    encoder = create_vit("tiny", 224).encoder
    block = encoder.blocks[0]
    for drawn in (encoder.pos_embed, block.attn.qkv.weight, block.mlp.fc2.weight):
        assert float(drawn.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert not block.attn.qkv.bias.any()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(3, 48, 48), "4 dimensions"),
        (torch.zeros(2, 1, 48, 48), "3 channels .* not 1"),
        (torch.zeros(2, 48, 48, 3), "3 channels .* not 48"),
        (torch.zeros(2, 3, 48, 64), "48 x 48 pixels, as the model is, not 48 x 64"),
        (torch.zeros(2, 3, 48, 48, dtype=torch.uint8), "float and normalised, not torch.uint8"),
    ],
)
def test_wrong_image_is_named(pixels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisionTransformer(SMALL_VIT, SMALL_SIZE)(pixels)


def test_unknown_name_and_size_are_named() -> None:
    with pytest.raises(ValueError, match="vit 'huge' is not one of 'tiny', 'base', 'large'"):
        create_vit("huge", 224)
    with pytest.raises(ValueError, match="image_size 100 is not a multiple of the patch size 16"):
        create_vit("tiny", 100)
