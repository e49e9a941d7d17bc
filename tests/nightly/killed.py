"""jobs/nightly.py that kills itself where it is about to give a file its name.

    python -m tests.nightly.killed NAME ARGUMENTS...

NAME is part of that file's path: local files are written beside their place and moved there, and the move is where a kill
leaves most behind. Its scorer is that of the chaos runs, 0.2 s a block. An empty NAME kills nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "jobs"))

import nightly

from tests.chaos.scorer import maker


def watch(name: str) -> None:
    """Kill this process as soon as a file is about to be moved to a path with this name in it."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename" and name in str(arguments[1]):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    if sys.argv[1]:
        watch(sys.argv[1])
    sys.exit(nightly.main(sys.argv[2:], maker(os.devnull, 0.2)))
