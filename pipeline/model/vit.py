"""The vision transformer: normalised pixels in, all image tokens out.

Owns the vision encoder's architecture, its sizes by name, its parameter names (those of the published BLIP weights, which are
also timm's) and their initial values. Knows nothing of text, heads, checkpoints or preprocessing.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

INIT_STD = 0.02  # of CLS, positions and linear weights, as in the ViT paper's code


class VitShape(NamedTuple):
    """Everything that defines a vision encoder but the image size."""

    width: int
    depth: int
    heads: int
    drop_path: float = 0.0  # share of samples that skip the last block in training; earlier blocks less, linearly
    layer_norm_eps: float = 1e-6
    mlp_width: int = 0  # hidden units of a block's MLP; 0: four times the width
    patch_size: int = 16  # pixels


VIT_SHAPES = {
    "tiny": VitShape(width=192, depth=5, heads=3),
    "base": VitShape(width=768, depth=12, heads=12),
    "large": VitShape(width=1024, depth=24, heads=16, drop_path=0.1),
}


class VisionEncoder(NamedTuple):
    """What `create_vit` returns."""

    encoder: VisionTransformer
    width: int


def create_vit(
    vit: str | VitShape, image_size: int, use_grad_checkpointing: bool = False, ckpt_layer: int = 0
) -> VisionEncoder:
    """Build a vision encoder with fresh weights.

    `vit` is a name of `VIT_SHAPES` or a shape of one's own; `image_size` is in pixels a side, a multiple of the patch size.
    Gradient checkpointing, when on, applies to the last `ckpt_layer` blocks. Raises ValueError for a name or size it cannot
    build.
    """
    shape = VIT_SHAPES.get(vit) if isinstance(vit, str) else vit
    if shape is None:
        raise ValueError(f"vit {vit!r} is not one of {', '.join(map(repr, VIT_SHAPES))}")
    encoder = VisionTransformer(shape, image_size, checkpointed_blocks=ckpt_layer if use_grad_checkpointing else 0)
    return VisionEncoder(encoder, shape.width)


class VisionTransformer(nn.Module):
    """Pre-norm ViT with a CLS token and learned positions; returns all tokens, normalised, without pooling."""

    def __init__(self, shape: VitShape, image_size: int, *, checkpointed_blocks: int = 0) -> None:
        super().__init__()
        if image_size < shape.patch_size or image_size % shape.patch_size:
            raise ValueError(f"image_size {image_size} is not a multiple of the patch size {shape.patch_size}")
        if shape.width % shape.heads:
            raise ValueError(f"vision width {shape.width} cannot be divided into {shape.heads} heads")
        self.shape, self.image_size = shape, image_size
        self.checkpointed_blocks = checkpointed_blocks
        tokens = 1 + (image_size // shape.patch_size) ** 2
        self.patch_embed = PatchEmbed(shape)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, shape.width))
        self.blocks = nn.ModuleList(
            Block(shape, drop_path=shape.drop_path * index / max(1, shape.depth - 1)) for index in range(shape.depth)
        )
        self.norm = nn.LayerNorm(shape.width, eps=shape.layer_norm_eps)
        nn.init.trunc_normal_(self.cls_token, std=INIT_STD)
        nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        self.apply(_init_linear)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) normalised, float -> (B, 1 + (S / patch)^2, width), CLS first. ValueError for another shape."""
        self._check(image)
        patches = self.patch_embed(image.to(self.cls_token.dtype))
        tokens = torch.cat((self.cls_token.expand(len(patches), -1, -1), patches), dim=1) + self.pos_embed
        first_checkpointed = len(self.blocks) - self.checkpointed_blocks
        for index, block in enumerate(self.blocks):
            if index >= first_checkpointed and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return self.norm(tokens)  # type: ignore[no-any-return]

    def set_layer_norm_eps(self, eps: float) -> None:
        """Use another epsilon: Hugging Face's copies of the weights are run with 1e-5, the authors' with 1e-6."""
        self.shape = self.shape._replace(layer_norm_eps=eps)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = eps

    def _check(self, image: Tensor) -> None:
        size = self.image_size
        if image.ndim != 4:
            raise ValueError(f"image must have 4 dimensions (B, 3, {size}, {size}), not {image.ndim}: {tuple(image.shape)}")
        if image.shape[1] != 3:
            raise ValueError(f"image must have 3 channels (B, 3, {size}, {size}), not {image.shape[1]}: {tuple(image.shape)}")
        if image.shape[2:] != (size, size):
            raise ValueError(f"image must be {size} x {size} pixels, as the model is, not {image.shape[2]} x {image.shape[3]}")
        if not image.is_floating_point():
            raise ValueError(f"image must be float and normalised, not {image.dtype}")


class PatchEmbed(nn.Module):
    """Each square of pixels to one token, by one linear map."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, shape.width, kernel_size=shape.patch_size, stride=shape.patch_size)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]  # (B, patches, width)


class Block(nn.Module):
    """Self-attention, then an MLP; each normalises its input and adds to the stream."""

    def __init__(self, shape: VitShape, *, drop_path: float) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, shape.width, eps=shape.layer_norm_eps)
        self.norm1 = norm()
        self.attn = SelfAttention(shape)
        self.norm2 = norm()
        self.mlp = Mlp(shape)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Multi-head attention of the image tokens among themselves."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.proj = nn.Linear(shape.width, shape.width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (B, heads, T, width / heads)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear maps around an exact (erf) GELU."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        hidden = shape.mlp_width or 4 * shape.width
        self.fc1 = nn.Linear(shape.width, hidden)
        self.fc2 = nn.Linear(hidden, shape.width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))  # type: ignore[no-any-return]


class DropPath(nn.Module):
    """Stochastic depth (arXiv:1603.09382): in training, a sample skips the branch at the given rate."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        kept = torch.empty(len(branch), 1, 1, dtype=branch.dtype, device=branch.device).bernoulli_(1 - self.rate)
        return branch * (kept / (1 - self.rate))


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(module.bias)
