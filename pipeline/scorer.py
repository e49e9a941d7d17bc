"""One replica: a model on a device at a precision. Pixels and captions in, both scores out.

Owns what lies between uint8 pixels on the host and float32 scores on the host: the device, the precision, normalisation. Knows
nothing of batches' origin, of Ray, or of what a score is used for.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.model.blip_itm import BLIP_ITM, ItmFirstToken
from pipeline.model.checkpoint import load_model
from pipeline.schema import CaptionLengths, Captions, FloatArray, Scores

# per channel, of values in [0, 1]: CLIP's constants, which BLIP was trained with
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

Precision = Literal["auto", "float32", "bfloat16", "float16"]
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Scorer:
    """Scores pairs with a model that it takes over: moved to the device, cast, in eval mode.

    device: a torch device, or "auto" for a GPU if there is one. precision: of the two encoders, or "auto" (see
    `choose_precision`); the heads, the softmax and the cosine are float32 always. Raises ValueError for a device or
    precision that cannot be had.
    """

    def __init__(self, model: BLIP_ITM, device: str | torch.device = "auto", precision: Precision = "auto") -> None:
        self.device = choose_device(device)
        self.dtype = choose_precision(precision, self.device)
        self.model = model.eval().to(self.device, torch.float32)
        self.model.visual_encoder.to(self.dtype)
        self.model.text_encoder.to(self.dtype)
        self.image_size = model.visual_encoder.image_size
        # (value / 255 - mean) / std as one multiplication and one addition
        mean, std = (torch.tensor(constants, device=self.device).view(1, 3, 1, 1) for constants in (MEAN, STD))
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def score(self, pixels: npt.NDArray[np.uint8], captions: Captions) -> Scores:
        """Score (B, S, S, 3) uint8 RGB pixels against B captions, or B lists of captions.

        S is the model's image size. An image is encoded once for both heads and all of its captions. Scores come in the
        order of the captions, lists flattened; embeddings in that of the images. Raises ValueError for pixels of another
        type or shape or another number of captions.
        """
        self._check(pixels, captions)
        pairs = _flatten(captions)
        if not pairs.captions:
            return Scores(np.empty((0, 2), np.float32), np.empty(0, np.float32), np.empty(0, np.float32), self._embed(pixels))
        with torch.inference_mode():
            input_ids, attention_mask = self.model.tokenize(pairs.captions)
            found = self.model.score_pairs(self._normalise(pixels), input_ids, attention_mask, pairs.image_index)
            itm_score = found.itm_logits.softmax(dim=1)[:, 1]
            parts = (found.itm_logits, itm_score, found.itc_similarity, found.image_embedding)
            return Scores(*(part.cpu().numpy() for part in parts))

    def caption_lengths(self, captions: Sequence[str]) -> CaptionLengths:
        """Count the tokens of each caption, and tell which ones the model sees cut."""
        tokenizer = self.model.tokenizer
        lengths = tokenizer.lengths(captions)
        return CaptionLengths(np.minimum(lengths, np.iinfo(np.int16).max).astype(np.int16), lengths > tokenizer.max_tokens)

    def _embed(self, pixels: npt.NDArray[np.uint8]) -> FloatArray:
        """(B, S, S, 3) -> (B, embed_dim): for images without a caption."""
        if not len(pixels):
            return np.empty((0, self.model.vision_proj.out_features), np.float32)
        with torch.inference_mode():
            return self.model.image_embedding(self.model.encode_image(self._normalise(pixels))).cpu().numpy()

    def _normalise(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """(B, S, S, 3) uint8 on the host -> (B, 3, S, S) normalised, on the device, in the encoders' type."""
        staging = torch.empty(pixels.shape, dtype=torch.uint8)
        np.copyto(staging.numpy(), pixels)  # arrays from Arrow are read-only and may have any strides
        image = staging.to(self.device).permute(0, 3, 1, 2).float()
        return image.mul_(self._scale).add_(self._shift).to(self.dtype)

    def _check(self, pixels: npt.NDArray[np.uint8], captions: Captions) -> None:
        size = self.image_size
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
            found = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise ValueError(f"pixels must be a numpy array of uint8, not {found}")
        if pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
            raise ValueError(f"pixels must have shape (B, {size}, {size}, 3), not {pixels.shape}")
        if isinstance(captions, str) or len(captions) != len(pixels):
            count = "one string" if isinstance(captions, str) else f"{len(captions)} captions (or lists of captions)"
            raise ValueError(f"{count} for {len(pixels)} images")


class _Pairs(NamedTuple):
    captions: list[str]
    image_index: Tensor  # (n,) int64


def _flatten(captions: Captions) -> _Pairs:
    lists = [[entry] if isinstance(entry, str) else list(entry) for entry in captions]
    counts = torch.tensor([len(own) for own in lists], dtype=torch.int64)
    return _Pairs(list(chain.from_iterable(lists)), torch.arange(len(lists)).repeat_interleave(counts))


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


def load_scorer(
    checkpoint: str | Path,
    *,
    image_size: int | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    itm_first_token: ItmFirstToken = "cls",
    storage_options: dict[str, Any] | None = None,
    threads: int | None = None,
) -> Scorer:
    """A scorer with a checkpoint's model; the arguments are those of `load_model` and `Scorer`.

    threads: CPU threads of this process's torch, for replicas that share a machine; None: torch's own choice.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    model = load_model(checkpoint, image_size=image_size, itm_first_token=itm_first_token, storage_options=storage_options)
    return Scorer(model, device, precision)
