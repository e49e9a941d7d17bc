"""Where a checkpoint lies: a name given by the user becomes files on this machine.

Owns what names mean (file, folder, URL, Hugging Face hub id, nothing for the embedded model), downloads and their cache, cheap
checks and the checksum for provenance. Reads no tensor and needs no torch, so a driver can use it before any model is loaded.
Every failure is a CheckpointError of one line that names the checkpoint, without the query string of its URL.

    ""                                  the embedded model, a folder of this package
    PATH.pth | .pt | .bin | .safetensors  one file
    FOLDER, s3://... | gs://... folder  model.safetensors or pytorch_model.bin, with config.json and vocab.txt beside it
    http(s)://... | s3://... | gs://... one file
    ORG/NAME or ORG/NAME@REVISION       a Hugging Face hub repository, where no local path has that name
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pipeline.errors import CheckpointError

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

EMBEDDED_FOLDER = Path(__file__).with_name("demo")
WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")  # in order of preference: the first runs no pickle
CONFIG_NAME = "config.json"
VOCAB_NAME = "vocab.txt"
WEIGHTS_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit
HUB_TIMEOUT_S = 10.0  # of asking whether a repository exists
VERSION_KEYS = ("ETag", "etag", "Last-Modified", "LastModified", "last_modified", "mtime", "generation")  # of an fsspec `info`

Options = Mapping[str, Any]


class CheckpointFiles(NamedTuple):
    """A checkpoint on this machine."""

    name: str  # for messages
    weights: Path
    config: Path | None
    vocab: Path | None


def locate(checkpoint: str | Path, storage_options: Options | None = None) -> CheckpointFiles:
    """The files of a checkpoint, downloaded into the cache if they are elsewhere.

    `storage_options` go to fsspec for URLs. Raises CheckpointError if there is no such checkpoint or it cannot be fetched.
    """
    text = str(checkpoint)
    if "://" in text:
        return _download(text, storage_options or {})
    path = Path(text).expanduser() if text else EMBEDDED_FOLDER
    if path.is_dir():
        return _in_folder(text or "the embedded model", path)
    if path.is_file():
        beside = path.parent if path.name in WEIGHTS_NAMES else None
        return CheckpointFiles(text, path, _existing(beside, CONFIG_NAME), _existing(beside, VOCAB_NAME))
    hub = _hub_id(text)
    if hub is None:
        raise CheckpointError(
            f"checkpoint {text!r} not found" if text else "this installation has no embedded model: name a checkpoint"
        )
    return _from_hub(text, hub)


def check_checkpoint(checkpoint: str | Path, storage_options: Options | None = None) -> None:
    """Find out cheaply whether `checkpoint` can be loaded: that it is there and looks like one. Downloads no weights.

    Raises CheckpointError. What only the tensors can tell (missing or misshapen ones, unsafe pickles) shows when it is loaded.
    """
    text = str(checkpoint)
    if "://" in text:
        name = _without_query(text)
        with _clear_errors(name):
            fs, path = _open(text, storage_options or {})
            names = _weights_in(name, fs.ls(path, detail=False)) if _is_folder(fs, path, text) else [path]
            if not names:
                raise CheckpointError(f"checkpoint {name!r} is a folder without {' or '.join(WEIGHTS_NAMES)}")
            fs.info(names[0])
        return
    hub = None if not text or Path(text).expanduser().exists() else _hub_id(text)
    if hub is not None:
        _check_hub(text, hub)
    else:
        sniff(locate(text).weights)


def checkpoint_sha256(checkpoint: str | Path, storage_options: Options | None = None) -> str:
    """SHA-256 (hexadecimal) of the weights file: what identifies a checkpoint in the provenance of its scores."""
    files = locate(checkpoint, storage_options)
    with _clear_errors(files.name), files.weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sniff(path: Path) -> Literal["safetensors", "pickle"]:
    """What a weights file is, by its first and last bytes. CheckpointError if it is empty, cut off or something else."""
    with _clear_errors(str(path)), path.open("rb") as file:
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


def _in_folder(name: str, folder: Path) -> CheckpointFiles:
    found = _weights_in(name, [str(path) for path in folder.iterdir()])
    if not found:
        raise CheckpointError(f"checkpoint {name!r} is a folder without {' or '.join(WEIGHTS_NAMES)}")
    return CheckpointFiles(name, Path(found[0]), _existing(folder, CONFIG_NAME), _existing(folder, VOCAB_NAME))


def _existing(folder: Path | None, name: str) -> Path | None:
    return folder / name if folder is not None and (folder / name).is_file() else None


def _weights_in(name: str, paths: list[str]) -> list[str]:
    by_name = {path.rstrip("/").rsplit("/", 1)[-1]: path for path in paths}
    found = [by_name[weights] for weights in WEIGHTS_NAMES if weights in by_name]
    if not found and "model.safetensors.index.json" in by_name:
        raise CheckpointError(f"checkpoint {name!r} is split into several files, which is not supported: save it as one")
    return found


# --- elsewhere: URLs ---------------------------------------------------------------------------------------------------


def _download(url: str, options: Options) -> CheckpointFiles:
    name = _without_query(url)
    with _clear_errors(name):
        fs, path = _open(url, options)
        if not _is_folder(fs, path, url):
            return CheckpointFiles(name, _cached(fs, path, url), None, None)
        paths = [str(entry) for entry in fs.ls(path, detail=False)]
        weights = _weights_in(name, paths)
        if not weights:
            raise CheckpointError(f"checkpoint {name!r} is a folder without {' or '.join(WEIGHTS_NAMES)}")
        by_name = {
            entry.rsplit("/", 1)[-1]: _cached(fs, entry, entry) for entry in paths if entry.endswith((CONFIG_NAME, VOCAB_NAME))
        }
        return CheckpointFiles(name, _cached(fs, weights[0], weights[0]), by_name.get(CONFIG_NAME), by_name.get(VOCAB_NAME))


def _open(url: str, options: Options) -> tuple[AbstractFileSystem, str]:
    from fsspec.core import url_to_fs

    fs, path = url_to_fs(url, **options)
    return fs, str(path)


def _is_folder(fs: AbstractFileSystem, path: str, url: str) -> bool:
    # web servers have no folders, and asking them costs a download
    return not url.startswith(("http://", "https://")) and not path.endswith(WEIGHTS_SUFFIXES) and bool(fs.isdir(path))


def _cached(fs: AbstractFileSystem, path: str, url: str) -> Path:
    """A local copy of one remote file, kept under its URL and version; fetched anew where the server tells no version."""
    info = fs.info(path)
    version = [f"{key}={info[key]}" for key in VERSION_KEYS if info.get(key)]
    key = hashlib.sha256("\n".join([_without_query(url), str(info.get("size")), *version]).encode()).hexdigest()[:32]
    target = cache_folder() / key / (Path(urlsplit(url).path).name or "checkpoint")
    if version and target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        fs.get_file(path, str(partial))
        partial.replace(target)  # whole or not at all: several replicas of a machine may fetch at the same time
    finally:
        partial.unlink(missing_ok=True)
    return target


def cache_folder() -> Path:
    """Where downloaded checkpoints are kept: `capsieve/checkpoints` in the user's cache folder (XDG_CACHE_HOME)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "capsieve" / "checkpoints"


def _without_query(url: str) -> str:
    return url.split("?", 1)[0].split("#", 1)[0]


# --- elsewhere: the Hugging Face hub -----------------------------------------------------------------------------------


class _HubId(NamedTuple):
    repo_id: str
    revision: str | None


def _hub_id(text: str) -> _HubId | None:
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", text)
    if match is None or text.startswith(".") or match[1].endswith(WEIGHTS_SUFFIXES):
        return None
    return _HubId(match[1], match[2])


def _from_hub(name: str, hub: _HubId, *, local_files_only: bool = False) -> CheckpointFiles:
    from huggingface_hub import snapshot_download

    for weights in WEIGHTS_NAMES:
        wanted = [CONFIG_NAME, VOCAB_NAME, weights]
        with _clear_hub_errors(name):
            folder = Path(
                snapshot_download(hub.repo_id, revision=hub.revision, allow_patterns=wanted, local_files_only=local_files_only)
            )
        if (folder / weights).is_file():
            return _in_folder(name, folder)
    raise CheckpointError(f"hub repository {name!r} has no {' or '.join(WEIGHTS_NAMES)}")


def _check_hub(name: str, hub: _HubId) -> None:
    from huggingface_hub import HfApi

    try:
        _from_hub(name, hub, local_files_only=True)
    except CheckpointError:
        with _clear_hub_errors(name):
            HfApi().model_info(hub.repo_id, revision=hub.revision, timeout=HUB_TIMEOUT_S)


@contextmanager
def _clear_hub_errors(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the hub's client, its transport's and the file system's own
        what = f"{type(error).__name__}: {_first_line(error)}"
        raise CheckpointError(
            f"checkpoint {name!r} is no local path, and not to be had from the Hugging Face hub: {what}"[:500]
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


@contextmanager
def _clear_errors(name: str) -> Iterator[None]:
    """Whatever a storage library raises becomes a CheckpointError about `name`."""
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {name!r} not found") from None
    except Exception as error:  # every store's client has exceptions of its own
        what = f"{type(error).__name__}: {_first_line(error)}"
        raise CheckpointError(f"checkpoint {name!r} cannot be read: {what}"[:500]) from error
