"""A checkpoint as a run began with it: what replicas get in the place of a name, whatever the name means by then.

The driver finds the files and reads their SHA-256 once. A replica takes each from where the driver has it (the same machine, a
shared disk), or out of its own machine's cache, or fetches it into there, one process a machine: from the object store that it
came from, else from the driver. Nobody but the driver asks a hub or a web server. Needs no torch, and knows nothing of Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import StorageConfig
from pipeline.errors import CheckpointError
from pipeline.model.cache import Entry, keep
from pipeline.model.files import WEIGHTS_SUFFIXES, CheckpointFiles, clear_errors, sha256_of
from pipeline.storage import open_filesystem

Pieces = Callable[[], Iterable[Any]]  # a file's bytes, in buffers one behind the other


class PinnedFile(NamedTuple):
    """One file, and where it can be had."""

    path: str  # on the driver's machine
    size: int  # bytes
    changed: int  # time of change, nanoseconds
    sha256: str
    url: str | None  # in an object store, which every machine can read


class Pin(NamedTuple):
    """A checkpoint of which every byte is known."""

    name: str  # for messages
    weights: PinnedFile
    config: PinnedFile | None
    vocab: PinnedFile | None

    def files(self) -> list[PinnedFile]:
        """Those that there are."""
        return [file for file in self[1:] if file is not None]


def pin(files: CheckpointFiles) -> Pin:
    """Pin what was found. Raises CheckpointError if a file cannot be read, or changes meanwhile."""
    with clear_errors(files.name):
        return Pin(
            files.name,
            _pinned(files, files.weights, files.sha256),
            None if files.config is None else _pinned(files, files.config),
            None if files.vocab is None else _pinned(files, files.vocab),
        )


def _pinned(files: CheckpointFiles, path: Path, sha256: str = "") -> PinnedFile:
    before = path.stat()
    sha256 = sha256 or sha256_of(path)
    url = files.url
    if url is not None and not url.endswith(WEIGHTS_SUFFIXES):
        url = f"{url}/{path.name}"
    pinned = PinnedFile(str(path.absolute()), before.st_size, before.st_mtime_ns, sha256, url)
    if not _is_here(pinned):
        raise CheckpointError(f"checkpoint {files.name!r} is being written: start again when it is complete")
    return pinned


def _is_here(file: PinnedFile) -> bool:
    """Whether this machine has the very file that the driver read. Size and time to the nanosecond: no replica reads it all."""
    try:
        found = Path(file.path).stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (file.size, file.changed)


def here(pinned: Pin, storage: StorageConfig, shared: Mapping[str, Pieces]) -> CheckpointFiles:
    """The pinned files on this machine, fetched if need be.

    shared: what the driver hands out, by SHA-256. Raises CheckpointError if a file cannot be had, or has other bytes by now.
    """
    weights, config, vocab = (None if file is None else _one_here(pinned.name, file, storage, shared) for file in pinned[1:])
    assert weights is not None
    return CheckpointFiles(pinned.name, weights, config, vocab, sha256=pinned.weights.sha256)


def _one_here(name: str, file: PinnedFile, storage: StorageConfig, shared: Mapping[str, Pieces]) -> Path:
    if _is_here(file):
        return Path(file.path)
    if file.url is None and file.sha256 not in shared:
        raise CheckpointError(f"checkpoint {name!r}: {file.path} is not as it was when the run began")

    def fill(partial: Path) -> None:
        if file.url is not None:
            fs, path = open_filesystem(file.url, storage)
            fs.get_file(path, str(partial))
            return
        with partial.open("wb") as out:
            for piece in shared[file.sha256]():
                out.write(piece)

    with clear_errors(name):
        return keep(Entry(name, file.sha256, Path(file.path).name, file.size, file.sha256), fill, reread=False).path
