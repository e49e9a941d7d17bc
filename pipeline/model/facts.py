"""What a driver must know of a checkpoint before any model is loaded: its checksum, image size and embedding width.

Read off the header of a safetensors file, without torch. A pickle (`.pth`) has no header to read: for it alone torch is
imported, and its tensors are mapped, not loaded. Knows nothing of layers or of how a model is built.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import ModelConfig, StorageConfig
from pipeline.errors import CheckpointError
from pipeline.model.files import CheckpointFiles, sniff
from pipeline.model.names import POS_EMBED, from_hugging_face, is_hugging_face
from pipeline.model.pin import Pin, pin
from pipeline.model.source import locate
from pipeline.storage import client_options

DEMO_NAME = "capsieve demo model"
_PATCHES = "visual_encoder.patch_embed.proj.weight"  # (width, 3, patch, patch)
_PROJECTION = "vision_proj.weight"  # (embed_dim, width)


class ModelInfo(NamedTuple):
    """Which model scores."""

    name: str
    sha256: str  # of the weights file
    pin: Pin  # its files, for the replicas
    image_size: int  # pixels a side, as the run uses it
    embed_dim: int
    gflop: float  # of one image with one caption, roughly


def describe(config: ModelConfig, storage: StorageConfig) -> ModelInfo:
    """Facts of `model.checkpoint`, downloaded where it is elsewhere. Raises CheckpointError for what is no BLIP_ITM."""
    files = locate(config.checkpoint, storage_options(config.checkpoint, storage))
    shapes = _shapes(files)
    missing = [name for name in (POS_EMBED, _PATCHES, _PROJECTION) if name not in shapes]
    if missing:
        raise CheckpointError(f"{files.name!r} is not a BLIP_ITM checkpoint: it has no tensor {missing[0]}")
    patch, grid = shapes[_PATCHES][-1], math.isqrt(shapes[POS_EMBED][1] - 1)
    image_size = config.image_size or grid * patch
    pinned = pin(files)
    return ModelInfo(
        name=config.checkpoint or DEMO_NAME,
        sha256=pinned.weights.sha256,
        pin=pinned,
        image_size=image_size,
        embed_dim=shapes[_PROJECTION][0],
        gflop=_gflop(shapes, patches=(image_size // patch) ** 2),
    )


def _gflop(shapes: Mapping[str, tuple[int, ...]], patches: int) -> float:
    """Every weight of the vision encoder meets every patch; attention and the text add a quarter (127 for base at 384)."""
    weights = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("visual_encoder."))
    return 1.25 * 2 * weights * patches / 1e9


def storage_options(checkpoint: str, storage: StorageConfig) -> dict[str, Any]:
    """How fsspec reaches a checkpoint's store: as the run reaches its own."""
    return client_options(checkpoint, storage)


def _shapes(files: CheckpointFiles) -> Mapping[str, tuple[int, ...]]:
    """Shapes by published name."""
    shapes = _header(files.weights) if sniff(files.weights) == "safetensors" else _pickled(files)
    return {from_hugging_face(name): shape for name, shape in shapes.items()} if is_hugging_face(shapes) else shapes


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def _pickled(files: CheckpointFiles) -> dict[str, tuple[int, ...]]:
    from pipeline.model.weights import read_weights

    return {name: tuple(tensor.shape) for name, tensor in read_weights(files).tensors.items()}
