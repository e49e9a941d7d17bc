"""Negatives: false of their scene, one word away, and not to be told without looking."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from pipeline.evaluate import roc_auc
from pipeline.scenes.batches import CAPTIONS_PER_SCENE, make_batch
from pipeline.scenes.captions import Claim, describe, is_true, word
from pipeline.scenes.negatives import Change, change_one_word, other_scene
from pipeline.scenes.scene import HELD_OUT, SPLITS, TRAIN, VALIDATION, Split, sample_scene

seeds = st.integers(0, 10**9)
splits = st.sampled_from(sorted(SPLITS))


def mentions_held_out(claim: Claim) -> bool:
    return any((phrase.colour, phrase.shape) in HELD_OUT for phrase in claim.phrases)


@given(splits, seeds, seeds)
def test_a_changed_word_makes_the_caption_false(split: str, index: int, seed: int) -> None:
    scene, rng = sample_scene(SPLITS[split], index), random.Random(seed)
    claim = describe(scene, rng)
    changed = change_one_word(claim, scene, rng)
    assert is_true(claim, scene)
    assert not is_true(changed.claim, scene)
    assert word(changed.claim, str(seed)) != word(claim, str(seed))


@given(splits, seeds, seeds)
def test_another_scenes_caption_is_false_here(split: str, index: int, seed: int) -> None:
    scene = sample_scene(SPLITS[split], index)
    assert not is_true(other_scene(scene, SPLITS[split], random.Random(seed), 1_000), scene)


@given(seeds, seeds)
def test_training_never_hears_of_a_held_out_combination(index: int, seed: int) -> None:
    scene, rng = sample_scene(TRAIN, index), random.Random(seed)
    claim = describe(scene, rng)
    assert not mentions_held_out(claim)
    assert not mentions_held_out(change_one_word(claim, scene, rng).claim)


@given(splits, seeds)
def test_a_change_is_the_change_it_says(split: str, index: int) -> None:
    scene, rng = sample_scene(SPLITS[split], index), random.Random(index)
    claim = describe(scene, rng)
    changed, change = change_one_word(claim, scene, rng)
    before = [value for phrase in claim.phrases for value in (phrase.count, phrase.colour, phrase.shape)]
    after = [value for phrase in changed.phrases for value in (phrase.count, phrase.colour, phrase.shape)]
    differing = sum(a != b for a, b in zip(before, after, strict=True))
    assert (changed.relation != claim.relation) == (change is Change.RELATION)
    assert differing == {Change.RELATION: 0, Change.SWAP: 2}.get(change, 1)
    assert changed.backdrop is claim.backdrop


def test_the_wording_around_a_changed_colour_stays() -> None:
    seen = 0
    for index in range(300):
        scene, rng = sample_scene(TRAIN, index), random.Random(index)
        claim = describe(scene, rng)
        changed, change = change_one_word(claim, scene, rng)
        if change is Change.COLOUR:
            before, after = (word(one, "7").replace("jet black", "black").split() for one in (claim, changed))
            assert len(before) == len(after)
            differing = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
            assert 1 <= len(differing) <= 2, differing  # the colour, and "a" or "an" before it
            seen += 1
    assert seen > 50


def test_all_changes_occur() -> None:
    found = set()
    for index in range(200):
        scene, rng = sample_scene(TRAIN, index), random.Random(index)
        found.add(change_one_word(describe(scene, rng), scene, rng).change)
    assert found == set(Change)


def caption_pairs(split: Split, count: int) -> tuple[list[str], list[bool]]:
    texts: list[str] = []
    for index in range(count):
        scene, rng = sample_scene(split, index), random.Random(index)
        claim = describe(scene, rng)
        texts += [word(one, str(index)) for one in (claim, change_one_word(claim, scene, rng).claim)]
    return texts, [True, False] * count


@pytest.mark.slow
def test_words_alone_do_not_give_a_lie_away() -> None:
    texts, labels = caption_pairs(TRAIN, 8_000)
    counter = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+")
    blind = LogisticRegression(C=0.3, max_iter=300).fit(counter.fit_transform(texts), labels)
    texts, labels = caption_pairs(VALIDATION, 4_000)
    assert roc_auc(labels, blind.predict_proba(counter.transform(texts))[:, 1]) < 0.55


def test_a_batch_knows_which_captions_fit_which_scenes() -> None:
    batch = make_batch(TRAIN, range(40), "seed")
    again = make_batch(TRAIN, range(40), "seed")
    assert batch.captions == again.captions
    assert batch.changed == again.changed
    assert batch.captions != make_batch(TRAIN, range(40), "other").captions
    assert batch.fits.shape == (40, 40 * CAPTIONS_PER_SCENE)
    own = np.repeat(np.arange(40), CAPTIONS_PER_SCENE)
    assert batch.fits[own, np.arange(len(own))].all()
    assert 0 < batch.fits.sum() - len(own) < 0.1 * batch.fits.size  # some captions fit another scene by chance, few
