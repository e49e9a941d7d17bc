"""Texts at their real lengths: which tokens are computed, and which captions need no second run.

A batch's captions differ in length several times over, and padding costs as much as tokens do everywhere but inside attention.
So the layers see one run of tokens, T in all, and only attention lays them out in a grid (n, L). Knows nothing of layers,
of heads or of weights; all planning is done on the CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.model.packing import to_device

LENGTHS = (8, 12, 16, 24, 35)  # that a grid is padded to where shapes must be few


class Layout(NamedTuple):
    """Where T tokens stand in a grid of n texts by L places."""

    texts: int
    length: int
    place: Tensor | None  # (T,) int64: of each token, counted through the grid; None: T = n * L, in order
    token: Tensor | None  # (n * L,) int64: of each place; those of padding name some token of the batch
    visible: Tensor  # (n, 1, 1, L) bool: places with a token, over heads and queries

    def to(self, device: torch.device) -> Layout:
        """The same layout with its indices on `device`."""
        place, token = (None if part is None else to_device(part, device) for part in (self.place, self.token))
        return self._replace(place=place, token=token, visible=to_device(self.visible, device))

    def flatten(self, grid: Tensor) -> Tensor:
        """(n, L, H) -> (T, H)."""
        places = grid.reshape(self.texts * self.length, grid.shape[-1])
        return places if self.place is None else places.index_select(0, self.place)

    def pad(self, tokens: Tensor) -> Tensor:
        """(T, H) -> (n, L, H); what stands on padding is finite and means nothing."""
        places = tokens if self.token is None else tokens.index_select(0, self.token)
        return places.reshape(self.texts, self.length, tokens.shape[-1])


def whole_grid(attention_mask: Tensor) -> Layout:
    """Padding is computed like tokens: nothing is moved, and no index is needed."""
    texts, length = attention_mask.shape
    return Layout(texts, length, None, None, attention_mask.bool()[:, None, None, :])


def real_lengths(attention_mask: Tensor, *, few_shapes: bool = False) -> Layout:
    """Only tokens are computed. few_shapes: T is rounded up to one of a few numbers; the first token is then repeated."""
    grid = whole_grid(attention_mask)
    present = attention_mask.bool().flatten()
    place = present.nonzero()[:, 0]
    if few_shapes:
        place = F.pad(place, (0, rounded_up(len(place)) - len(place)), value=int(place[0]))
    elif len(place) == len(present):
        return grid
    return grid._replace(place=place, token=(present.cumsum(0) - 1).clamp_(min=0))


def rounded_up(count: int) -> int:
    """The next of a few numbers: four an octave, so that at most a quarter is added."""
    step = max(1, 1 << max(0, count.bit_length() - 3))
    return -(-count // step) * step


class Texts(NamedTuple):
    """n texts of tokens."""

    input_ids: Tensor  # (n, L) int64
    attention_mask: Tensor  # (n, L), 1 on tokens

    def take(self, rows: npt.NDArray[np.int64]) -> Texts:
        """The texts of these numbers."""
        index = torch.from_numpy(rows)
        return Texts(self.input_ids[index], self.attention_mask[index])


class Plan(NamedTuple):
    """What to run for n pairs, so that no text runs twice alone, and none twice with the same image."""

    alone: Texts
    alone_of: Tensor  # (n,) int64: of each pair, its text in `alone`
    paired: Texts
    paired_image: Tensor | None  # (len(paired),) int64; None: text i is image i's
    paired_of: Tensor | None  # (n,) int64: of each pair, its text in `paired`; None: as they came


def plan_texts(texts: Texts, image_index: Tensor | None, *, few_shapes: bool = False) -> Plan:
    """Find repeated texts. All tensors are on the CPU.

    few_shapes: L and the number of texts alone are rounded up, and every pair is run.
    """
    if few_shapes:
        texts = _padded(texts)
    key = np.where(texts.attention_mask.numpy() > 0, texts.input_ids.numpy(), -1)  # "[PAD]" may be written in a caption
    _, first, alone_of = np.unique(key, axis=0, return_index=True, return_inverse=True)
    alone_of = alone_of.reshape(-1)
    if few_shapes:
        first = np.concatenate((first, np.repeat(first[:1], rounded_up(len(first)) - len(first))))
    alone = texts.take(first)
    unique = Plan(alone, torch.from_numpy(alone_of), texts, image_index, None)
    if few_shapes or image_index is None:
        return unique
    pairs = image_index.numpy() * len(first) + alone_of
    _, first_pair, paired_of = np.unique(pairs, return_index=True, return_inverse=True)
    if len(first_pair) == len(pairs):
        return unique
    return unique._replace(
        paired=texts.take(first_pair), paired_image=image_index[first_pair], paired_of=torch.from_numpy(paired_of.reshape(-1))
    )


def _padded(texts: Texts) -> Texts:
    length = texts.input_ids.shape[1]
    wanted = next((fixed for fixed in LENGTHS if fixed >= length), length)
    pad = (0, wanted - length)
    return Texts(F.pad(texts.input_ids, pad), F.pad(texts.attention_mask, pad))
