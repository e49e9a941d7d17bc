"""Runs of `jobs/demo.py`, and the traces that they must not leave."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import NamedTuple

JOBS = Path(__file__).parent.parent / "jobs"
MARK = "CAPSIEVE_TEST_MARK"


def marked_processes(mark: str) -> list[str]:
    """Command lines of the processes that inherited the mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # ended meanwhile, or another user's
            continue
    return found


class Demo:
    """A run of `jobs/demo.py` in a folder of its own, with its output collected in a file."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.mark = uuid.uuid4().hex
        self.log = folder / "log"
        self.temporary = tempfile.TemporaryDirectory(prefix="demo-")  # a short path: sockets have 108 characters
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(JOBS / "demo.py"), *flags],
                cwd=folder,
                env={**os.environ, MARK: self.mark, "AWS_PROFILE": "not-there", "TMPDIR": self.temporary.name},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, text: str) -> None:
        """Until the run has printed this."""
        deadline = time.monotonic() + 120
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def wait(self) -> int:
        """Until it ends; returns its exit code."""
        return self.process.wait(timeout=240)

    def assert_nothing_runs(self) -> None:
        """Some seconds are allowed to Ray's processes, which end when they notice."""
        deadline = time.monotonic() + 30
        while running := marked_processes(self.mark):
            assert time.monotonic() < deadline, running
            time.sleep(0.1)
        self.temporary.cleanup()


class FinishedDemo(NamedTuple):
    """A demo that ended."""

    folder: Path  # holds demo-output
    log: str
    checkpoint: str  # that scored
