"""Checkpoints of the Hugging Face hub: a name becomes one commit, and that commit's files are had once a machine.

The hub is asked once what the name means now; from then on its files are those of one commit, whatever happens to the branch.
They lie in the hub's own cache (HF_HOME), where other programs find them, and its settings hold (HF_ENDPOINT, HF_TOKEN,
HF_HUB_OFFLINE).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pipeline import local_files
from pipeline.errors import CheckpointError
from pipeline.model.cache import locked
from pipeline.model.files import (
    CONFIG_NAME,
    SPLIT_NAME,
    VOCAB_NAME,
    WEIGHTS_NAMES,
    WEIGHTS_SUFFIXES,
    CheckpointFiles,
    existing,
    first_line,
    sha256_of,
    weights_among,
)

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0  # of asking what a name means


class HubId(NamedTuple):
    """ORG/NAME or ORG/NAME@REVISION."""

    repo_id: str
    revision: str | None


class _Commit(NamedTuple):
    sha: str
    sha256: Mapping[str, str]  # by file; empty where the hub does not say


def hub_id(text: str) -> HubId | None:
    """What `text` names on the hub; None if it cannot be a name there."""
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", text)
    if match is None or text.startswith(".") or match[1].endswith(WEIGHTS_SUFFIXES):
        return None
    return HubId(match[1], match[2])


def check(name: str, hub: HubId) -> None:
    """Raise CheckpointError if there is no such repository. Downloads nothing."""
    if _cached(name, hub) is None:
        _ask(name, hub)


def fetch(name: str, hub: HubId) -> CheckpointFiles:
    """The repository's files as they are now, or in its cache where the hub must or can not be asked."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        commit = _ask(name, hub)
    except CheckpointError as error:
        cached = _cached(name, hub)
        if cached is None:
            raise
        if not isinstance(error.__cause__, OfflineModeIsEnabled):
            log.warning("%s; going on with what its cache holds, commit %s", error, cached.weights.parent.name)
        return _verified(cached, {})
    wanted = _wanted(name, commit.sha256)
    if not all(_in_cache(hub, file, commit.sha) for file in wanted):
        with locked(name, f"hub-{hub.repo_id.replace('/', '--')}-{commit.sha}"):
            for file in wanted:
                _download(name, hub, file, commit.sha)
    folder = Path(_download(name, hub, wanted[0], commit.sha)).parent
    _remember(folder, hub.revision or "main", commit.sha)
    files = CheckpointFiles(name, folder / wanted[0], existing(folder, CONFIG_NAME), existing(folder, VOCAB_NAME))
    try:
        return _verified(files, commit.sha256)
    except CheckpointError as error:  # in the cache, or on its way
        log.warning("%s: fetching it anew", error)
        with locked(name, f"hub-{hub.repo_id.replace('/', '--')}-{commit.sha}"):
            _download(name, hub, wanted[0], commit.sha, force=True)
        return _verified(files, commit.sha256)


def _ask(name: str, hub: HubId) -> _Commit:
    """What the name means now: the one request that is about a branch."""
    from huggingface_hub import HfApi

    with _clear_errors(name):
        found = HfApi().model_info(hub.repo_id, revision=hub.revision, files_metadata=True, timeout=TIMEOUT_S)
    files = {file.rfilename: file.lfs.sha256 if file.lfs else "" for file in found.siblings or ()}
    if found.sha is None:
        raise CheckpointError(f"the hub names no commit of {name!r}")
    return _Commit(found.sha, files)


def _wanted(name: str, files: Mapping[str, str]) -> list[str]:
    if not files.keys() & {*WEIGHTS_NAMES, SPLIT_NAME}:
        raise CheckpointError(f"hub repository {name!r} has no {' or '.join(WEIGHTS_NAMES)}")
    return [
        weights_among(name, (file for file in files if "/" not in file)),
        *(file for file in (CONFIG_NAME, VOCAB_NAME) if file in files),
    ]


def _in_cache(hub: HubId, file: str, commit: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub.repo_id, file, revision=commit), str)


def _download(name: str, hub: HubId, file: str, commit: str, *, force: bool = False) -> str:
    """A path in the hub's cache. Of an exact commit, the hub is not asked for what is there already."""
    from huggingface_hub import hf_hub_download

    with _clear_errors(name):
        return hf_hub_download(hub.repo_id, file, revision=commit, force_download=force)


def _remember(folder: Path, revision: str, commit: str) -> None:
    """Note in the hub's cache, where its client notes it, what a branch meant: that is what it means offline."""
    note = folder.parent.parent / "refs" / revision
    with suppress(OSError):  # the cache may be read-only
        if revision != commit and not (note.is_file() and note.read_text() == commit):
            local_files.write(note, commit.encode())


def _cached(name: str, hub: HubId) -> CheckpointFiles | None:
    """What the cache holds of the revision, as it was when the hub was asked last."""
    from huggingface_hub import try_to_load_from_cache

    for weights in WEIGHTS_NAMES:
        with suppress(ValueError):  # a name that the hub would not allow
            found = try_to_load_from_cache(hub.repo_id, weights, revision=hub.revision)
            if isinstance(found, str):
                folder = Path(found).parent
                return CheckpointFiles(name, Path(found), existing(folder, CONFIG_NAME), existing(folder, VOCAB_NAME))
    return None


def _verified(files: CheckpointFiles, promised: Mapping[str, str]) -> CheckpointFiles:
    """The same with the weights' SHA-256, compared with the hub's, or with the name of the blob, which it is."""
    sha256, blob = sha256_of(files.weights), files.weights.resolve().name
    expected = promised.get(files.weights.name) or (blob if re.fullmatch("[0-9a-f]{64}", blob) else sha256)
    if sha256 != expected:
        raise CheckpointError(
            f"checkpoint {files.name!r}: {files.weights.name} has the sha256 {sha256} instead of {expected}, the hub's"
        )
    return files._replace(sha256=sha256)


@contextmanager
def _clear_errors(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the hub's client, its transport's and the file system's own
        what = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(
            f"checkpoint {name!r} is no local path, and not to be had from the Hugging Face hub: {what}"[:500]
        ) from error
