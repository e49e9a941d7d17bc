"""What a machine keeps of checkpoints that lie elsewhere: each file fetched by one process, and by no other meanwhile.

A folder an entry: the file, beside it `NAME.verified` (its SHA-256, size and time of change), and `lock`. The lock ends with
the process that holds it, however that ends, and another takes over. A file gets its name once its bytes are checked; what a
dead process left half done is removed by the next. Entries may be deleted at any time: whoever has a file open keeps it.
Knows nothing of where files come from: the caller fills them.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TextIO

from pipeline.errors import CheckpointError
from pipeline.model.files import sha256_of

log = logging.getLogger(__name__)

LOCK_INTERVAL_S = 0.1
LOCK_LIMIT_S = 1800.0  # a gigabyte at 5 Mbit/s; whoever holds the lock for longer hangs
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # of file systems without them
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Fill = Callable[[Path], object]  # writes the file to the path given


class Entry(NamedTuple):
    """A file to be kept."""

    checkpoint: str  # for messages
    key: str  # the entry's folder: the same key, the same bytes
    name: str  # the file's
    size: int | None = None  # bytes, where they are known beforehand
    sha256: str = ""  # the same


class Kept(NamedTuple):
    """A file that is kept."""

    path: Path
    sha256: str


def cache_folder() -> Path:
    """Where checkpoints are kept: `capsieve/checkpoints` in the user's cache folder (XDG_CACHE_HOME)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "capsieve" / "checkpoints"


def keep(entry: Entry, fill: Fill, *, reread: bool, reuse: bool = True) -> Kept:
    """The entry's file, filled first if it is not there, or not as it was when it was verified.

    reread: read all of a kept file and compare; else its size and time of change must do. reuse: False fills it in any
    case. Raises CheckpointError where the folder takes no files, or what was filled in is not what the entry says; errors of
    `fill` pass through.
    """
    path = cache_folder() / entry.key / entry.name
    kept = _intact(path, entry, reread) if reuse else None
    if kept is None:
        with locked(entry.checkpoint, entry.key):
            kept = (_intact(path, entry, reread) if reuse else None) or _fetched(path, entry, fill)
    return kept


def _intact(path: Path, entry: Entry, reread: bool) -> Kept | None:
    try:
        sha256, size, changed = _record(path).read_text().split()
        found = path.stat()
        as_verified = (found.st_size, found.st_mtime_ns) == (int(size), int(changed)) and entry.sha256 in {"", sha256}
        if as_verified and (not reread or sha256_of(path) == sha256):
            return Kept(path, sha256)
    except (OSError, ValueError):
        return None
    log.warning("%s has changed since it was verified: fetching it anew", path)
    return None


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified")


def _fetched(path: Path, entry: Entry, fill: Fill) -> Kept:
    for stale in path.parent.glob("*.part"):  # of a process that died: nobody else writes here
        stale.unlink(missing_ok=True)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with _local_errors(entry.checkpoint):
            partial.touch()
            if entry.size is not None and shutil.disk_usage(path.parent).free < entry.size:
                raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for {entry.size:,} bytes")
        with _local_errors(entry.checkpoint, NO_SPACE):
            fill(partial)
        sha256 = _checked(partial, entry)
        with _local_errors(entry.checkpoint):
            partial.replace(path)
            found = path.stat()
            record = _record(path)
            partial.write_text(f"{sha256} {found.st_size} {found.st_mtime_ns}\n")
            partial.replace(record)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return Kept(path, sha256)


def _checked(partial: Path, entry: Entry) -> str:
    size, sha256 = partial.stat().st_size, sha256_of(partial)
    if entry.size not in {None, size}:
        raise CheckpointError(f"checkpoint {entry.checkpoint!r}: {size:,} of the {entry.size:,} bytes of {entry.name} arrived")
    if entry.sha256 not in {"", sha256}:
        raise CheckpointError(
            f"checkpoint {entry.checkpoint!r}: {entry.name} has the sha256 {sha256} instead of {entry.sha256}: it has changed, "
            "or was damaged on its way"
        )
    return sha256


@contextmanager
def locked(checkpoint: str, key: str) -> Iterator[None]:
    """Be the only process of this machine that fetches the entry. CheckpointError if another one does so for too long."""
    with _local_errors(checkpoint):
        folder = cache_folder() / key
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+")
    with file:
        _acquire(file, checkpoint)
        with _local_errors(checkpoint):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


def _acquire(file: TextIO, checkpoint: str) -> None:
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() - began > LOCK_LIMIT_S:
                file.seek(0)
                raise CheckpointError(
                    f"checkpoint {checkpoint!r}: {file.read() or 'another process'} has been fetching it for "
                    f"{LOCK_LIMIT_S / 60:.0f} minutes: end it ({file.name})"
                ) from None
            time.sleep(LOCK_INTERVAL_S)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            log.warning("%s: no locks here, several processes may fetch the same file", file.name)
            return
        else:
            return


@contextmanager
def _local_errors(checkpoint: str, codes: set[int] | None = None) -> Iterator[None]:
    """Errors of this machine's disk (of `codes` alone: others are the store's) become a CheckpointError."""
    try:
        yield
    except OSError as error:
        if codes is not None and error.errno not in codes:
            raise
        raise CheckpointError(
            f"checkpoint {checkpoint!r} cannot be kept in {cache_folder()}: {error.strerror or error}; "
            "XDG_CACHE_HOME names another folder"
        ) from error
