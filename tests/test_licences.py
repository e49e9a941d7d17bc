"""Whether everything that is pinned may be used, and whether docs/licences.md says so."""

from __future__ import annotations

from email.message import Message
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from tests import licences
from tests.licences import NVIDIA, Licence, expression


class Named(Distribution):
    """A package of which there is nothing but metadata."""

    def __init__(self, **fields: str) -> None:
        self.message = Message()
        for name, value in {"Name": "some-package", **fields}.items():
            self.message[name.replace("_", "-")] = value

    def read_text(self, filename: str) -> str | None:
        return self.message.as_string() if filename == "METADATA" else None

    def locate_file(self, path: object) -> Path:  # type: ignore[override]
        raise FileNotFoundError(path)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License_Expression": "MIT OR GPL-3.0-only"}, "MIT OR GPL-3.0-only"),
        ({"Classifier": "License :: OSI Approved :: BSD License", "License": "BSD-3-Clause"}, "BSD-3-Clause"),
        ({"Classifier": "License :: OSI Approved :: BSD License"}, "BSD"),
        ({"License": "MPL-2.0 AND MIT"}, "MPL-2.0 AND MIT"),
        ({"License": "Apache License, Version 2.0"}, "Apache-2.0"),
    ],
)
def test_what_a_package_says_of_itself_is_read(fields: dict[str, str], expected: str) -> None:
    assert expression(Named(**fields)) == expected


@pytest.mark.parametrize("fields", [{}, {"License": "GNU GPL"}, {"Classifier": "License :: Other/Proprietary License"}])
def test_a_package_whose_licence_is_not_known_is_named(fields: dict[str, str]) -> None:
    with pytest.raises(LookupError, match="some-package"):
        expression(Named(**fields))


@pytest.mark.parametrize(
    ("name", "expression", "allowed"),
    [
        ("one", "MIT AND BSD-3-Clause", True),
        ("one", "GPL-3.0-only OR MIT", True),
        ("one", "GPL-3.0-only AND MIT", False),
        ("nvidia-cublas", NVIDIA, True),
        ("one", NVIDIA, False),
    ],
)
def test_what_is_allowed(name: str, expression: str, allowed: bool) -> None:
    assert Licence(name, "1", expression, "capsieve").allowed is allowed


def test_all_that_is_pinned_may_be_used_and_the_page_says_how() -> None:
    assert [one for one in licences.licences() if not one.allowed] == []
    assert (licences.ROOT / "docs" / "licences.md").read_text() == licences.page(), "make licences"
