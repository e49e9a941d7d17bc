"""Weights files: tensors, configuration and vocabulary out of one, and into one.

Owns the two containers (safetensors, PyTorch's zip or pickle, which is opened with `weights_only=True` and nothing else)
and the atomic write. Names come out as published whatever the file called them. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import secrets
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.model.files import CheckpointFiles, sniff
from pipeline.model.names import from_hugging_face, is_hugging_face

MAX_CONFIG_BYTES = 1_000_000
CONFIG_KEY, VOCAB_KEY = "config", "vocab"  # of a single file's metadata
PICKLE_METADATA_KEY = "capsieve"  # where our own `.pth` keeps the same metadata


class Weights(NamedTuple):
    """What a weights file and the configuration beside it hold."""

    tensors: dict[str, Tensor]  # by published name, on the CPU, any float dtype; may be mapped from the file
    config: dict[str, Any] | None
    vocab: list[str] | None  # the file's own, not that of a vocab.txt beside it


class _Raw(NamedTuple):
    state: Mapping[Any, Any]
    metadata: Mapping[str, Any]


def read_weights(files: CheckpointFiles) -> Weights:
    """Read a checkpoint's weights and configuration. CheckpointError if either is not what it should be."""
    is_pickle = sniff(files.weights) == "pickle"
    raw = _read_pickle(files) if is_pickle else _read_safetensors(files)
    tensors = _tensors(files.name, raw.state)
    if is_hugging_face(tensors):
        tensors = {from_hugging_face(name): tensor for name, tensor in tensors.items()}
    config, vocab = raw.metadata.get(CONFIG_KEY), raw.metadata.get(VOCAB_KEY)
    if config is None and files.config is not None:
        if files.config.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"checkpoint {files.name!r}: {files.config.name} is larger than {MAX_CONFIG_BYTES} bytes")
        config = files.config.read_bytes()
    return Weights(tensors, _json(files.name, config), None if vocab is None else str(vocab).split("\n"))


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata; the file appears whole or not at all."""
    whole_or_not(path, lambda partial: save_file(dict(tensors), str(partial), {"format": "pt", **metadata}))


def write_pickle(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """The same in the layout of the published `.pth` files."""
    payload = {"model": dict(tensors), PICKLE_METADATA_KEY: dict(metadata)}
    whole_or_not(path, lambda partial: torch.save(payload, partial))


def whole_or_not(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then give it its name. CheckpointError if that cannot be done."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # RuntimeError: torch.save's for a full or read-only disk
        raise CheckpointError(f"checkpoint {str(path)!r} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be what is wrong; that error is on its way already
            partial.unlink(missing_ok=True)


def _read_safetensors(files: CheckpointFiles) -> _Raw:
    try:
        with safe_open(files.weights, framework="pt", device="cpu") as file:
            names = file.keys()
            return _Raw({name: file.get_tensor(name) for name in names}, file.metadata() or {})
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"checkpoint {files.name!r} is not a valid safetensors file: {_first_line(error)}") from error


def _read_pickle(files: CheckpointFiles) -> _Raw:
    # only the zip layout can be mapped; mapping halves the memory that loading takes
    can_map = zipfile.is_zipfile(files.weights)
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's remarks on foreign pickles; what they lead to is an error
            payload = torch.load(files.weights, map_location="cpu", weights_only=True, mmap=can_map or None)
    except Exception as error:  # a broken or hostile pickle can raise anything
        raise CheckpointError(_why_refused(files.name, error)) from error
    if not isinstance(payload, Mapping):
        raise CheckpointError(f"{files.name!r} is not a checkpoint: it holds a {type(payload).__name__}, not tensors by name")
    state = next((payload[key] for key in ("model", "state_dict") if isinstance(payload.get(key), Mapping)), payload)
    metadata = payload.get(PICKLE_METADATA_KEY)
    return _Raw(state, metadata if isinstance(metadata, Mapping) else {})


def _why_refused(name: str, error: Exception) -> str:
    if not isinstance(error, pickle.UnpicklingError):
        return f"{name!r} is not a checkpoint: PyTorch cannot read it: {type(error).__name__}: {_first_line(error)}"[:400]
    # torch's own text advises to switch the protection off
    unsafe = re.search(r"GLOBAL `?([\w.]+)", str(error))
    what = f"opening it would run code ({unsafe[1]})" if unsafe else "its pickle is damaged or holds more than tensors"
    return f"checkpoint {name!r} refused: {what}; a checkpoint must hold tensors only"


def _tensors(name: str, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The state's tensors; other entries of a training checkpoint (epoch, options) are passed over."""
    tensors = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{name!r} is not a checkpoint: it holds no tensors")
    for key, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.device.type != "cpu":
            raise CheckpointError(
                f"checkpoint {name!r}: {key} is not a plain tensor: {tensor.dtype}, {tensor.layout}, {tensor.device}"
            )
    return tensors


def _json(name: str, text: str | bytes | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {name!r}: its configuration is not JSON: {_first_line(error)}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"checkpoint {name!r}: its configuration is not a JSON object")
    return value


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
