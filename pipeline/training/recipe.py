"""All that the demo model's weights depend on: sizes, rates, and what is learnt when.

Numbers only: knows nothing of torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """A run of steps that learn the same things. Naming what patches show is learnt in all of them."""

    first_step: int
    itc: bool = False
    itm: bool = False
    ramp_steps: int = 0
    """Steps over which ITM's false pairs go from any of the batch to hard ones: at first it learns nothing of those alone."""


CURRICULUM = (
    Phase(0),
    Phase(2_600, itc=True),
    Phase(3_000, itc=True, itm=True, ramp_steps=350),
)


@dataclass(frozen=True)
class Recipe:
    """All that the weights depend on."""

    seed: int = 1
    steps: int = 5_600
    phases: tuple[Phase, ...] = CURRICULUM
    """In the order of their first steps; the first begins at 0."""
    learning_rate: float = 8e-4
    warmup_steps: int = 150
    """The rate rises to `learning_rate` over these, stays, and falls to zero over the last `decay_share` of the steps."""
    decay_share: float = 0.15
    weight_decay: float = 0.05
    max_gradient_norm: float = 1.0
    scenes: int = 100_000
    """Pictures to draw batches from; each pass words them anew."""
    batch_size: int = 32
    image_size: int = 112
    vit: str = "tiny"
    med_config: str = "configs/demo_model.json"
    embed_dim: int = 128

    def phase(self, step: int) -> Phase:
        """The phase that a step is in."""
        return [phase for phase in self.phases if phase.first_step <= step][-1]

    def learning_rate_at(self, step: int) -> float:
        """The rate of step number `step`, counted from 0."""
        warm = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        left = (self.steps - step) / max(1.0, self.decay_share * self.steps)
        return self.learning_rate * max(0.0, min(1.0, warm, left))

    def hardness_at(self, step: int) -> float:
        """From 0 to 1: how much ITC similarity decides which false pairs ITM sees, and the weight of changed captions."""
        phase = self.phase(step)
        return min(1.0, (step - phase.first_step) / phase.ramp_steps) if phase.ramp_steps else 1.0
