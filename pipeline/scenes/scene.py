"""What a scene is, and the sampling of scenes by (split, index).

A scene is one or two groups of like things on a backdrop. A split is a stream of random seeds of its own, so splits never
share a scene; the colour-shape combinations of `HELD_OUT` occur in splits whose `unseen_share` is above zero, and nowhere
else. Knows nothing of captions, and of drawing only what must be legible at 112 pixels.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

VERSION = 1  # part of every seed: a change to the sampling is a new data set


class Shape(StrEnum):
    """Outlines that stay apart at 18 pixels, squashed or not."""

    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"
    STAR = "star"
    CROSS = "cross"
    HEART = "heart"


class Colour(StrEnum):
    """Colours that stay apart after JPEG at quality 35."""

    RED = "red"
    ORANGE = "orange"
    YELLOW = "yellow"
    GREEN = "green"
    BLUE = "blue"
    PURPLE = "purple"
    BLACK = "black"
    WHITE = "white"


class Size(StrEnum):
    """Two sizes with a gap between them (see `RADIUS`)."""

    SMALL = "small"
    LARGE = "large"


class Fill(StrEnum):
    """The texture inside an outline."""

    SOLID = "solid"
    STRIPED = "striped"
    SPOTTED = "spotted"


class Relation(StrEnum):
    """Where the first thing is, seen from the second."""

    LEFT = "left of"
    RIGHT = "right of"
    ABOVE = "above"
    BELOW = "below"


class Backdrop(StrEnum):
    """Colour behind the things."""

    WHITE = "white"
    GREY = "grey"
    BEIGE = "beige"
    DARK = "dark"


class Texture(StrEnum):
    """Faint pattern of the backdrop; never mentioned by a caption."""

    PLAIN = "plain"
    GRADIENT = "gradient"
    LINED = "lined"
    DOTTED = "dotted"


@dataclass(frozen=True)
class Split:
    """A stream of scenes. `unseen_share`: the probability that a scene contains a held-out combination."""

    name: str
    unseen_share: float = 0.0


TRAIN = Split("train")
VALIDATION = Split("validation")
TEST = Split("test", unseen_share=0.25)
CONFIRMATION = Split("confirmation", unseen_share=0.25)  # like test, for figures that no choice was made on
DEMO = Split("demo")
SPLITS = {split.name: split for split in (TRAIN, VALIDATION, TEST, CONFIRMATION, DEMO)}

HELD_OUT: frozenset[tuple[Colour, Shape]] = frozenset(
    {
        (Colour.RED, Shape.STAR),
        (Colour.GREEN, Shape.CIRCLE),
        (Colour.BLUE, Shape.HEART),
        (Colour.YELLOW, Shape.SQUARE),
        (Colour.PURPLE, Shape.TRIANGLE),
        (Colour.ORANGE, Shape.CROSS),
    }
)

ILLEGIBLE: frozenset[tuple[Colour, Backdrop]] = frozenset({(Colour.WHITE, Backdrop.WHITE), (Colour.BLACK, Backdrop.DARK)})

RADIUS = {Size.SMALL: (0.115, 0.135), Size.LARGE: (0.19, 0.215)}  # of the picture's shorter side
MAX_THINGS = 4  # of a scene; also the largest number a caption says
SEPARATION = 0.42  # between the centres of a related pair, along the relation, of the picture's side
ASIDE = 0.08  # at most so much across it
MARGIN = 0.02  # between a thing and the edge, of the picture's side
SHAPES, COLOURS, SIZES, FILLS = tuple(Shape), tuple(Colour), tuple(Size), tuple(Fill)
BACKDROPS, TEXTURES, RELATIONS = tuple(Backdrop), tuple(Texture), tuple(Relation)
SHAPES_OF_PICTURES = ((224, 224), (224, 224), (240, 180), (180, 240), (252, 168), (168, 252))  # width, height in pixels


@dataclass(frozen=True)
class Kind:
    """What the things of one group have in common."""

    shape: Shape
    colour: Colour
    size: Size
    fill: Fill

    @property
    def unseen(self) -> bool:
        """True for a held-out combination of colour and shape."""
        return (self.colour, self.shape) in HELD_OUT


@dataclass(frozen=True)
class Thing:
    """One drawn thing: centre in [0, 1] of the picture's width and height, radius of its shorter side, tilt in degrees."""

    kind: Kind
    x: float
    y: float
    radius: float
    tilt: float


@dataclass(frozen=True)
class Scene:
    """A picture's whole content. `relation` is that of things[0] to things[1] in scenes of a related pair, else None."""

    things: tuple[Thing, ...]
    backdrop: Backdrop
    texture: Texture
    relation: Relation | None
    width: int
    height: int
    noise: float  # standard deviation, grey levels
    jpeg_quality: int
    seed: int  # of the drawing's own details: shades, grain

    @property
    def unseen(self) -> bool:
        """True if any thing is of a held-out combination."""
        return any(thing.kind.unseen for thing in self.things)


def sample_scene(split: Split, index: int) -> Scene:
    """Scene `index` of a split: always the same one."""
    rng = random.Random(f"scene/{VERSION}/{split.name}/{index}")
    width, height = rng.choice(SHAPES_OF_PICTURES)
    backdrop = rng.choice(BACKDROPS)
    unseen = rng.random() < split.unseen_share
    layout = rng.random()
    relation = None
    if layout < 0.35:
        kinds = [_sample_kind(rng, backdrop, unseen)] * rng.randint(1, MAX_THINGS)
    elif layout < 0.8:
        kinds = _sample_two(rng, backdrop, unseen)
        relation = rng.choice(tuple(Relation))
    else:
        first, second = _sample_two(rng, backdrop, unseen)
        n_first, n_second = rng.choice(((1, 2), (2, 1), (1, 3), (3, 1), (2, 2)))
        kinds = [first] * n_first + [second] * n_second
    things = _place_pair(rng, kinds, relation, width, height) if relation else _place_apart(rng, kinds, width, height)
    return Scene(
        things=tuple(things),
        backdrop=backdrop,
        texture=rng.choice(TEXTURES),
        relation=relation,
        width=width,
        height=height,
        noise=rng.choice((0.0, 3.0, 6.0)),
        jpeg_quality=rng.choice((35, 50, 70, 85, 95)),
        seed=rng.getrandbits(31),
    )


def legible_colours(backdrop: Backdrop) -> tuple[Colour, ...]:
    """Colours that can be told from the backdrop."""
    return tuple(colour for colour in COLOURS if (colour, backdrop) not in ILLEGIBLE)


def _sample_kind(rng: random.Random, backdrop: Backdrop, unseen: bool) -> Kind:
    """A kind legible on the backdrop; of a held-out combination if `unseen`, never of one otherwise."""
    colours = legible_colours(backdrop)
    while True:
        kind = Kind(
            shape=rng.choice(SHAPES),
            colour=rng.choice(colours),
            size=rng.choice(SIZES),
            fill=rng.choice((Fill.SOLID, Fill.SOLID, Fill.STRIPED, Fill.SPOTTED)),
        )
        if kind.unseen == unseen:
            return kind


def _sample_two(rng: random.Random, backdrop: Backdrop, unseen: bool) -> list[Kind]:
    """Two kinds that differ in colour or shape; if `unseen`, one of them is of a held-out combination."""
    while True:
        kinds = [_sample_kind(rng, backdrop, unseen), _sample_kind(rng, backdrop, False)]
        if (kinds[0].colour, kinds[0].shape) != (kinds[1].colour, kinds[1].shape):
            rng.shuffle(kinds)
            return kinds


def _extent(radius: float, width: int, height: int) -> tuple[float, float]:
    """Half width and half height of a thing, of the picture's width and height."""
    return radius * min(width, height) / width, radius * min(width, height) / height


def _thing(rng: random.Random, kind: Kind, centre: tuple[float, float], radius: float) -> Thing:
    return Thing(
        kind, x=round(centre[0], 4), y=round(centre[1], 4), radius=round(radius, 4), tilt=round(rng.uniform(-12, 12), 1)
    )


def _place_pair(rng: random.Random, kinds: list[Kind], relation: Relation, width: int, height: int) -> list[Thing]:
    """Two things clearly in the relation: far along its axis, close across it."""
    radii = [rng.uniform(*RADIUS[kind.size]) for kind in kinds]
    horizontal = relation in (Relation.LEFT, Relation.RIGHT)
    along = [_extent(radius, width, height)[0 if horizontal else 1] + MARGIN for radius in radii]
    across = max(_extent(max(radii), width, height)[1 if horizontal else 0] + MARGIN, 0.25)
    first_is_low = relation in (Relation.LEFT, Relation.ABOVE)
    near, far = (0, 1) if first_is_low else (1, 0)  # which of the two has the smaller coordinate
    low = rng.uniform(along[near], 1 - along[far] - SEPARATION)
    high = rng.uniform(low + SEPARATION, 1 - along[far])
    base = rng.uniform(across + ASIDE / 2, 1 - across - ASIDE / 2)
    things = []
    for index, kind in enumerate(kinds):
        main = low if index == near else high
        side = base + rng.uniform(-ASIDE / 2, ASIDE / 2)
        things.append(_thing(rng, kind, (main, side) if horizontal else (side, main), radii[index]))
    return things


def _place_apart(rng: random.Random, kinds: list[Kind], width: int, height: int) -> list[Thing]:
    """Up to four things in cells of a grid that is coarse enough for the largest of them; none touches another."""
    large = any(kind.size is Size.LARGE for kind in kinds)
    side = 1 if len(kinds) == 1 else (2 if large else 3)
    cells = rng.sample([(column, row) for column in range(side) for row in range(side)], len(kinds))
    things = []
    for kind, (column, row) in zip(kinds, cells, strict=True):
        radius = rng.uniform(*RADIUS[kind.size])
        half = _extent(radius, width, height)
        spare = [max(0.5 / side - extent - MARGIN / 2, 0.0) for extent in half]
        centre = (
            (column + 0.5) / side + rng.uniform(-spare[0], spare[0]),
            (row + 0.5) / side + rng.uniform(-spare[1], spare[1]),
        )
        things.append(_thing(rng, kind, centre, radius))
    return things
