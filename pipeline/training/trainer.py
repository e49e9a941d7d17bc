"""Training of a small BLIP_ITM from scratch on rendered scenes: the loop, its saved state, the checkpoint that it leaves.

Two losses as BLIP's: ITC contrasts the images and captions of a batch; ITM tells true pairs from false ones, drawn by ITC
similarity. Added to BLIP's: true captions with one word changed as further ITM negatives (NegCLIP's idea, arXiv:2210.01936);
pairs that are true by chance are not called false; and in place of BLIP's start from ImageNet, the vision encoder learns to
name what each patch shows, first alone and then beside the other losses. Left out: the momentum encoder with its queue, and
the captioning loss. The result is a function of the recipe, however often the loop was stopped and continued. Knows nothing
of command lines or of drawing.
"""

from __future__ import annotations

import copy
import math
import pickle
import string
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.device import MEAN, STD
from pipeline.errors import CheckpointError
from pipeline.model.blip_itm import BLIP_ITM
from pipeline.model.checkpoint import save_checkpoint
from pipeline.model.tokenizer import BERT_TOKENS, CaptionTokenizer
from pipeline.scenes.batches import make_batch
from pipeline.scenes.captions import vocabulary
from pipeline.scenes.order import Batches
from pipeline.scenes.patches import patch_attributes
from pipeline.scenes.scene import TRAIN, Split, sample_scene
from pipeline.scorer import Scorer
from pipeline.training.losses import (
    MatchingLoss,
    caption_owners,
    contrastive_loss,
    draw_negatives,
    matching_loss,
    patch_classes,
    patch_loss,
    similarities,
    tokenize,
)
from pipeline.training.recipe import Phase, Recipe

Pixels = npt.NDArray[np.uint8]
MAX_TEMPERATURE = 0.5  # as BLIP clamps it
MIN_TEMPERATURE = 0.01  # below, one hard pair of a small batch outweighs all others
FIRST_TEMPERATURE = 0.07


class StepReport(NamedTuple):
    """What one step measured; losses before its update, NaN for those that its phase does not have."""

    step: int  # steps done
    loss: float
    itc_loss: float
    itm_loss: float
    itm_accuracy: float
    patch_loss: float
    shape_accuracy: float  # of patches that show a thing
    temperature: float
    learning_rate: float
    seconds: float


class PairLosses(NamedTuple):
    """What a step asks of images and captions; None: not in its phase."""

    itc: Tensor | None
    itm: MatchingLoss | None


def demo_vocabulary() -> list[str]:
    """A WordPiece vocabulary: the grammar's words, and single characters so that any other ASCII word can be spelt."""
    letters = string.ascii_lowercase + string.digits
    pieces = {*letters, *("##" + letter for letter in letters), *string.punctuation, *vocabulary()}
    return [*BERT_TOKENS, *sorted(pieces)]


def build_model(recipe: Recipe) -> BLIP_ITM:
    """A model of the recipe's shape with fresh weights from its seed. Seeds torch's global generator."""
    torch.manual_seed(recipe.seed)
    tokenizer = CaptionTokenizer(demo_vocabulary())
    return BLIP_ITM(recipe.med_config, recipe.image_size, recipe.vit, embed_dim=recipe.embed_dim, tokenizer=tokenizer)


def normalise(pixels: Pixels) -> Tensor:
    """uint8 (B, S, S, 3) -> float (B, 3, S, S) with BLIP's mean and standard deviation."""
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(255)
    return image.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1))


class Trainer:
    """A model in training: its weights, the optimizer's state and the number of steps done.

    `pixels` holds the first `recipe.scenes` scenes of `split`, uint8 (scenes, S, S, 3).
    """

    def __init__(self, recipe: Recipe, pixels: Pixels, *, split: Split = TRAIN) -> None:
        self.recipe, self.pixels, self.split = recipe, pixels, split
        self.batches = Batches(recipe.scenes, recipe.batch_size, recipe.seed)
        self.model = build_model(recipe)
        self.log_temperature = nn.Parameter(torch.tensor(FIRST_TEMPERATURE).log())  # learnt, like BLIP's; no part of the model
        self.patch_head = nn.Linear(self.model.vision_proj.in_features, patch_classes())
        self.optimizer = self._make_optimizer()
        self.step = 0

    def _make_optimizer(self) -> torch.optim.AdamW:
        """AdamW; decay for matrices, none for biases, norms and what is not part of the model."""
        parameters = list(self.model.parameters())
        undecayed = [parameter for parameter in parameters if parameter.ndim < 2]
        groups: list[dict[str, Any]] = [
            {"params": [parameter for parameter in parameters if parameter.ndim >= 2]},
            {"params": [*undecayed, *self.patch_head.parameters(), self.log_temperature], "weight_decay": 0.0},
        ]
        recipe = self.recipe
        return torch.optim.AdamW(
            groups, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
        )

    def steps(self) -> Iterator[StepReport]:
        """Train to the recipe's last step, with a report after each step. The caller may stop at any of them, and save."""
        while self.step < self.recipe.steps:
            self.model.train()
            yield self._one_step()

    def _one_step(self) -> StepReport:
        started = time.perf_counter()
        rate, phase = self.recipe.learning_rate_at(self.step), self.recipe.phase(self.step)
        indices = self.batches.at(self.step)
        image_tokens = self.model.encode_image(normalise(self.pixels[indices]))
        scenes = [int(index) for index in indices]
        grid = math.isqrt(image_tokens.shape[1] - 1)
        labels = np.stack([patch_attributes(sample_scene(self.split, index), grid) for index in scenes])
        patches = patch_loss(self.patch_head(image_tokens[:, 1:]), torch.from_numpy(labels))
        pairs = self._pair_losses(image_tokens, scenes, phase) if phase.itc else PairLosses(None, None)
        losses = [pairs.itc, None if pairs.itm is None else pairs.itm.loss, patches.loss]
        loss = torch.stack([each for each in losses if each is not None]).sum()
        self._update(loss, rate)
        self.step += 1
        return StepReport(
            step=self.step,
            loss=loss.item(),
            itc_loss=_item(pairs.itc),
            itm_loss=_item(pairs.itm and pairs.itm.loss),
            itm_accuracy=_item(pairs.itm and pairs.itm.accuracy),
            patch_loss=patches.loss.item(),
            shape_accuracy=patches.shape_accuracy.item(),
            temperature=self.log_temperature.exp().item(),
            learning_rate=rate,
            seconds=time.perf_counter() - started,
        )

    def _update(self, loss: Tensor, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.max_gradient_norm)
        self.optimizer.step()
        with torch.no_grad():
            self.log_temperature.clamp_(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))

    def _pair_losses(self, image_tokens: Tensor, scenes: list[int], phase: Phase) -> PairLosses:
        """ITC, and ITM where the phase has it, over captions drawn for this step."""
        batch = make_batch(self.split, scenes, f"{self.recipe.seed}/{self.step}")
        n, fits = len(batch.captions), torch.from_numpy(batch.fits)
        ids, mask = tokenize(self.model, batch)
        similarity = similarities(self.model, image_tokens, ids[:n], mask[:n]) / self.log_temperature.exp()
        itc = contrastive_loss(similarity, fits, caption_owners(n))
        if not phase.itm:
            return PairLosses(itc, None)
        hard = self.recipe.hardness_at(self.step)
        with torch.no_grad():
            negatives = draw_negatives(similarity * hard, fits)
        return PairLosses(itc, matching_loss(self.model, image_tokens, ids, mask, negatives, hard))

    def scorer(self) -> Scorer:
        """A copy of the model as it is now, for validation between two steps."""
        return Scorer(copy.deepcopy(self.model), "cpu", "float32")

    def save(self, path: Path) -> None:
        """Write all that `load` needs; the file is replaced in one move, so that a kill leaves the former one."""
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "model": self.model.state_dict(),
            "patch_head": self.patch_head.state_dict(),
            "log_temperature": self.log_temperature.detach(),
            "optimizer": self.optimizer.state_dict(),
            "generator": torch.get_rng_state(),
        }
        unfinished = path.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a saved state as if never stopped. CheckpointError if it is of another recipe.

        The number of steps may differ as long as the state is from before either schedule's decay.
        """
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            differences = self._differences(state["recipe"], state["step"])
        except (OSError, EOFError, LookupError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{path} is not a saved training state: {str(error).splitlines()[0]}") from None
        if differences:
            raise CheckpointError(f"{path} was saved by another recipe: {', '.join(differences)}")
        self.model.load_state_dict(state["model"])
        self.patch_head.load_state_dict(state["patch_head"])
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])
        torch.set_rng_state(state["generator"])
        self.step = state["step"]

    def _differences(self, saved: dict[str, Any], step: int) -> list[str]:
        ours = asdict(self.recipe)
        undecided = min(int((1 - recipe["decay_share"]) * recipe["steps"]) for recipe in (saved, ours))
        free = {"steps"} if step <= undecided else set()
        differing = [name for name in ours if name not in free and saved.get(name) != ours[name]]
        return [f"{name} {saved.get(name)} there, {ours[name]} here" for name in differing]


def export_model(model: BLIP_ITM, folder: Path) -> None:
    """Write a copy of the model in half precision (two bytes a weight; loading widens them again) as a checkpoint folder."""
    save_checkpoint(copy.deepcopy(model).half(), folder)


def _item(value: Tensor | None) -> float:
    return math.nan if value is None else value.item()
