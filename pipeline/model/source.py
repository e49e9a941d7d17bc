"""Where a checkpoint lies: a name given by the user becomes files on this machine.

Owns what names mean (file, folder, URL, Hugging Face hub id, nothing for the embedded model), cheap checks and the checksum for
provenance; what was fetched is kept by `cache`. Reads no tensor and needs no torch, so a driver can use it before any model is
loaded. Every failure is a CheckpointError of one line that names the checkpoint, without the query string of its URL.

    ""                                  the embedded model, a folder of this package
    PATH.pth | .pt | .bin | .safetensors  one file
    FOLDER, s3://... | gs://... folder  model.safetensors or pytorch_model.bin, with config.json and vocab.txt beside it
    http(s)://... | s3://... | gs://... one file
    ORG/NAME or ORG/NAME@REVISION       a Hugging Face hub repository, where no local path has that name
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from pipeline.errors import CheckpointError
from pipeline.model import hub
from pipeline.model.cache import Entry, Kept, keep
from pipeline.model.files import (
    CONFIG_NAME,
    VOCAB_NAME,
    WEIGHTS_NAMES,
    WEIGHTS_SUFFIXES,
    CheckpointFiles,
    clear_errors,
    existing,
    in_folder,
    sha256_of,
    sniff,
    weights_among,
    without_query,
)

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

EMBEDDED_FOLDER = Path(__file__).with_name("demo")
VERSION_KEYS = ("ETag", "etag", "Last-Modified", "LastModified", "last_modified", "mtime", "generation")  # of an fsspec `info`
BESIDE = (CONFIG_NAME, VOCAB_NAME)
WEB = ("http://", "https://")

Options = Mapping[str, Any]


def locate(checkpoint: str | Path | CheckpointFiles, storage_options: Options | None = None) -> CheckpointFiles:
    """The files of a checkpoint, downloaded into the cache if they are elsewhere; files that were found already, as they are.

    `storage_options` go to fsspec for URLs. Raises CheckpointError if there is no such checkpoint or it cannot be fetched.
    """
    if isinstance(checkpoint, CheckpointFiles):
        return checkpoint
    text = str(checkpoint)
    if "://" in text:
        return _download(text, storage_options or {})
    path = Path(text).expanduser() if text else EMBEDDED_FOLDER
    if path.is_dir():
        return in_folder(text or "the embedded model", path)
    if path.is_file():
        beside = path.parent if path.name in WEIGHTS_NAMES else None
        return CheckpointFiles(text, path, existing(beside, CONFIG_NAME), existing(beside, VOCAB_NAME))
    on_hub = hub.hub_id(text)
    if on_hub is None:
        raise CheckpointError(
            f"checkpoint {text!r} not found" if text else "this installation has no embedded model: name a checkpoint"
        )
    return hub.fetch(text, on_hub)


def check_checkpoint(checkpoint: str | Path, storage_options: Options | None = None) -> None:
    """Find out cheaply whether `checkpoint` can be loaded: that it is there and looks like one. Downloads no weights.

    Raises CheckpointError. What only the tensors can tell (missing or misshapen ones, unsafe pickles) shows when it is loaded.
    """
    text = str(checkpoint)
    if "://" in text:
        name = without_query(text)
        with clear_errors(name):
            fs, path = _open(text, storage_options or {})
            fs.info(weights_among(name, fs.ls(path, detail=False)) if _is_folder(fs, path, text) else path)
        return
    on_hub = None if not text or Path(text).expanduser().exists() else hub.hub_id(text)
    if on_hub is not None:
        hub.check(text, on_hub)
    else:
        sniff(locate(text).weights)


def checkpoint_sha256(checkpoint: str | Path | CheckpointFiles, storage_options: Options | None = None) -> str:
    """SHA-256 (hexadecimal) of the weights file: what identifies a checkpoint in the provenance of its scores."""
    files = locate(checkpoint, storage_options)
    with clear_errors(files.name):
        return files.sha256 or sha256_of(files.weights)


# --- elsewhere: URLs ---------------------------------------------------------------------------------------------------


def _download(url: str, options: Options) -> CheckpointFiles:
    name = without_query(url)
    with clear_errors(name):
        fs, path = _open(url, options)
        stored = None if url.startswith((*WEB, "file://", "local://")) else url.rstrip("/")
        if not _is_folder(fs, path, url):
            weights = _kept(name, fs, path, url)
            return CheckpointFiles(name, weights.path, None, None, stored, weights.sha256)
        by_name = {str(entry).rsplit("/", 1)[-1]: str(entry) for entry in fs.ls(path, detail=False)}
        chosen = weights_among(name, by_name.values())
        beside = {file: _kept(name, fs, by_name[file], by_name[file]).path for file in BESIDE if file in by_name}
        weights = _kept(name, fs, chosen, chosen)
        return CheckpointFiles(name, weights.path, beside.get(CONFIG_NAME), beside.get(VOCAB_NAME), stored, weights.sha256)


def _open(url: str, options: Options) -> tuple[AbstractFileSystem, str]:
    from fsspec.core import url_to_fs

    fs, path = url_to_fs(url, **options)
    return fs, str(path)


def _is_folder(fs: AbstractFileSystem, path: str, url: str) -> bool:
    # web servers have no folders, and asking them costs a download
    return not url.startswith(WEB) and not path.endswith(WEIGHTS_SUFFIXES) and bool(fs.isdir(path))


def _kept(name: str, fs: AbstractFileSystem, path: str, url: str) -> Kept:
    """A local copy of one remote file, kept under its URL and version; fetched anew where the server tells no version."""
    version = _version(fs, path)

    def fill(partial: Path) -> None:
        fs.get_file(path, str(partial))
        if _version(fs, path) != version:
            raise CheckpointError(f"checkpoint {name!r} changed while it was fetched: start again")

    key = hashlib.sha256("\n".join([without_query(url), str(version.size), *version.known]).encode()).hexdigest()[:32]
    entry = Entry(name, key, Path(urlsplit(url).path).name or "checkpoint", version.size)
    return keep(entry, fill, reuse=bool(version.known), reread=True)


class _Version(NamedTuple):
    size: int | None
    known: tuple[str, ...]  # whatever tells versions of the same size apart; empty: nothing does


def _version(fs: AbstractFileSystem, path: str) -> _Version:
    fs.invalidate_cache()  # of listings: the file may have changed since
    info = fs.info(path)
    return _Version(info.get("size"), tuple(f"{key}={info[key]}" for key in VERSION_KEYS if info.get(key)))
