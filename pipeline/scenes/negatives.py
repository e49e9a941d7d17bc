"""False captions for a scene: another scene's, or its own with one word changed.

Each is checked against the scene itself before it is returned, so a negative is never true by accident. The changes keep the
statistics of the words close to those of true captions: a model that doesn't look at the picture must not gain from them.
Knows nothing of pixels, and of splits only that held-out combinations are not mentioned for scenes that have none.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from typing import Any, NamedTuple

from pipeline.scenes.captions import Claim, Phrase, describe, is_true
from pipeline.scenes.scene import HELD_OUT, MAX_THINGS, SHAPES, Relation, Scene, Split, legible_colours, sample_scene


class Change(StrEnum):
    """Which word of a true caption was changed."""

    COLOUR = "colour"
    SHAPE = "shape"
    COUNT = "count"
    RELATION = "relation"
    SWAP = "swapped attributes"


class Changed(NamedTuple):
    """A false claim and how it came from the true one."""

    claim: Claim
    change: Change


def change_one_word(claim: Claim, scene: Scene, rng: random.Random) -> Changed:
    """The claim with one word changed (or the two phrases' colours or shapes swapped), false for the scene.

    `claim` must be true of the scene and name a colour or a shape, as every claim of `describe` does.
    """
    candidates = {change: list(_candidates(claim, scene, change)) for change in Change}
    weights = {change: _weight(change, claim) for change, claims in candidates.items() if claims}
    change = rng.choices(list(weights), list(weights.values()))[0]
    return Changed(rng.choice(candidates[change]), change)


def other_scene(scene: Scene, split: Split, rng: random.Random, n_scenes: int) -> Claim:
    """A true claim of another of the split's first n_scenes scenes, false for this one."""
    while True:
        claim = describe(sample_scene(split, rng.randrange(n_scenes)), rng)
        if not is_true(claim, scene) and _speakable(claim, scene):
            return claim


def _weight(change: Change, claim: Claim) -> float:
    """Counts of one, about three times as common as others in true captions, change a third as often: none gives a lie away."""
    return 1 / 3 if change is Change.COUNT and claim.phrases[0].count == 1 else 1.0


def _candidates(claim: Claim, scene: Scene, change: Change) -> Iterator[Claim]:
    """All claims one such change away that are false for the scene, and that could be true of some other scene."""
    for candidate in _changed(claim, scene, change):
        if not is_true(candidate, scene) and _speakable(candidate, scene) and _possible(candidate):
            yield candidate


def _changed(claim: Claim, scene: Scene, change: Change) -> Iterator[Claim]:
    """All claims one such change away, true or not."""
    if change is Change.RELATION:
        if claim.relation is not None:
            yield from (replace(claim, relation=relation) for relation in Relation if relation is not claim.relation)
        return
    if change is Change.SWAP:
        if len(claim.phrases) == 2:
            yield from (_swap(claim, name) for name in ("colour", "shape") if _both_say(claim, name))
        return
    for index, phrase in enumerate(claim.phrases):
        if change is Change.COLOUR and phrase.colour is not None:
            others = [colour for colour in legible_colours(scene.backdrop) if colour is not phrase.colour]
            yield from (_with(claim, index, colour=colour) for colour in others)
        elif change is Change.SHAPE and phrase.shape is not None:
            yield from (_with(claim, index, shape=shape) for shape in SHAPES if shape is not phrase.shape)
        elif change is Change.COUNT and phrase.count is not None and claim.relation is None:
            counts = [count for count in range(1, MAX_THINGS + 1) if count != phrase.count]
            yield from (_with(claim, index, count=count) for count in counts)


def _with(claim: Claim, index: int, **changes: Any) -> Claim:
    """The claim with some values of one phrase replaced."""
    phrases = [replace(phrase, **changes) if place == index else phrase for place, phrase in enumerate(claim.phrases)]
    return replace(claim, phrases=tuple(phrases))


def _both_say(claim: Claim, name: str) -> bool:
    first, second = (getattr(phrase, name) for phrase in claim.phrases)
    return first is not None and second is not None and first is not second


def _swap(claim: Claim, name: str) -> Claim:
    """The claim with the two phrases' values of one attribute exchanged."""
    first, second = claim.phrases
    swapped = replace(first, **{name: getattr(second, name)}), replace(second, **{name: getattr(first, name)})
    return replace(claim, phrases=swapped)


def _speakable(claim: Claim, scene: Scene) -> bool:
    """False if a held-out combination is mentioned for a scene that has none: training would teach that it is a lie."""
    return scene.unseen or not any((phrase.colour, phrase.shape) in HELD_OUT for phrase in claim.phrases)


def _possible(claim: Claim) -> bool:
    """False for what no scene shows: two groups alike, or more things than a scene holds."""
    if len(claim.phrases) < 2:
        return True
    first, second = claim.phrases
    return not _alike(first, second) and (first.count or 2) + (second.count or 2) <= MAX_THINGS


def _alike(first: Phrase, second: Phrase) -> bool:
    return (first.colour, first.shape) == (second.colour, second.shape)
