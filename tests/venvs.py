"""A Python that has this project's dependencies and not this project, as a cluster has it, or a user before `pip install`."""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path


def bare_venv(folder: Path) -> Path:
    """Path of its interpreter. Takes a tenth of a second: the packages are links to those of the environment that runs."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (packages,) = (folder / "lib").glob("python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "capsieve" not in entry.name and entry.name != "pipeline":  # pip would install through a link to our own folder
            (packages / entry.name).symlink_to(entry)
    return python
