"""What `Decoder` does, in the caller's own process: for machines without Linux, and to measure what isolation costs.

An image that crashes or hangs takes the caller with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from pipeline.config import ImagesConfig
from pipeline.errors import DecodeError
from pipeline.isolation.decoder import Decoded

T = TypeVar("T")


class InProcessDecoder(Generic[T]):
    """Decodes at once; results are those of `Decoder`."""

    def __init__(self, size: int, config: ImagesConfig) -> None:
        self._size = size
        self._config = config

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        pass

    def submit(self, token: T, data: bytes) -> Iterator[Decoded[T]]:
        """Decode an image; yields its result."""
        from pipeline.images import decode_image  # brings torch, which a driver must not pay for

        began = time.perf_counter()
        try:
            pixels, width, height = decode_image(data, self._size, self._config)
        except DecodeError as error:
            yield Decoded(token, None, 0, 0, error, time.perf_counter() - began)
        else:
            yield Decoded(token, pixels, width, height, None, time.perf_counter() - began)

    def drain(self) -> Iterator[Decoded[T]]:
        """Nothing is ever under way."""
        yield from ()
