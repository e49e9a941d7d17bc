"""Weights in and out of BLIP_ITM: the published `.pth`, our own safetensors, and Hugging Face's folder.

Owns reading tensors safely, fitting them to a model, and writing them. Where a checkpoint lies is `source`'s business, what
its tensors are called `names`', what model they need `architecture`'s. Every failure is a CheckpointError of one line that
names the checkpoint.

Our own format is a safetensors file with the published tensor names,
  * in a folder: model.safetensors, config.json (`Architecture.as_config`) and vocab.txt (one WordPiece entry a line), or
  * alone: NAME.safetensors whose metadata hold the same under `config` (JSON) and, unless it is the shipped one, `vocab`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import CheckpointError
from pipeline.model.architecture import Architecture, read_architecture
from pipeline.model.blip_itm import BLIP_ITM, ItmFirstToken
from pipeline.model.files import CONFIG_NAME, VOCAB_NAME, WEIGHTS_NAMES, CheckpointFiles
from pipeline.model.names import POS_EMBED, POSITION_IDS, is_foreign, to_hugging_face
from pipeline.model.source import Options, locate
from pipeline.model.tokenizer import CaptionTokenizer, init_tokenizer, read_vocab
from pipeline.model.weights import CONFIG_KEY, VOCAB_KEY, read_weights, whole_or_not, write_pickle, write_safetensors

log = logging.getLogger(__name__)

Format = Literal["safetensors", "huggingface", "pth"]

LISTED = 8  # names an error lists before it says how many more there are


class KeyReport(NamedTuple):
    """How a checkpoint's tensors met a model's, by published name."""

    missing_keys: list[str]  # of the model, not in the checkpoint: left as they were
    unexpected_keys: list[str]  # of the checkpoint, not in the model: passed over


class LoadedCheckpoint(NamedTuple):
    """What `load_checkpoint` returns."""

    model: BLIP_ITM
    message: KeyReport


def load_checkpoint(
    model: BLIP_ITM, url_or_filename: str | Path, *, storage_options: Options | None = None
) -> LoadedCheckpoint:
    """Put a checkpoint's weights into a model, in place; any of the three formats, anywhere `source.locate` finds it.

    Positions of another image size are resized. LayerNorm's epsilons follow the checkpoint's configuration, where it has
    one: they are part of the weights. Raises CheckpointError for what cannot be read, for tensors of the wrong shape and
    for another number of heads; missing tensors are reported, not raised.
    """
    contents = _read(locate(url_or_filename, storage_options))
    if contents.config is not None:
        _adopt(contents.name, model, read_architecture(contents.name, contents.tensors, contents.config))
    return LoadedCheckpoint(model, _fill(contents.name, model, contents.tensors))


def load_model(
    checkpoint: str | Path | CheckpointFiles,
    *,
    image_size: int | None = None,
    itm_first_token: ItmFirstToken = "cls",
    storage_options: Options | None = None,
) -> BLIP_ITM:
    """Build the model that a checkpoint needs, with its weights and vocabulary, on the CPU, in eval mode.

    "" is the embedded model; files that were located already are taken as they are. image_size: pixels a side; None: the
    checkpoint's own. Raises CheckpointError.
    """
    contents = _read(locate(checkpoint, storage_options))
    name = contents.name
    architecture = read_architecture(name, contents.tensors, contents.config)
    try:
        with torch.device("meta"):  # no time for initial values that are overwritten
            model = BLIP_ITM(
                architecture.text,
                image_size or architecture.image_size,
                architecture.vit,
                embed_dim=architecture.embed_dim,
                itm_first_token=itm_first_token,
                tokenizer=contents.tokenizer,
            )
    except ValueError as error:
        raise CheckpointError(f"checkpoint {name!r}: {error}") from None
    model.to_empty(device="cpu")
    require_complete(_fill(name, model, contents.tensors), name)
    return model.eval()


def save_checkpoint(model: BLIP_ITM, path: str | Path, *, format: Format = "safetensors") -> None:
    """Write a model so that `load_model` builds it again, vocabulary included.

    "safetensors": our own format, a single file if `path` ends with .safetensors, else a folder. "huggingface": the folder that
    transformers' `BlipForImageTextRetrieval.from_pretrained` takes. "pth": one file, as the authors publish theirs.
    Each file appears whole or not at all. Raises CheckpointError if it cannot be written, ValueError for another format.
    """
    target = Path(path)
    architecture = Architecture.of_model(model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    vocab = "\n".join(model.tokenizer.vocab)
    metadata = {CONFIG_KEY: json.dumps(architecture.as_config())}
    if model.tokenizer.vocab != init_tokenizer().vocab:
        metadata[VOCAB_KEY] = vocab
    if format == "pth":
        write_pickle(target, tensors, metadata)
    elif format == "safetensors" and target.suffix == ".safetensors":
        write_safetensors(target, tensors, metadata)
    elif format == "safetensors":
        _write_folder(target, tensors, architecture.as_config(), vocab)
    elif format == "huggingface":
        renamed = {to_hugging_face(name): tensor for name, tensor in tensors.items() if name != POSITION_IDS}
        _write_folder(target, renamed, architecture.as_hugging_face_config(), vocab)
    else:
        raise ValueError(f"format {format!r} is not one of 'safetensors', 'huggingface', 'pth'")


def _write_folder(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], vocab: str) -> None:
    write_safetensors(folder / WEIGHTS_NAMES[0], tensors, {})
    whole_or_not(
        folder / CONFIG_NAME, lambda partial: partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    )
    whole_or_not(folder / VOCAB_NAME, lambda partial: partial.write_text(vocab + "\n", encoding="utf-8"))


def require_complete(message: KeyReport, checkpoint: str | Path) -> None:
    """Raise a CheckpointError that lists the missing tensors, if any are missing."""
    if message.missing_keys:
        count = len(message.missing_keys)
        raise CheckpointError(
            f"checkpoint {str(checkpoint)!r} lacks {count} tensors of the model: {_listed(message.missing_keys)}"
        )


class _Contents(NamedTuple):
    name: str
    tensors: dict[str, Tensor]  # published names, those that BLIP_ITM has no use for left out
    config: dict[str, Any] | None
    tokenizer: CaptionTokenizer | None  # None: the shipped vocabulary


def _read(files: CheckpointFiles) -> _Contents:
    weights = read_weights(files)
    tensors = {name: tensor for name, tensor in weights.tensors.items() if name != POSITION_IDS and not is_foreign(name)}
    try:
        vocab = weights.vocab
        if vocab is None and files.vocab is not None:
            vocab = read_vocab(files.vocab)
        tokenizer = None if vocab is None else CaptionTokenizer(vocab)
    except ValueError as error:
        raise CheckpointError(f"checkpoint {files.name!r}: {error}") from None
    return _Contents(files.name, tensors, weights.config, tokenizer)


def _adopt(name: str, model: BLIP_ITM, stated: Architecture) -> None:
    """Give the model the constants that its new weights were made for; refuse what cannot be changed."""
    vision, text = model.visual_encoder, model.text_encoder
    parts = (
        ("vision", vision.shape.heads, stated.vit.heads),
        ("text", text.config.num_attention_heads, stated.text.num_attention_heads),
    )
    for part, own, found in parts:
        if own != found:
            raise CheckpointError(f"checkpoint {name!r} has {found} {part} heads, the model has {own}")
    vision.set_layer_norm_eps(stated.vit.layer_norm_eps)
    text.set_layer_norm_eps(stated.text.layer_norm_eps)


def _fill(name: str, model: nn.Module, tensors: dict[str, Tensor]) -> KeyReport:
    """Copy the tensors into the model, positions resized. CheckpointError if any has the wrong shape."""
    own = model.state_dict()
    fitting = {key: tensor for key, tensor in tensors.items() if key in own}
    if POS_EMBED in fitting:
        fitting[POS_EMBED] = resize_positions(fitting[POS_EMBED], own[POS_EMBED].shape[1])
    misshapen = [
        f"{key} is {tuple(tensor.shape)}, the model's {tuple(own[key].shape)}"
        for key, tensor in fitting.items()
        if tensor.shape != own[key].shape
    ]
    numbers = [f"{key} is {tensor.dtype}" for key, tensor in fitting.items() if not tensor.is_floating_point()]
    if numbers:
        raise CheckpointError(f"checkpoint {name!r} has {len(numbers)} tensors that are not floating point: {_listed(numbers)}")
    if misshapen:
        raise CheckpointError(f"checkpoint {name!r} has {len(misshapen)} tensors of the wrong shape: {_listed(misshapen)}")
    fitting[POSITION_IDS] = torch.arange(own[POSITION_IDS].shape[1]).unsqueeze(0)
    model.load_state_dict(fitting, strict=False)
    report = KeyReport([key for key in own if key not in fitting], [key for key in tensors if key not in own])
    if report.unexpected_keys:
        log.warning(
            "checkpoint %s: passed over %d tensors: %s", name, len(report.unexpected_keys), _listed(report.unexpected_keys)
        )
    return report


def resize_positions(positions: Tensor, tokens: int) -> Tensor:
    """(1, 1 + g * g, W) -> (1, tokens, W): the grid by bicubic interpolation, CLS kept. Returned as it is if nothing fits."""
    if positions.ndim != 3 or positions.shape[1] == tokens:
        return positions
    old, new = (int((count - 1) ** 0.5) for count in (positions.shape[1], tokens))
    if (1 + old * old, 1 + new * new) != (positions.shape[1], tokens):
        return positions
    cls, grid = positions[:, :1].float(), positions[:, 1:].float()
    grid = grid.transpose(1, 2).reshape(1, -1, old, old)  # (1, W, g, g)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat((cls, grid.flatten(2).transpose(1, 2)), dim=1)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
