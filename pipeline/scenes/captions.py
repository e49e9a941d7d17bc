"""What a caption claims of a scene, whether that is true, and the grammar that words it.

A claim is the meaning: one or two phrases, perhaps a relation and the backdrop. `describe` draws a true claim that may drop
details; `word` puts a claim into English. Both draw from a generator in the same order whatever the claim's values are, so
that two claims of the same form, worded from the same seed, differ in the changed word alone. Knows nothing of pixels or of
how claims are falsified.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.scenes.scene import ASIDE, SEPARATION, Backdrop, Colour, Fill, Relation, Scene, Shape, Size, Thing

SHAPE_WORDS: dict[Shape | None, tuple[str, ...]] = {
    Shape.CIRCLE: ("circle", "disc", "circle"),
    Shape.SQUARE: ("square", "box", "square"),
    Shape.TRIANGLE: ("triangle", "triangle", "triangle"),
    Shape.STAR: ("star", "star", "star"),
    Shape.CROSS: ("cross", "plus sign", "cross"),
    Shape.HEART: ("heart", "heart", "heart"),
    None: ("shape", "object", "thing"),
}
COLOUR_SYNONYMS = {
    Colour.RED: "crimson",
    Colour.ORANGE: "tangerine",
    Colour.YELLOW: "golden",
    Colour.GREEN: "emerald",
    Colour.BLUE: "azure",
    Colour.PURPLE: "violet",
    Colour.BLACK: "jet black",
    Colour.WHITE: "ivory",
}
SIZE_WORDS = {Size.SMALL: ("small", "little", "tiny"), Size.LARGE: ("large", "big", "huge")}
FILL_WORDS = {Fill.SOLID: ("plain", "solid"), Fill.STRIPED: ("striped", "stripy"), Fill.SPOTTED: ("spotted", "dotted")}
NUMBERS = {1: ("a", "one", "a single"), 2: ("two", "2", "a pair of"), 3: ("three", "3", "three"), 4: ("four", "4", "four")}
RELATION_WORDS = {
    Relation.LEFT: ("left of", "to the left of", "on the left side of"),
    Relation.RIGHT: ("right of", "to the right of", "on the right side of"),
    Relation.ABOVE: ("above", "over", "higher than"),
    Relation.BELOW: ("below", "under", "lower than"),
}
PLACES = {  # where the first and the second thing are
    Relation.LEFT: ("on the left", "on the right"),
    Relation.RIGHT: ("on the right", "on the left"),
    Relation.ABOVE: ("at the top", "at the bottom"),
    Relation.BELOW: ("at the bottom", "at the top"),
}
OPPOSITE = {
    Relation.LEFT: Relation.RIGHT,
    Relation.RIGHT: Relation.LEFT,
    Relation.ABOVE: Relation.BELOW,
    Relation.BELOW: Relation.ABOVE,
}
BACKDROP_WORDS = {Backdrop.WHITE: "white", Backdrop.GREY: "grey", Backdrop.BEIGE: "beige", Backdrop.DARK: "dark"}
FRAMES = ("{}", "{}", "{}", "a picture of {}", "an image showing {}", "this shows {}", "we see {}", "{} in a simple drawing")
WEB_FRAMES = (
    "{} | stock photo",
    "{} - free clipart download",
    "buy now: {} only ${price}.99",
    "{} #art #{tag}",
    "img {number}: {}",
    "{} poster, free shipping",
)
WEB_SHARE = 0.12
FILE_NAME_SHARE = 0.06
BACKDROP_SHARE = 0.2


@dataclass(frozen=True)
class Phrase:
    """What is said of some things; None: not said. `count` is exact ("a" is one); None is the bare plural: at least two."""

    count: int | None
    size: Size | None
    fill: Fill | None
    colour: Colour | None
    shape: Shape | None


@dataclass(frozen=True)
class Claim:
    """A caption's meaning. `relation` is that of the first phrase's only thing to the second's."""

    phrases: tuple[Phrase, ...]
    relation: Relation | None = None
    backdrop: Backdrop | None = None


def is_true(claim: Claim, scene: Scene) -> bool:
    """Whether all that the claim says holds: exact counts, phrases about different things, the relation, the backdrop."""
    if claim.backdrop is not None and claim.backdrop is not scene.backdrop:
        return False
    groups = []
    for phrase in claim.phrases:
        group = _matching(phrase, scene)
        if len(group) != phrase.count if phrase.count is not None else len(group) < 2:
            return False
        groups.append(group)
    if len(groups) == 2 and groups[0] & groups[1]:
        return False
    if claim.relation is None:
        return True
    if len(groups) != 2 or any(len(group) != 1 for group in groups):
        return False
    first, second = (scene.things[group.pop()] for group in groups)
    return relation_between(first, second) is claim.relation


def relation_between(first: Thing, second: Thing) -> Relation | None:
    """Where the first thing is, seen from the second; None if not plainly so."""
    dx, dy = second.x - first.x, second.y - first.y
    along, across = max(abs(dx), abs(dy)), min(abs(dx), abs(dy))
    if along < SEPARATION - 1e-3 or across > ASIDE + 1e-3:
        return None
    if abs(dx) > abs(dy):
        return Relation.LEFT if dx > 0 else Relation.RIGHT
    return Relation.ABOVE if dy > 0 else Relation.BELOW


def describe(scene: Scene, rng: random.Random) -> Claim:
    """A true claim about the scene, most often of all its things, with some details dropped."""
    while True:
        claim = _describe(scene, rng)
        if is_true(claim, scene):
            return claim


def _describe(scene: Scene, rng: random.Random) -> Claim:
    """A claim that is true, unless dropped details make its counts wrong."""
    groups = list(dict.fromkeys(thing.kind for thing in scene.things))
    counts = {kind: sum(thing.kind == kind for thing in scene.things) for kind in groups}
    if rng.random() < 0.5:
        groups.reverse()
    swapped = groups[0] != scene.things[0].kind
    relation = scene.relation if not swapped or scene.relation is None else OPPOSITE[scene.relation]
    style = rng.random()
    if len(groups) == 2 and style < 0.15:
        groups, relation = groups[:1], None
    elif style < 0.25:
        relation = None
    phrases = []
    for kind in groups:
        keep_colour, keep_shape = rng.choice(((True, True),) * 8 + ((True, False), (False, True)))
        bare = rng.random() < 0.1 and counts[kind] > 1
        phrases.append(
            Phrase(
                count=None if bare else counts[kind],
                size=kind.size if rng.random() < 0.3 else None,
                fill=kind.fill if kind.fill is not Fill.SOLID and rng.random() < 0.4 else None,
                colour=kind.colour if keep_colour else None,
                shape=kind.shape if keep_shape else None,
            )
        )
    return Claim(tuple(phrases), relation, scene.backdrop if rng.random() < BACKDROP_SHARE else None)


def _matching(phrase: Phrase, scene: Scene) -> set[int]:
    """Indices of the things that the phrase's words fit, its count aside."""
    group = set()
    for index, thing in enumerate(scene.things):
        kind = thing.kind
        if (
            (phrase.colour is None or phrase.colour is kind.colour)
            and (phrase.shape is None or phrase.shape is kind.shape)
            and (phrase.size is None or phrase.size is kind.size)
            and (phrase.fill is None or phrase.fill is kind.fill)
        ):
            group.add(index)
    return group


def word(claim: Claim, seed: str) -> str:
    """The claim in English: a sentence, a fragment, or web style with prices, hashtags or a file name."""
    rng = random.Random(f"word/{seed}")
    core = _word_core(claim, rng)
    on_backdrop = rng.choice(("{} on a {} background", "{}, {} background", "{} against a {} backdrop"))
    if claim.backdrop is not None:
        core = on_backdrop.format(core, BACKDROP_WORDS[claim.backdrop])
    style, frame, web_frame = rng.random(), rng.choice(FRAMES), rng.choice(WEB_FRAMES)
    number, price, tag = rng.randint(100, 999), rng.randint(1, 99), rng.choice(("shapes", "design", "colour"))
    if style < FILE_NAME_SHARE and len(claim.phrases) == 1:  # two phrases would not fit the tokens a model reads
        return re.sub(r"[^a-z0-9]+", rng.choice("-_"), core) + f"_{number}.jpg"
    if style < FILE_NAME_SHARE + WEB_SHARE:
        return web_frame.format(core, price=price, tag=tag, number=number)
    text = frame.format(core)
    return rng.choice((text, text.capitalize(), text.capitalize() + "."))


def _word_core(claim: Claim, rng: random.Random) -> str:
    """The phrases joined by their relation, or by "and"."""
    said = [_word_phrase(phrase, rng) for phrase in claim.phrases]
    form, joint = rng.random(), rng.choice(("and", "and", "with", "next to", "&"))
    index = rng.randrange(3)
    if len(said) == 1:
        return said[0]
    first, second = said
    if claim.relation is None:
        return f"{first} {joint} {second}"
    words, places = RELATION_WORDS[claim.relation][index], PLACES[claim.relation]
    if form < 0.55:
        return f"{first} {words} {second}"
    if form < 0.7:
        return f"{first} placed {words} {second}"
    if form < 0.85:
        return f"{first} {places[0]}, {second} {places[1]}"
    return f"{second} and, {words} it, {first}"


def _word_phrase(phrase: Phrase, rng: random.Random) -> str:
    """One phrase: adjectives before the noun, colour after it ("in red"), or after "that is"."""
    form, number, synonym = rng.random(), rng.choice((0, 0, 0, 1, 2)), rng.random() < 0.12
    size_index, fill_index, noun_index = rng.randrange(3), rng.randrange(2), rng.randrange(3)
    plural = phrase.count != 1
    noun = _plural(SHAPE_WORDS[phrase.shape][noun_index]) if plural else SHAPE_WORDS[phrase.shape][noun_index]
    colour = [] if phrase.colour is None else [COLOUR_SYNONYMS[phrase.colour] if synonym else phrase.colour.value]
    adjectives = [] if phrase.size is None else [SIZE_WORDS[phrase.size][size_index]]
    adjectives += [] if phrase.fill is None else [FILL_WORDS[phrase.fill][fill_index]]
    quantity = [] if phrase.count is None else [NUMBERS[phrase.count][number]]
    if form < 0.12 and colour:
        words = [*quantity, *adjectives, noun, "in", *colour]
    elif form < 0.24 and (colour or adjectives):
        words = [*quantity, noun, "that", "are" if plural else "is", " and ".join(adjectives + colour)]
    elif form < 0.36 and phrase.count == 1:
        words = [*adjectives, *colour, noun]
    else:
        words = [*quantity, *adjectives, *colour, noun]
    return _with_article(words)


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


def _with_article(words: Sequence[str]) -> str:
    """Words joined; a leading "a" becomes "an" before a vowel."""
    text = " ".join(words)
    return re.sub(r"^a (?=[aeiou])", "an ", text)


def vocabulary() -> list[str]:
    """Every word the grammar can say, sorted, lower case, split as a BERT tokenizer splits (punctuation apart)."""
    texts: list[str] = ["in", "that", "is", "are", "an", "and", "with", "next to", "placed it", "shapes design colour", "jpg &"]
    texts += [form.format("", "") for form in ("{} on a {} background", "{}, {} background", "{} against a {} backdrop")]
    texts += [frame.format("", price=0, tag="", number=0) for frame in (*FRAMES, *WEB_FRAMES)]
    for nouns in SHAPE_WORDS.values():
        texts += [*nouns, *(_plural(noun) for noun in nouns)]
    texts += [*COLOUR_SYNONYMS.values(), *(colour.value for colour in Colour), *BACKDROP_WORDS.values()]
    for table in (SIZE_WORDS, FILL_WORDS, NUMBERS, RELATION_WORDS, PLACES):
        texts += [text for forms in table.values() for text in forms]
    return sorted({token for text in texts for token in re.findall(r"[a-z]+|[0-9]+|[^\sa-z0-9]", text.lower())})
