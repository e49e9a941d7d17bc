"""A scene -> a picture -> JPEG bytes. Deterministic for one version of Pillow and libjpeg.

Shapes are drawn as polygons on a canvas of twice the size, then reduced, so that edges are smooth. Knows nothing of captions,
splits or models; `pixels` is the only place that knows what size a model looks at.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pipeline.scenes.scene import Backdrop, Colour, Fill, Scene, Shape, Texture, Thing

Rgb = tuple[int, int, int]
Points = list[tuple[float, float]]

SUPERSAMPLING = 2
COLOURS: dict[Colour, Rgb] = {
    Colour.RED: (208, 28, 36),
    Colour.ORANGE: (246, 134, 20),
    Colour.YELLOW: (248, 222, 40),
    Colour.GREEN: (34, 150, 60),
    Colour.BLUE: (30, 84, 214),
    Colour.PURPLE: (138, 48, 172),
    Colour.BLACK: (16, 16, 18),
    Colour.WHITE: (252, 252, 252),
}
BACKDROPS: dict[Backdrop, Rgb] = {
    Backdrop.WHITE: (244, 244, 242),
    Backdrop.GREY: (150, 152, 156),
    Backdrop.BEIGE: (222, 200, 164),
    Backdrop.DARK: (52, 56, 70),
}
SHADE_SPREAD = 10  # grey levels by which a colour varies from thing to thing
GRAIN_SIDE = 512  # pixels of the tile that noise is cut from


def render(scene: Scene) -> Image.Image:
    """Draw a scene: an RGB picture of scene.width x scene.height pixels, without noise or compression."""
    rng = random.Random(scene.seed)
    size = (scene.width * SUPERSAMPLING, scene.height * SUPERSAMPLING)
    image = _backdrop(scene, size, rng)
    draw = ImageDraw.Draw(image)
    for thing in scene.things:
        _draw_thing(image, draw, thing, rng)
    return image.reduce(SUPERSAMPLING)


def render_jpeg(scene: Scene) -> bytes:
    """The scene as a JPEG file with its noise, at its quality; low qualities with halved colour resolution."""
    image = render(scene)
    if scene.noise:
        image = _add_noise(image, scene)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=scene.jpeg_quality, subsampling=0 if scene.jpeg_quality >= 85 else 2)
    return buffer.getvalue()


def pixels(jpeg: bytes, size: int) -> npt.NDArray[np.uint8]:
    """JPEG bytes as a model sees them: uint8 (size, size, 3), bicubic with antialias, aspect ratio not kept."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


def _shade(colour: Rgb, rng: random.Random, spread: int = SHADE_SPREAD) -> Rgb:
    return _clip([level + rng.randint(-spread, spread) for level in colour])


def _mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """`share` of the second colour in the first."""
    return _clip([round(a + (b - a) * share) for a, b in zip(first, second, strict=True)])


def _clip(levels: Sequence[int]) -> Rgb:
    red, green, blue = (min(max(level, 0), 255) for level in levels)
    return red, green, blue


def _backdrop(scene: Scene, size: tuple[int, int], rng: random.Random) -> Image.Image:
    """The empty scene; patterns differ from the base by a tenth of the way to black or white."""
    base = _shade(BACKDROPS[scene.backdrop], rng, spread=5)
    other = _mix(base, (255, 255, 255) if scene.backdrop is Backdrop.DARK else (0, 0, 0), 0.1)
    width, height = size
    if scene.texture is Texture.GRADIENT:
        ramp = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize(size)
        return Image.composite(Image.new("RGB", size, other), Image.new("RGB", size, base), ramp)
    image = Image.new("RGB", size, base)
    draw = ImageDraw.Draw(image)
    step = rng.randint(24, 44)
    if scene.texture is Texture.LINED:
        for offset in range(-height, width, step):
            draw.line((offset, 0, offset + height, height), fill=other, width=5)
    elif scene.texture is Texture.DOTTED:
        for x in range(step // 2, width, step):
            for y in range(step // 2, height, step):
                draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=other)
    return image


def _draw_thing(image: Image.Image, draw: ImageDraw.ImageDraw, thing: Thing, rng: random.Random) -> None:
    """Fill the thing's outline with its colour, and with stripes or spots of a lighter or darker tone of it."""
    centre = (thing.x * image.width, thing.y * image.height)
    radius = thing.radius * min(image.size)
    colour = _shade(COLOURS[thing.kind.colour], rng)
    outline = [(centre[0] + x * radius, centre[1] + y * radius) for x, y in _turned(thing)]
    if thing.kind.fill is Fill.SOLID:
        draw.polygon(outline, fill=colour)
        return
    light = (255, 255, 255) if thing.kind.colour not in (Colour.WHITE, Colour.YELLOW) else (70, 70, 70)
    pattern = Image.new("RGB", image.size, colour)
    brush = ImageDraw.Draw(pattern)
    tone, step = _mix(colour, light, 0.55), radius / 2.2
    marks = range(-3, 4)
    for row in marks:
        y = centre[1] + row * step
        if thing.kind.fill is Fill.STRIPED:
            brush.rectangle((centre[0] - radius * 1.2, y - step * 0.2, centre[0] + radius * 1.2, y + step * 0.2), fill=tone)
            continue
        for column in marks:
            x = centre[0] + (column + 0.5 * (row % 2)) * step
            brush.ellipse((x - step * 0.24, y - step * 0.24, x + step * 0.24, y + step * 0.24), fill=tone)
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    image.paste(pattern, mask=mask)


def _turned(thing: Thing) -> Points:
    """The unit outline of the thing's shape, turned by its tilt."""
    cos, sin = math.cos(math.radians(thing.tilt)), math.sin(math.radians(thing.tilt))
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in _outline(thing.kind.shape)]


def _around(n: int, radii: Sequence[float]) -> Points:
    """n points around the origin from the top on, at the radii in turn."""
    angles = [2 * math.pi * i / n - math.pi / 2 for i in range(n)]
    return [(radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(angles)]


@cache
def _outline(shape: Shape) -> Points:
    """A closed outline within the unit circle, y downwards."""
    if shape is Shape.CIRCLE:
        return _around(48, (0.95,))
    if shape is Shape.SQUARE:
        return [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]
    if shape is Shape.TRIANGLE:
        return [(0.0, -1.0), (0.95, 0.8), (-0.95, 0.8)]
    if shape is Shape.STAR:
        return _around(10, (1.0, 0.42))
    if shape is Shape.CROSS:
        arm, reach = 0.3, 0.95
        quarter = [(arm, -reach), (arm, -arm), (reach, -arm)]
        return [point for turn in range(4) for point in [_quarter_turn(x, y, turn) for x, y in quarter]]
    angles = [2 * math.pi * i / 48 for i in range(48)]  # the usual heart curve, scaled into the circle
    return [
        (
            16 * math.sin(t) ** 3 / 17,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16 - 0.12,
        )
        for t in angles
    ]


def _quarter_turn(x: float, y: float, turns: int) -> tuple[float, float]:
    for _ in range(turns):
        x, y = -y, x
    return x, y


@cache
def _grain() -> npt.NDArray[np.int16]:
    """A fixed tile of noise, int16 (GRAIN_SIDE, GRAIN_SIDE, 3), standard deviation 16."""
    noise = np.random.default_rng(0).normal(0, 16, (GRAIN_SIDE, GRAIN_SIDE, 3))
    return noise.round().astype(np.int16)


def _add_noise(image: Image.Image, scene: Scene) -> Image.Image:
    """The picture plus a cut-out of the grain, scaled to the scene's noise."""
    left, top = scene.seed % (GRAIN_SIDE - image.width), scene.seed // 1024 % (GRAIN_SIDE - image.height)
    grain = _grain()[top : top + image.height, left : left + image.width] * round(scene.noise) // 16
    levels = np.asarray(image, dtype=np.int16) + grain
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))
