"""Processes that ask for a checkpoint at the same moment, as the replicas of a machine do when they start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

LOCATE = """
import sys
if "://" in sys.argv[1]:  # imports before the signal: all are to ask at once
    import aiohttp, fsspec.implementations.http
else:
    from huggingface_hub import HfApi, hf_hub_download
from pipeline.errors import CheckpointError
from pipeline.model.source import checkpoint_sha256, locate
print("ready", flush=True)
sys.stdin.readline()
try:
    files = locate(sys.argv[1])
except CheckpointError as error:
    print("refused:", error)
else:
    print(files.weights, checkpoint_sha256(files))
"""


class Answer(NamedTuple):
    """What one process said."""

    code: int
    text: str


class Processes:
    """So many processes that have done their imports and wait for `go`."""

    def __init__(self, count: int, checkpoint: str, environment: Mapping[str, str], program: str = LOCATE) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        self.running = [
            subprocess.Popen(
                [sys.executable, "-c", program, checkpoint],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**clean, **environment},
            )
            for _ in range(count)
        ]
        for process in self.running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def go(self, *numbers: int) -> None:
        """Let them ask; only those with these numbers, if any are given."""
        for number in numbers or range(len(self.running)):
            stdin = self.running[number].stdin
            assert stdin is not None
            stdin.write("\n")
            stdin.flush()

    def answers(self) -> list[Answer]:
        """Wait for all."""
        texts = [process.communicate(timeout=60)[0] for process in self.running]
        return [Answer(process.returncode, text.strip()) for process, text in zip(self.running, texts, strict=True)]
