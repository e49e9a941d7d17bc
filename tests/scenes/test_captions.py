"""Claims and their truth, worked by hand and over many seeds; the words of the grammar."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scenes.captions import OPPOSITE, Claim, Phrase, describe, is_true, vocabulary, word
from pipeline.scenes.scene import (
    SPLITS,
    TEST,
    Backdrop,
    Colour,
    Fill,
    Kind,
    Relation,
    Scene,
    Shape,
    Size,
    Texture,
    Thing,
    sample_scene,
)

RED_CIRCLE = Kind(Shape.CIRCLE, Colour.RED, Size.LARGE, Fill.SOLID)
BLUE_SQUARE = Kind(Shape.SQUARE, Colour.BLUE, Size.SMALL, Fill.STRIPED)


def make_scene(*things: tuple[Kind, float, float], relation: Relation | None = None) -> Scene:
    return Scene(
        tuple(Thing(kind, x, y, 0.12, 0.0) for kind, x, y in things),
        Backdrop.GREY,
        Texture.PLAIN,
        relation,
        width=224,
        height=224,
        noise=0.0,
        jpeg_quality=95,
        seed=1,
    )


PAIR = make_scene((RED_CIRCLE, 0.2, 0.5), (BLUE_SQUARE, 0.8, 0.52), relation=Relation.LEFT)
THREE = make_scene((RED_CIRCLE, 0.2, 0.2), (RED_CIRCLE, 0.8, 0.2), (BLUE_SQUARE, 0.2, 0.8))


def phrase(count: int | None, colour: Colour | None, shape: Shape | None, **details: object) -> Phrase:
    return Phrase(count, details.get("size"), details.get("fill"), colour, shape)  # type: ignore[arg-type]


RED, BLUE, CIRCLE, SQUARE = Colour.RED, Colour.BLUE, Shape.CIRCLE, Shape.SQUARE


@pytest.mark.parametrize(
    ("claim", "scene", "expected"),
    [
        (Claim((phrase(1, RED, CIRCLE),)), PAIR, True),
        (Claim((phrase(1, RED, None),)), PAIR, True),
        (Claim((phrase(1, None, CIRCLE),)), PAIR, True),
        (Claim((phrase(2, None, None),)), PAIR, True),
        (Claim((phrase(1, None, None),)), PAIR, False),  # two shapes are not "a shape"
        (Claim((phrase(1, RED, SQUARE),)), PAIR, False),
        (Claim((phrase(None, RED, CIRCLE),)), PAIR, False),  # "red circles" are two at least
        (Claim((phrase(None, RED, CIRCLE),)), THREE, True),
        (Claim((phrase(2, RED, CIRCLE),)), THREE, True),
        (Claim((phrase(1, RED, CIRCLE),)), THREE, False),
        (Claim((phrase(3, None, None),)), THREE, True),
        (Claim((phrase(1, BLUE, SQUARE, size=Size.SMALL, fill=Fill.STRIPED),)), THREE, True),
        (Claim((phrase(1, BLUE, SQUARE, size=Size.LARGE),)), THREE, False),
        (Claim((phrase(1, BLUE, SQUARE, fill=Fill.SPOTTED),)), THREE, False),
        (Claim((phrase(1, RED, CIRCLE), phrase(1, BLUE, SQUARE)), Relation.LEFT), PAIR, True),
        (Claim((phrase(1, RED, CIRCLE), phrase(1, BLUE, SQUARE)), Relation.RIGHT), PAIR, False),
        (Claim((phrase(1, RED, CIRCLE), phrase(1, BLUE, SQUARE)), Relation.ABOVE), PAIR, False),
        (Claim((phrase(1, BLUE, SQUARE), phrase(1, RED, CIRCLE)), Relation.RIGHT), PAIR, True),
        (Claim((phrase(1, BLUE, CIRCLE), phrase(1, RED, SQUARE)), Relation.LEFT), PAIR, False),
        (Claim((phrase(1, RED, CIRCLE), phrase(1, None, CIRCLE))), PAIR, False),  # the same thing twice
        (Claim((phrase(1, RED, CIRCLE),), backdrop=Backdrop.GREY), PAIR, True),
        (Claim((phrase(1, RED, CIRCLE),), backdrop=Backdrop.WHITE), PAIR, False),
    ],
)
def test_truth_by_hand(claim: Claim, scene: Scene, expected: bool) -> None:
    assert is_true(claim, scene) is expected


@given(st.sampled_from(sorted(SPLITS)), st.integers(0, 10**9), st.integers(0, 10**9))
def test_descriptions_are_true_and_say_a_colour_or_a_shape(split: str, index: int, seed: int) -> None:
    scene = sample_scene(SPLITS[split], index)
    claim = describe(scene, random.Random(seed))
    assert is_true(claim, scene)
    for said in claim.phrases:
        assert said.colour is not None or said.shape is not None


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_relation_turned_round_is_true_only_the_other_way_round(index: int, seed: int) -> None:
    scene = sample_scene(TEST, index)
    claim = describe(scene, random.Random(seed))
    if claim.relation is not None:
        assert is_true(Claim(claim.phrases[::-1], OPPOSITE[claim.relation], claim.backdrop), scene)
        assert not is_true(Claim(claim.phrases[::-1], claim.relation, claim.backdrop), scene)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_every_word_is_in_the_vocabulary(index: int, seed: int) -> None:
    text = word(describe(sample_scene(TEST, index), random.Random(seed)), str(seed))
    tokens = set(re.findall(r"[a-z]+|[^\sa-z0-9_]", text.lower()))
    assert tokens <= {*vocabulary()}, text
    assert len(re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]", text.lower())) + 2 <= 35, text  # a model reads 35 tokens


@pytest.mark.parametrize(
    ("claim", "nouns"),
    [
        (Claim((phrase(1, Colour.ORANGE, CIRCLE),)), r"\b(circle|disc)\b"),
        (Claim((phrase(2, RED, Shape.CROSS),)), r"\b(crosses|plus signs)\b"),
        (Claim((phrase(3, RED, SQUARE),)), r"\b(squares|boxes)\b"),
        (Claim((phrase(None, RED, None),)), r"\b(shapes|objects|things)\b"),
    ],
)
def test_number_and_article_agree(claim: Claim, nouns: str) -> None:
    for seed in range(50):
        text = re.sub("[-_]", " ", word(claim, str(seed)).lower())
        assert re.search(nouns, text), text
        assert not re.search(r"\ba [aeiou]", text), text


def test_one_claim_is_worded_in_many_ways() -> None:
    claim = Claim((phrase(1, RED, CIRCLE), phrase(1, BLUE, SQUARE)), Relation.LEFT)
    texts = {word(claim, str(seed)) for seed in range(300)}
    assert len(texts) > 200
    assert any("$" in text for text in texts)
    assert any("#" in text for text in texts)
    assert any(word(Claim(claim.phrases[:1]), str(seed)).endswith(".jpg") for seed in range(300))
