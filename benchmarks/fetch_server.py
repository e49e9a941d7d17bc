"""The web server of benchmarks/fetch.py: prebuilt answers over raw asyncio, on as many loopback addresses as there are hosts.

    python benchmarks/fetch_server.py FOLDER PORT DELAY_MS good:FIRST-LAST hang:FIRST-LAST

Hosts are numbers; see `address`. A `hang` host accepts and never answers; numbers that nobody serves refuse connections. GET
/NUMBER/anything answers with that file of the folder, DELAY_MS after the request. Prints `ready` on stdout. Knows no more HTTP
than that.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"


def address(host: int) -> str:
    """A loopback address of its own for each number from 0 to 9,999."""
    return f"127.0.{1 + host // 100}.{1 + host % 100}"


class Good(asyncio.Protocol):
    """Answers one request after the other."""

    def __init__(self, answers: list[bytes], delay_s: float) -> None:
        self.answers = answers
        self.delay_s = delay_s
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        number = int(data.split(b"/", 2)[1])
        answer = self.answers[number % len(self.answers)]
        assert isinstance(self.transport, asyncio.Transport)
        if self.delay_s:
            self.loop.call_later(self.delay_s, self.transport.write, answer)
        else:
            self.transport.write(answer)


async def serve(folder: str, port: int, delay_s: float, hosts: list[str]) -> None:
    """Serve for ever."""
    bodies = [path.read_bytes() for path in sorted(Path(folder).glob("*.jpg"))]
    answers = [HEAD % len(body) + body for body in bodies]
    loop = asyncio.get_running_loop()
    for part in hosts:
        kind, _, numbers = part.partition(":")
        first, last = map(int, numbers.split("-"))
        addresses = [address(number) for number in range(first, last + 1)]
        make = asyncio.Protocol if kind == "hang" else lambda: Good(answers, delay_s)
        await loop.create_server(make, addresses, port, backlog=4096)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / 1000, sys.argv[4:]))
