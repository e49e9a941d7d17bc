"""Linear layers for inference on CPUs: weights laid out once for oneDNN, or rounded to int8.

`nn.Linear` hands its weight to the matrix product as it lies in memory, and every call lays it out anew; laid out once, float32
gains an eighth here. int8 multiplies whole numbers: weights are rounded once with a scale an output, inputs at each
call with a scale a token (a row), so that a token with large values does not coarsen the others. Knows nothing of models.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

LEVELS = 127  # of int8, symmetric
BLOCK_ROWS = 256  # multiplied at a time: what lies between two operations stays in the cache

Kind = Literal["packed", "int8"]


def replace_linears(module: nn.Module, kind: Kind) -> None:
    """Put the inference form of `kind` in the place of every `nn.Linear` below `module`: no more training or saving.

    "packed" leaves those that oneDNN has no layout for here: other types than float32 and bfloat16, or another processor.
    """
    for name, child in module.named_children():
        if not isinstance(child, nn.Linear):
            replace_linears(child, kind)
        elif kind == "int8":
            setattr(module, name, Int8Linear(child))
        elif can_pack(child.weight):
            setattr(module, name, PackedLinear(child))


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN lays out weights of this type on this processor."""
    if weight.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


class PackedLinear(nn.Module):
    """`nn.Linear` with its weight in oneDNN's own layout: the same sums, in another order."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        # the two operators that torch.compile puts in the place of linear layers when it freezes weights
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = linear.bias.detach()

    def forward(self, rows: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(rows, self._packed, self._bias, "none", [], "")  # type: ignore[no-any-return]

    def _apply(self, fn: Any, recurse: bool = True) -> PackedLinear:
        raise RuntimeError("a packed layer stays on its device and in its type")


class Int8Linear(nn.Module):
    """`nn.Linear` in whole numbers; float32 in and out."""

    weight: Tensor  # (in, out) int8
    scale: Tensor  # (out,)
    bias: Tensor  # (out,)

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp_(min=torch.finfo(torch.float32).tiny) / LEVELS
        self.register_buffer("weight", torch.round(weight / scale[:, None]).to(torch.int8).T.contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("bias", linear.bias.detach().float())

    @torch.no_grad()
    def forward(self, rows: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        flat = rows.reshape(-1, rows.shape[-1])
        summed = flat.new_empty(len(flat), len(self.bias))
        for part, out in zip(torch.split(flat, BLOCK_ROWS), torch.split(summed, BLOCK_ROWS), strict=True):
            scale = part.abs().amax(dim=1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny).div_(LEVELS)
            rounded = torch.div(part, scale).round_().to(torch.int8)
            products = torch._int_mm(rounded, self.weight)  # (rows, out) int32
            torch.addcmul(self.bias, products * scale, self.scale, out=out)
        return summed.reshape(*rows.shape[:-1], -1)
