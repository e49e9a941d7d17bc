"""Training of a small BLIP_ITM from scratch on rendered scenes: the losses, the loop, its saved state.

Two losses, as BLIP trains: ITC contrasts the images and captions of a batch; ITM tells true pairs from false ones, the false
ones drawn by ITC similarity. Added to BLIP's: true captions with one word changed as further ITM negatives (as NegCLIP has
them for contrastive models), and pairs that are true by chance are not called false. Left out: the momentum encoder and its
queue. The result is a function of the recipe alone, however often the loop was stopped and continued. Knows nothing of
command lines, of drawing or of where the model is shipped.
"""

from __future__ import annotations

import copy
import string
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import CheckpointError
from pipeline.model.blip_itm import BLIP_ITM
from pipeline.model.checkpoint import save_checkpoint
from pipeline.model.tokenizer import BERT_TOKENS, CaptionTokenizer
from pipeline.scenes.batches import CAPTIONS_PER_SCENE, Batch, make_batch
from pipeline.scenes.captions import vocabulary
from pipeline.scenes.scene import COLOURS, TRAIN, Split, sample_scene
from pipeline.scorer import MEAN, STD, Scorer

Pixels = npt.NDArray[np.uint8]
MIXED_EVERY = 4  # once batches are of one palette, every fourth is mixed all the same: colours must not be forgotten
MAX_TEMPERATURE = 0.5  # as BLIP clamps it
MIN_TEMPERATURE = 0.01  # below, one hard pair of a small batch outweighs all others


@dataclass(frozen=True)
class Recipe:
    """All that the weights depend on."""

    seed: int = 1
    steps: int = 6_000
    """Learning rate: linear to its peak over `warmup_steps`, constant, linear to zero over the last `decay_share` of steps."""
    warmup_steps: int = 150
    decay_share: float = 0.3
    itm_first_step: int = 1_500
    """ITC alone before: cross-attention has nothing to compare until images and captions mean something, and is costly."""
    ramp_steps: int = 400
    """Then, steps over which ITM's false pairs go from any of the batch to hard ones; of hard ones alone it learns slowly."""
    scenes: int = 100_000
    """Pictures to draw batches from; each pass words them anew."""
    batch_size: int = 32
    mixed_steps: int = 250
    """Then batches are of scenes of the same colours: what else there is to see must tell them apart, or only colours are learnt."""
    learning_rate: float = 8e-4
    weight_decay: float = 0.05
    max_gradient_norm: float = 1.0
    image_size: int = 112
    vit: str = "tiny"
    med_config: str = "configs/demo_model.json"
    embed_dim: int = 128


class StepReport(NamedTuple):
    """What one step measured; losses before its update."""

    step: int  # steps done
    loss: float
    itc_loss: float
    itm_loss: float
    itm_accuracy: float
    temperature: float
    learning_rate: float
    seconds: float


class Losses(NamedTuple):
    """The two losses of a batch, scalars with gradients, and the share of pairs that ITM gets right."""

    itc: Tensor
    itm: Tensor
    itm_accuracy: Tensor


def demo_vocabulary() -> list[str]:
    """A WordPiece vocabulary: the grammar's words, and single characters so that any other ASCII word can be spelt."""
    letters = string.ascii_lowercase + string.digits
    pieces = {*letters, *("##" + letter for letter in letters), *string.punctuation, *vocabulary()}
    return [*BERT_TOKENS, *sorted(pieces)]


def build_model(recipe: Recipe) -> BLIP_ITM:
    """A model of the recipe's shape with fresh weights from its seed. Seeds torch's global generator."""
    torch.manual_seed(recipe.seed)
    return BLIP_ITM(
        recipe.med_config,
        recipe.image_size,
        recipe.vit,
        embed_dim=recipe.embed_dim,
        tokenizer=CaptionTokenizer(demo_vocabulary()),
    )


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of step number `step`, counted from 0."""
    warm = (step + 1) / recipe.warmup_steps if recipe.warmup_steps else 1.0
    left = (recipe.steps - step) / max(1.0, recipe.decay_share * recipe.steps)
    return recipe.learning_rate * max(0.0, min(1.0, warm, left))


def hardness(recipe: Recipe, step: int) -> float:
    """From 0 to 1: how much ITC similarity decides which false pairs ITM sees, and the weight of one-word-changed captions."""
    return min(1.0, max(0, step - recipe.itm_first_step) / max(1, recipe.ramp_steps))


def batch_indices(recipe: Recipe, step: int, palettes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(B,) scene numbers of a step, of mixed scenes or of scenes of one palette; `palettes` (scenes,) is each scene's.

    A pass goes through all scenes once in an order of its own, less last partial batches.
    """
    mixed = step < recipe.mixed_steps or step % MIXED_EVERY == 0
    batches = _pass_batches(recipe, step // (recipe.scenes // recipe.batch_size), mixed, palettes.tobytes())
    return batches[step % len(batches)]


@lru_cache(maxsize=4)
def _pass_batches(recipe: Recipe, number: int, mixed: bool, palettes: bytes) -> npt.NDArray[np.int64]:
    """(batches, B): one pass through the scenes."""
    rng = np.random.default_rng([recipe.seed, number, mixed])
    order = rng.permutation(recipe.scenes)
    palette = np.frombuffer(palettes, np.int64)[order]
    groups = [order] if mixed else [order[palette == one] for one in np.unique(palette)]
    size = recipe.batch_size
    batches = np.concatenate([group[: len(group) // size * size].reshape(-1, size) for group in groups])
    return rng.permutation(batches) if len(batches) else order[:size][None]


def find_palettes(split: Split, scenes: int) -> npt.NDArray[np.int64]:
    """(scenes,) for each scene a number that stands for the set of colours of its things."""
    numbers = {colour: 1 << bit for bit, colour in enumerate(COLOURS)}
    return np.array(
        [sum({numbers[thing.kind.colour] for thing in sample_scene(split, index).things}) for index in range(scenes)], np.int64
    )


def normalise(pixels: Pixels) -> Tensor:
    """uint8 (B, S, S, 3) -> float (B, 3, S, S) with BLIP's mean and standard deviation."""
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(255)
    return image.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1))


def compute_losses(
    model: BLIP_ITM, temperature: Tensor, image: Tensor, batch: Batch, *, with_itm: bool = True, hard: float = 1.0
) -> Losses:
    """Both losses of a batch of B images, float (B, 3, S, S), at a `hardness`. Draws from torch's global generator."""
    image_tokens = model.encode_image(image)
    ids, mask = model.tokenize(batch.captions + batch.changed)  # (2 n, L): true captions, then changed ones
    n = len(batch.captions)
    text_embedding = _text_embedding(model, ids[:n], mask[:n])
    similarity = model.image_embedding(image_tokens) @ text_embedding.T / temperature  # (B, n)
    fits = torch.from_numpy(batch.fits)  # (B, n)
    owner = torch.arange(n) // CAPTIONS_PER_SCENE
    itc = contrastive_loss(similarity, fits, owner)
    if not with_itm:
        return Losses(itc, torch.zeros(()), torch.tensor(torch.nan))
    with torch.no_grad():
        hard_caption, hard_image = draw_hard_negatives(similarity * hard, fits)
    first = torch.arange(0, n, CAPTIONS_PER_SCENE)
    rows = torch.cat((torch.arange(2 * n), hard_caption, first))  # a caption each
    of_image = torch.cat((owner, owner, torch.arange(len(image)), hard_image))  # and the image it is shown with
    logits = _match_logits(model, image_tokens, ids[rows], mask[rows], of_image)
    labels = (torch.arange(len(rows)) < n).long()
    weights = torch.ones(len(rows))
    weights[n : 2 * n] = hard
    itm = (F.cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()
    return Losses(itc, itm, (logits.argmax(dim=1) == labels).float().mean())


def contrastive_loss(similarity: Tensor, fits: Tensor, owner: Tensor) -> Tensor:
    """ITC over (B, n) similarities of images and captions, both ways; `owner` (n,) is each caption's image.

    A pair is contrasted with those false pairs only that `fits` (B, n) does not mark as true.
    """
    columns = torch.arange(len(owner))
    own = similarity[owner, columns]  # (n,)
    false = similarity.masked_fill(fits, -torch.inf)
    image_to_text = torch.logaddexp(own, false.logsumexp(dim=1)[owner]) - own
    text_to_image = torch.logaddexp(own, false.logsumexp(dim=0)) - own
    return (image_to_text.mean() + text_to_image.mean()) / 2


def draw_hard_negatives(similarity: Tensor, fits: Tensor) -> tuple[Tensor, Tensor]:
    """For each image a false caption (B,), and for each image's first caption a false image (B,), likelier the more similar."""
    weights = similarity.masked_fill(fits, -torch.inf)
    captions = torch.multinomial(weights.softmax(dim=1).nan_to_num() + 1e-9 * ~fits, 1).squeeze(1)
    first = weights[:, ::CAPTIONS_PER_SCENE]
    images = torch.multinomial((first.softmax(dim=0).nan_to_num() + 1e-9 * ~fits[:, ::CAPTIONS_PER_SCENE]).T, 1).squeeze(1)
    return captions, images


def _text_embedding(model: BLIP_ITM, ids: Tensor, mask: Tensor) -> Tensor:
    """`model.text_embedding`, without computing on most of the padding."""
    groups = _by_length(mask, groups=2)
    parts = [model.text_embedding(ids[rows, :length], mask[rows, :length]) for rows, length in groups]
    return torch.cat(parts)[torch.cat([rows for rows, _ in groups]).argsort()]


def _match_logits(model: BLIP_ITM, image_tokens: Tensor, ids: Tensor, mask: Tensor, of_image: Tensor) -> Tensor:
    """`model.match_logits`, without computing on most of the padding."""
    groups = _by_length(mask, groups=3)
    parts = [
        model.match_logits(image_tokens, ids[rows, :length], mask[rows, :length], of_image[rows]) for rows, length in groups
    ]
    return torch.cat(parts)[torch.cat([rows for rows, _ in groups]).argsort()]


def _by_length(mask: Tensor, groups: int) -> list[tuple[Tensor, int]]:
    """Rows of (n, L) in groups of like length, shortest first, each with the length of its longest."""
    lengths = mask.sum(dim=1)
    order = lengths.argsort(stable=True)
    return [(rows, int(lengths[rows].max())) for rows in order.chunk(groups)]


class Trainer:
    """A model in training: its weights, the optimizer's state and the number of steps done.

    `pixels` holds the first `recipe.scenes` scenes of `split`, uint8 (scenes, S, S, 3).
    """

    def __init__(self, recipe: Recipe, pixels: Pixels, *, split: Split = TRAIN) -> None:
        self.recipe, self.pixels, self.split = recipe, pixels, split
        self.palettes = find_palettes(split, recipe.scenes)
        self.model = build_model(recipe)
        self.log_temperature = nn.Parameter(torch.tensor(0.07).log())  # learnt, like BLIP's; not part of the model
        decayed = [parameter for parameter in self.model.parameters() if parameter.ndim >= 2]
        others = [parameter for parameter in self.model.parameters() if parameter.ndim < 2]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": [*others, self.log_temperature], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
        )
        self.step = 0

    def steps(self) -> Iterator[StepReport]:
        """Train to the recipe's last step, with a report after each step. The caller may stop at any of them, and save."""
        while self.step < self.recipe.steps:
            self.model.train()
            yield self._one_step()

    def _one_step(self) -> StepReport:
        started = time.perf_counter()
        indices = batch_indices(self.recipe, self.step, self.palettes)
        batch = make_batch(self.split, [int(index) for index in indices], f"{self.recipe.seed}/{self.step}")
        rate = learning_rate(self.recipe, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        temperature = self.log_temperature.exp()
        image = normalise(self.pixels[indices])
        losses = compute_losses(
            self.model,
            temperature,
            image,
            batch,
            with_itm=self.step >= self.recipe.itm_first_step,
            hard=hardness(self.recipe, self.step),
        )
        loss = losses.itc + losses.itm
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.max_gradient_norm)
        self.optimizer.step()
        with torch.no_grad():
            self.log_temperature.clamp_(np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE))
        self.step += 1
        return StepReport(
            step=self.step,
            loss=loss.item(),
            itc_loss=losses.itc.item(),
            itm_loss=losses.itm.item(),
            itm_accuracy=losses.itm_accuracy.item(),
            temperature=temperature.item(),
            learning_rate=rate,
            seconds=time.perf_counter() - started,
        )

    def scorer(self) -> Scorer:
        """The model as it is now, for validation between two steps."""
        return Scorer(self.model, "cpu", "float32")

    def save(self, path: Path) -> None:
        """Write all that `load` needs; the file is replaced in one move, so that a kill leaves the former one."""
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "model": self.model.state_dict(),
            "log_temperature": self.log_temperature.detach(),
            "optimizer": self.optimizer.state_dict(),
            "generator": torch.get_rng_state(),
        }
        unfinished = path.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a saved state as if never stopped. CheckpointError if it is of another recipe.

        The number of steps may differ as long as neither schedule had begun to decay when the state was saved.
        """
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            differences = self._differences(state["recipe"], state["step"])
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path} is not a saved training state: {error}") from None
        if differences:
            raise CheckpointError(f"{path} was saved by another recipe: {', '.join(differences)}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])
        torch.set_rng_state(state["generator"])
        self.step = state["step"]

    def _differences(self, saved: dict[str, Any], step: int) -> list[str]:
        ours = asdict(self.recipe)
        decay_start = min(int((1 - self.recipe.decay_share) * steps) for steps in (saved["steps"], self.recipe.steps))
        ignored = {"steps", "decay_share"} if step <= decay_start else set()
        return [
            f"{name} {saved.get(name)} there, {ours[name]} here"
            for name in ours
            if name not in ignored and saved.get(name) != ours[name]
        ]


def export_model(model: BLIP_ITM, folder: Path) -> None:
    """Write a copy of the model in half precision (two bytes a weight; loading widens them again) as a checkpoint folder."""
    save_checkpoint(copy.deepcopy(model).half(), folder)
