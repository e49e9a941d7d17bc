"""A hostile web server for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fetch.hostile import HostileServer


@pytest.fixture
def server() -> Iterator[HostileServer]:
    """A hostile server with counters of its own."""
    with HostileServer() as running:
        yield running
