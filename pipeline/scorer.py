"""One replica: a model on a device at a precision. Pixels and captions in, both scores out.

Owns how a block of images is cut into batches, what happens when memory runs out, and what of the model is compiled, packed or
rounded. Knows nothing of where images come from, of Ray, or of what a score is used for.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.device import Precision, Upload, choose_device, choose_precision, set_tf32
from pipeline.model.blip_itm import BLIP_ITM, ItmFirstToken, PairScores
from pipeline.model.checkpoint import load_model
from pipeline.model.files import CheckpointFiles
from pipeline.model.linears import replace_linears
from pipeline.schema import CaptionLengths, Captions, FloatArray, Scores

log = logging.getLogger(__name__)

CPU_SLICE = 2  # images that the vision encoder takes at a time on a CPU: their activations stay in its cache


class Scorer:
    """Scores pairs with a model that it takes over: moved, cast, in eval mode, its layers replaced; train a copy.

    device: a torch device, or "auto" for a GPU if there is one. precision: of the two encoders, or "auto" (see
    `choose_precision`); the heads, the softmax and the cosine are float32 always. batch_size: images of one call of the model,
    None: all that `score` is given; it is halved, for good, where they do not fit into memory. compile: run the encoders'
    layers through torch.compile, on few fixed shapes. tf32: allow it for float32 on GPUs. Raises ValueError for a device or
    precision that cannot be had.
    """

    def __init__(
        self,
        model: BLIP_ITM,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        *,
        batch_size: int | None = None,
        compile: bool = False,
        tf32: bool = False,
    ) -> None:
        self.device = choose_device(device)
        self.dtype = choose_precision(precision, self.device)
        self.batch_size = batch_size
        self.model = model.eval().to(self.device, torch.float32)
        self.image_size = model.visual_encoder.image_size
        for encoder in (self.model.visual_encoder, self.model.text_encoder):
            encoder.to(self.dtype)
            if precision == "int8":
                replace_linears(encoder, "int8")
            elif self.device.type == "cpu" and not compile:  # the compiler lays weights out itself
                replace_linears(encoder, "packed")
        self._compiled = compile
        if compile:
            # a block of each kind is compiled, once for all its copies: minutes less than the whole model at once
            for block in (*self.model.visual_encoder.blocks, *self.model.text_encoder.encoder.layer):
                block.compile()
        if self.device.type == "cuda":
            set_tf32(tf32)
        self._upload = Upload(self.device)

    def score(self, pixels: npt.NDArray[np.uint8], captions: Captions) -> Scores:
        """Score (B, S, S, 3) uint8 RGB pixels against B captions, or B lists of captions.

        S is the model's image size. An image is encoded once for both heads and all of its captions. Scores come in the
        order of the captions, lists flattened; embeddings in that of the images. On a GPU, the next batch is on its way while
        one is computed: give many batches at once. Raises ValueError for pixels of another type or shape or another
        number of captions, torch.OutOfMemoryError if a single image does not fit.
        """
        self._check(pixels, captions)
        lists = [[entry] if isinstance(entry, str) else list(entry) for entry in captions]
        parts: list[PairScores] = []
        start, ahead = 0, None
        with torch.inference_mode():
            while start < len(pixels):
                size = min(self.batch_size or len(pixels), len(pixels) - start)
                try:
                    batch = ahead or self._send(pixels, start)
                    parts.append(self._run(batch.pixels, lists[batch.start : batch.stop]))
                    start, ahead = batch.stop, None
                    ahead = self._send(pixels, start) if start < len(pixels) else None
                except torch.OutOfMemoryError:
                    if size == 1:
                        raise
                    ahead, self.batch_size = None, size // 2
                    log.warning("out of memory with %d images at a time: going on with %d", size, self.batch_size)
                # the traceback, and with it the failed batch's tensors, are gone by here
            return self._fetch(parts)

    def caption_lengths(self, captions: Sequence[str]) -> CaptionLengths:
        """Count the tokens of each caption, and tell which ones the model sees cut."""
        tokenizer = self.model.tokenizer
        lengths = tokenizer.lengths(captions)
        return CaptionLengths(np.minimum(lengths, np.iinfo(np.int16).max).astype(np.int16), lengths > tokenizer.max_tokens)

    def _send(self, pixels: npt.NDArray[np.uint8], start: int) -> _Batch:
        """Start the transfer of the batch that begins at image `start`."""
        stop = min(start + (self.batch_size or len(pixels)), len(pixels))
        return _Batch(start, stop, self._upload.start(pixels[start:stop]))

    def _run(self, sent: Tensor, captions: list[list[str]]) -> PairScores:
        """Queue the model's work on one batch; the answers are on the device."""
        missing = (self.batch_size or len(sent)) - len(sent) if self._compiled else 0
        image = self._upload.finish(sent, self.dtype)
        if missing:  # a compiled model sees one number of images alone
            image = torch.cat((image, image[:1].expand(missing, -1, -1, -1)))
        image_tokens = self._encode(image)
        real = sum(map(len, captions))
        if not real:
            embedding = self.model.image_embedding(image_tokens)
            return PairScores(embedding.new_empty((0, 2)), embedding.new_empty(0), embedding[: len(sent)])
        if missing:
            captions = [*captions, *([[""] * round(real / len(sent))] * missing)]
        texts = self.model.tokenizer(list(chain.from_iterable(captions)))
        counts = torch.tensor([len(own) for own in captions])
        found = self.model.score_texts(
            image_tokens,
            torch.from_numpy(texts.input_ids),
            torch.from_numpy(texts.attention_mask),
            None if bool((counts == 1).all()) else torch.arange(len(captions)).repeat_interleave(counts),
            few_shapes=self._compiled,
        )
        return PairScores(found.itm_logits[:real], found.itc_similarity[:real], found.image_embedding[: len(sent)])

    def _encode(self, image: Tensor) -> Tensor:
        if self.device.type != "cpu" or self._compiled:
            return self.model.encode_image(image)
        return torch.cat([self.model.encode_image(part) for part in torch.split(image, CPU_SLICE)])

    def _fetch(self, parts: list[PairScores]) -> Scores:
        """The answers of all batches, on the host: the one place where the host waits for the device."""
        if not parts:
            width = self.model.vision_proj.out_features
            return Scores(*(np.empty(shape, np.float32) for shape in ((0, 2), 0, 0, (0, width))))
        logits, cosines, embeddings = (torch.cat(part) for part in zip(*parts, strict=True))
        return Scores(*(_host(part) for part in (logits, logits.softmax(dim=1)[:, 1], cosines, embeddings)))

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


class _Batch(NamedTuple):
    start: int
    stop: int
    pixels: Tensor  # (stop - start, S, S, 3) uint8 on the device, or on its way there


def _host(part: Tensor) -> FloatArray:
    return part.cpu().numpy()


def load_scorer(
    checkpoint: str | Path | CheckpointFiles,
    *,
    image_size: int | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    itm_first_token: ItmFirstToken = "cls",
    batch_size: int | None = None,
    compile: bool = False,
    tf32: bool = False,
    storage_options: dict[str, Any] | None = None,
    threads: int | None = None,
) -> Scorer:
    """A scorer with a checkpoint's model; the arguments are those of `load_model` and `Scorer`.

    threads: CPU threads of this process's torch, for replicas that share a machine; None: torch's own choice.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    model = load_model(checkpoint, image_size=image_size, itm_first_token=itm_first_token, storage_options=storage_options)
    return Scorer(model, device, precision, batch_size=batch_size, compile=compile, tf32=tf32)
