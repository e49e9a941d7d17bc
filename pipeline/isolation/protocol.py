"""What worker, fork server and decoder process say to each other: few bytes over sockets; images and pixels lie in memfds.

Nothing that a decoder process sends is trusted: structs of fixed size and a reason of the closed list, no pickles.
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

from pipeline.config import ImagesConfig

MESSAGE_BYTES = 4096  # none is longer
# A hang may use no CPU time at all. The wall clock must not punish a loaded machine, so that it allows so many times more.
WALL_FACTOR = 10

_REQUEST = struct.Struct("<IQ")
_REPLY = struct.Struct("<Iiid")


class Request(NamedTuple):
    """Worker to decoder process: decode the image in a slot's memfd."""

    slot: int
    length: int  # bytes

    def pack(self) -> bytes:
        """For the wire."""
        return _REQUEST.pack(*self)

    @classmethod
    def unpack(cls, message: bytes) -> Request:
        """From the wire."""
        return cls(*_REQUEST.unpack(message))


class Reply(NamedTuple):
    """Decoder process to worker: the slot's pixels are there, or the reason why not. One for each request, in their order."""

    slot: int
    width: int
    height: int
    seconds: float  # of decoding
    reason: str = ""  # of schema.Reason; empty: decoded

    def pack(self) -> bytes:
        """For the wire."""
        return _REPLY.pack(*self[:4]) + self.reason.encode()

    @classmethod
    def unpack(cls, message: bytes) -> Reply:
        """From the wire; raises struct.error or UnicodeDecodeError for what no decoder process of ours sends."""
        slot, width, height, seconds = _REPLY.unpack(message[: _REPLY.size])
        return cls(slot, width, height, seconds, message[_REPLY.size :].decode())


class ForkOrder(NamedTuple):
    """Worker to fork server, with the child's end of a socket, the memfd of all pixels and a memfd for each slot's bytes."""

    size: int  # pixels a side
    slots: int
    images: ImagesConfig

    def pack(self) -> bytes:
        """For the wire."""
        return json.dumps({"size": self.size, "slots": self.slots, "images": self.images.model_dump()}).encode()

    @classmethod
    def of(cls, order: dict[str, Any]) -> ForkOrder:
        """From the wire's JSON."""
        return cls(order["size"], order["slots"], ImagesConfig(**order["images"]))
