"""Decoding in a process that may die: an image that crashes, hangs or swallows memory costs its own row and nothing else.

decoder.py      what a fetch task uses: bytes in, pixels out, several images under way, each image's verdict
client.py       the worker's hold on its fork server        fork_server.py  the program that forks decoder processes
child.py        what a decoder process does, and its limits protocol.py     what the three say to each other

Linux only: memfd, PR_SET_PDEATHSIG. Why it is built so is in docs/decisions.md.
"""

from pipeline.isolation.decoder import DECODE, Decoded, Decoder
from pipeline.isolation.in_process import InProcessDecoder

__all__ = ["DECODE", "Decoded", "Decoder", "InProcessDecoder"]
