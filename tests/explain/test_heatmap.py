"""Pictures of heat maps: where the heat is, in which colours."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pipeline.explain.heatmap import beside, colours, enlarge, overlay, png, shrink

GREY = np.full((96, 96, 3), 128, np.uint8)


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L*, 0 to 100, of sRGB."""
    linear = np.where(rgb / 255 <= 0.04045, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


def test_colours_are_viridis_and_evenly_light() -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32)
    found = colours(values)
    wanted = matplotlib.colormaps["viridis"](values)[:, :3] * 255
    assert np.abs(found - wanted).max() <= 7
    light = lightness(found)
    assert (np.diff(light[::8]) > 0).all()
    assert light == pytest.approx(np.linspace(light[0], light[-1], 256), abs=3)


def test_the_heat_is_where_the_map_has_it() -> None:
    heat = np.zeros((6, 6), np.float32)
    heat[1, 4] = 0.3
    large = enlarge(heat, 96, 0.3)
    assert np.unravel_index(large.argmax(), large.shape) == (pytest.approx(1.5 * 16, abs=1), pytest.approx(4.5 * 16, abs=1))
    assert large[60:].max() == 0
    picture = overlay(GREY, heat)
    assert (picture[24, 72] == (0.6 * np.array([253, 231, 37]) + 0.4 * 128).round()).all() or large[24, 72] < 1
    assert (picture[80, 10] == (0.6 * np.array([68, 1, 84]) + 0.4 * 128).round()).all()


def test_a_weak_map_is_pale_beside_a_strong_one() -> None:
    heat = np.zeros((6, 6), np.float32)
    heat[1, 4] = 0.3
    weak, strong = overlay(GREY, heat, top=3.0), overlay(GREY, heat)
    assert lightness(weak[24, 72]) < lightness(strong[24, 72]) - 10


@given(arrays(np.float32, (7, 7), elements=st.floats(0, 1e6, width=32)), st.integers(7, 64))
def test_any_map_becomes_a_picture(heat: np.ndarray, side: int) -> None:
    large = enlarge(heat, side, float(heat.max()))
    assert np.isfinite(large).all()
    assert large.min() >= 0
    assert large.max() <= 1
    assert overlay(GREY[:side, :side], heat).shape == (side, side, 3)


def test_a_map_of_zeros_is_the_lowest_colour_everywhere() -> None:
    assert len(np.unique(overlay(GREY, np.zeros((6, 6), np.float32)).reshape(-1, 3), axis=0)) == 1


def test_png_and_sides() -> None:
    picture = beside(GREY, shrink(np.zeros((96, 96, 3), np.uint8), 200))
    with Image.open(io.BytesIO(png(picture))) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), picture)
    assert shrink(GREY, 20).shape == (20, 20, 3)
