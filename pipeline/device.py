"""What a replica runs on: the device, the encoders' number type, and the way of pixels onto the device.

Knows nothing of models or captions.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# per channel, of values in [0, 1]: CLIP's constants, which BLIP was trained with
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

Precision = Literal["auto", "float32", "bfloat16", "float16", "int8"]
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.float32}
"""The type of activations and of what is not multiplied by a matrix."""


def choose_device(device: str | torch.device) -> torch.device:
    """The device of that name; "auto": the GPU if there is one, else the CPU. ValueError if it is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not one: {str(error).splitlines()[0]}") from None
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"device {device!r} is not there: this process sees {torch.cuda.device_count()} GPUs")
    return chosen


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """The encoders' type. "auto": bfloat16 on GPUs of capability 8.0 on, float16 on those of 7.x, else float32."""
    if precision == "int8" and device.type != "cpu":
        raise ValueError(f"precision 'int8' is for CPUs, not for {device.type}: use 'auto' there")
    if precision != "auto":
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r} is not one of 'auto', {', '.join(map(repr, PRECISIONS))}")
        return PRECISIONS[precision]
    if device.type != "cuda":
        return torch.float32
    capability = torch.cuda.get_device_capability(device)
    if capability >= (8, 0):
        return torch.bfloat16
    return torch.float16 if capability >= (7, 0) else torch.float32


def set_tf32(allowed: bool) -> None:
    """Whether float32 products on GPUs may round their inputs to TF32 (10 bits of mantissa); PyTorch's own default differs
    between matrices and convolutions. Process-wide, as PyTorch has it."""
    precision = "tf32" if allowed else "ieee"
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]


class Upload:
    """The way of pixels onto a device: on a GPU from pinned memory, on a stream of its own, while it computes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        # (value / 255 - mean) / std as one multiplication and one addition
        mean, std = (torch.tensor(constants, device=device).view(1, 3, 1, 1) for constants in (MEAN, STD))
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def start(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """(B, S, S, 3) uint8 of any strides, also read-only -> the same on the device, on its way."""
        staging = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=self._stream is not None)
        np.copyto(staging.numpy(), pixels)
        if self._stream is None:
            return staging.to(self.device)
        with torch.cuda.stream(self._stream):  # the pinned memory is reused only when its transfer has ended
            return staging.to(self.device, non_blocking=True)

    def finish(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """What `start` gave -> (B, 3, S, S) normalised, in `dtype`, ready for the work that is queued next."""
        if self._stream is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self._stream)
            pixels.record_stream(current)
        return pixels.permute(0, 3, 1, 2).float().mul_(self._scale).add_(self._shift).to(dtype)


def gpu_names() -> list[str]:
    """What CUDA calls the GPUs that this process sees."""
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
