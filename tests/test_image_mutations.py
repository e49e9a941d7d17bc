"""Any bytes, and mutated files of every format, give pixels or a reason."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import ImagesConfig
from pipeline.errors import DecodeError
from pipeline.images import decode
from pipeline.schema import Reason
from tests.pictures import AVIF, BMP, CMYK_JPEG, JPEG, PNG, TIFF, WEBP, palette, picture, saved, two_frames

SEEDS = {
    "jpeg": JPEG,
    "progressive jpeg": saved(picture(), "JPEG", progressive=True),
    "cmyk jpeg": CMYK_JPEG,
    "png": PNG,
    "palette png": saved(palette(True), "PNG", transparency=1),
    "animated gif": saved(two_frames()[0], "GIF", save_all=True, append_images=two_frames()[1:]),
    "webp": WEBP,
    "animated webp": saved(two_frames()[0], "WEBP", save_all=True, append_images=two_frames()[1:]),
    "avif": AVIF,
    "bmp": BMP,
    "tiff": TIFF,
    "tiff lzw": saved(picture(), "TIFF", compression="tiff_lzw"),
    "tiff jpeg": saved(picture(), "TIFF", compression="jpeg"),
    "tiff group 4": saved(picture().convert("1"), "TIFF", compression="group4"),
}
Edit = tuple[str, float, bytes]
edits = st.tuples(st.sampled_from(["replace", "insert", "delete", "cut"]), st.floats(0, 1), st.binary(min_size=1, max_size=8))


def mutated(data: bytes, changes: list[Edit]) -> bytes:
    """`data` with some bytes changed; positions are shares of the length, most of them near the front, where headers are."""
    for action, where, piece in changes:
        at = int(where**3 * len(data))
        if action == "replace":
            data = data[:at] + piece + data[at + len(piece) :]
        elif action == "insert":
            data = data[:at] + piece + data[at:]
        elif action == "delete":
            data = data[:at] + data[at + len(piece) :]
        else:
            data = data[: len(data) - at]
    return data


ALLOWED = {(16, 16, 3), *Reason}


def shape_or_reason(data: bytes, config: ImagesConfig) -> tuple[int, ...] | str:
    try:
        return decode(data, 16, config).shape
    except DecodeError as error:
        return error.reason


# Pillow warns of odd metadata, which does not matter here.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")
@pytest.mark.parametrize("name", SEEDS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(changes=st.lists(edits, min_size=1, max_size=6), lenient=st.booleans())
def test_mutated_files_give_pixels_or_a_reason(name: str, changes: list[Edit], lenient: bool) -> None:
    config = ImagesConfig(allow_truncated=lenient, max_pixels=1_000_000)
    assert shape_or_reason(mutated(SEEDS[name], changes), config) in ALLOWED


@given(st.binary(max_size=200), st.sampled_from([b"", *(seed[:12] for seed in SEEDS.values())]))
def test_any_bytes_give_pixels_or_a_reason(data: bytes, magic: bytes) -> None:
    assert shape_or_reason(magic + data, ImagesConfig()) in ALLOWED
