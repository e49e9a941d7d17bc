"""Files of this machine: written whole or not at all, and listed without leaving out what may not be read.

Raises plain OSErrors; knows nothing of URLs or of other stores. `storage` is what the rest of the package uses.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TEMP_SUFFIX = ".part-write"  # of files being written; never listed


def write(path: Path, data: bytes) -> None:
    """Write under a temporary name, to the disk, then rename; folders are made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # not derived from the final name, which may use up the 255 bytes of a name
    temporary = path.with_name(f".{secrets.token_hex(8)}{TEMP_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name itself must survive a power cut as well
    finally:
        os.close(folder)


def version_of(data: bytes) -> str:
    """What tells one version of a file from another: a hash of what is in it."""
    return hashlib.sha256(data).hexdigest()


def swap(path: Path, data: bytes, version: str | None) -> bool:
    """Write if the file still is of that version (None: if there is none); False if it is of another, and not this one.

    The folder is locked meanwhile, by a lock that ends with the process. Where the file system has no locks (some network
    disks), two that write within the same moment may both succeed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        try:
            found = version_of(path.read_bytes())
        except FileNotFoundError:
            found = None
        if found == version_of(data):
            return True
        if found != version:
            return False
        write(path, data)
        return True
    finally:
        os.close(folder)


def walk(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All files below a folder, with their facts; of a file, itself; none below what is not there.

    Leaves out what is being written, and what vanishes meanwhile; unlike fsspec's, not what may not be read.
    """

    def complain(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    if path.is_file():
        files = iter([path])
    else:
        folders = os.walk(path, onerror=complain, followlinks=True)
        files = (Path(folder, name) for folder, _, names in folders for name in names)
    for file in files:
        with suppress(FileNotFoundError):
            if not file.name.endswith(TEMP_SUFFIX):
                yield file, file.stat()
