"""The files of a checkpoint: what they are called, what they are by their first bytes, and what goes wrong with them.

Knows nothing of where they come from. Needs no torch. Every failure is a CheckpointError of one line that names the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.errors import CheckpointError

WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")  # in order of preference: the first runs no pickle
SPLIT_NAME = "model.safetensors.index.json"  # beside weights in several files
CONFIG_NAME = "config.json"
VOCAB_NAME = "vocab.txt"
WEIGHTS_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit


class CheckpointFiles(NamedTuple):
    """A checkpoint on this machine."""

    name: str  # for messages
    weights: Path
    config: Path | None
    vocab: Path | None
    url: str | None = None  # of the file or the folder in an object store, if it came from one
    sha256: str = ""  # of the weights, where finding them took reading them


def in_folder(name: str, folder: Path) -> CheckpointFiles:
    """The files of a local folder. CheckpointError if it holds no weights."""
    found = weights_among(name, [str(path) for path in folder.iterdir()])
    return CheckpointFiles(name, Path(found), existing(folder, CONFIG_NAME), existing(folder, VOCAB_NAME))


def existing(folder: Path | None, name: str) -> Path | None:
    """The file of that name, if there is one."""
    return folder / name if folder is not None and (folder / name).is_file() else None


def weights_among(name: str, paths: Iterable[str]) -> str:
    """The path of the preferred weights file. CheckpointError if none of them is one."""
    by_name = {path.rstrip("/").rsplit("/", 1)[-1]: path for path in paths}
    found = next((by_name[weights] for weights in WEIGHTS_NAMES if weights in by_name), None)
    if found is None and SPLIT_NAME in by_name:
        raise CheckpointError(f"checkpoint {name!r} is split into several files, which is not supported: save it as one")
    if found is None:
        raise CheckpointError(f"checkpoint {name!r} is a folder without {' or '.join(WEIGHTS_NAMES)}")
    return found


def sniff(path: Path) -> Literal["safetensors", "pickle"]:
    """What a weights file is, by its first and last bytes. CheckpointError if it is empty, cut off or something else."""
    with clear_errors(str(path)), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(8)
        if size == 0:
            raise CheckpointError(f"checkpoint {str(path)!r} is empty")
        if head.startswith(b"PK\x03\x04"):
            if not zipfile.is_zipfile(path):
                raise CheckpointError(f"checkpoint {str(path)!r} is cut off: its end is missing")
            return "pickle"
        if head.startswith(b"\x80"):
            return "pickle"
        header_bytes = int.from_bytes(head, "little")
        header = _json_object(file.read(header_bytes)) if 2 <= header_bytes <= min(size - 8, MAX_HEADER_BYTES) else None
    if header is None:
        raise CheckpointError(f"{str(path)!r} is not a checkpoint: neither a PyTorch file nor safetensors")
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__" and _has_offsets(entry)]
    if size < 8 + header_bytes + max(ends, default=0):
        raise CheckpointError(f"checkpoint {str(path)!r} is cut off: its end is missing")
    return "safetensors"


def _json_object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _has_offsets(entry: object) -> bool:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    return isinstance(offsets, list) and len(offsets) == 2 and all(isinstance(offset, int) for offset in offsets)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal. 0.9 s of a core for 900 MB that are in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_query(url: str) -> str:
    """A URL as it may be shown: query strings carry signatures."""
    return url.split("?", 1)[0].split("#", 1)[0]


def first_line(error: BaseException) -> str:
    """What a library's error says, on one line."""
    return next(iter(str(error).strip().splitlines()), "")


@contextmanager
def clear_errors(name: str) -> Iterator[None]:
    """Whatever a storage library raises becomes a CheckpointError about `name`."""
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {name!r} not found") from None
    except Exception as error:  # every store's client has exceptions of its own
        what = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(f"checkpoint {name!r} cannot be read: {what}"[:500]) from error
