"""What must be known to build a BLIP_ITM around a checkpoint's tensors, and how each format writes it down.

Sizes are read off the tensors themselves; a configuration, where the checkpoint has one, adds what shapes do not tell (heads,
epsilons, dropout, drop path) and is refused if it contradicts them. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from typing import Any, NamedTuple

from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.model.blip_itm import BLIP_ITM
from pipeline.model.med import MedConfig
from pipeline.model.names import POS_EMBED
from pipeline.model.vit import VIT_SHAPES, VitShape

FORMAT = "capsieve BLIP_ITM 1"  # of our own config.json and metadata
HEAD_WIDTH = 64  # of every published ViT and BERT: how many heads a width has, where no configuration says

# What Hugging Face's configuration means where it is silent (transformers' BlipVisionConfig, BlipTextConfig, BlipConfig)
_HF_VISION = {"num_attention_heads": 12, "layer_norm_eps": 1e-5}
_HF_TEXT = {
    "num_attention_heads": 8,
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
}


class Architecture(NamedTuple):
    """Sizes and constants of a BLIP_ITM."""

    image_size: int
    vit: VitShape
    embed_dim: int
    text: MedConfig

    @classmethod
    def of_model(cls, model: BLIP_ITM) -> Architecture:
        """Of a model in memory."""
        vision = model.visual_encoder
        return cls(vision.image_size, vision.shape, model.vision_proj.out_features, model.text_encoder.config)

    def as_config(self) -> dict[str, Any]:
        """Our own config.json."""
        return {
            "format": FORMAT,
            "image_size": self.image_size,
            "embed_dim": self.embed_dim,
            "vision": self.vit._asdict(),
            "text": self.text.as_dict(),
        }

    def as_hugging_face_config(self) -> dict[str, Any]:
        """The config.json of a `BlipForImageTextRetrieval`. Drop path has no place in it."""
        vit, text = self.vit, self.text
        return {
            "architectures": ["BlipForImageTextRetrieval"],
            "model_type": "blip",
            "image_text_hidden_size": self.embed_dim,
            "projection_dim": self.embed_dim,
            "text_config": {"model_type": "blip_text_model", "encoder_hidden_size": text.encoder_width}
            | {key: value for key, value in text.as_dict().items() if key not in ("encoder_width", "add_cross_attention")},
            "vision_config": {
                "model_type": "blip_vision_model",
                "hidden_size": vit.width,
                "num_hidden_layers": vit.depth,
                "num_attention_heads": vit.heads,
                "intermediate_size": vit.mlp_width or 4 * vit.width,
                "layer_norm_eps": vit.layer_norm_eps,
                "image_size": self.image_size,
                "patch_size": vit.patch_size,
            },
        }


def read_architecture(name: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> Architecture:
    """The architecture of a checkpoint called `name`, with published tensor names and the configuration it came with, if any.

    Raises CheckpointError if the tensors are not those of a BLIP_ITM, or the configuration is of another model.
    """
    shapes = _Shapes(name, tensors)
    inferred = _from_shapes(shapes)
    if config is None:
        return _with_known_heads(name, inferred)
    try:
        if str(config.get("format", "")).startswith("capsieve"):
            stated = _from_own(config, inferred)
        elif "vision_config" in config and "text_config" in config:
            stated = _from_hugging_face(config, inferred)
        else:
            raise CheckpointError(
                f"checkpoint {name!r}: its configuration is neither capsieve's nor that of a Hugging Face BLIP model"
            )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {name!r}: bad configuration: {type(error).__name__}: {error}") from None
    _check_heads(name, stated)
    return stated


def _from_own(config: Mapping[str, Any], inferred: Architecture) -> Architecture:
    if config["format"] != FORMAT:
        raise ValueError(f"format {config['format']!r}, this version reads {FORMAT!r}")
    stated = Architecture(
        config["image_size"], VitShape(**config["vision"]), config["embed_dim"], MedConfig.read(config["text"])
    )
    _compare("image_size", stated.image_size, inferred.image_size)
    _compare("embed_dim", stated.embed_dim, inferred.embed_dim)
    for size in ("width", "depth", "patch_size"):
        _compare(f"vision.{size}", getattr(stated.vit, size), getattr(inferred.vit, size))
    for size in (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "intermediate_size",
        "max_position_embeddings",
        "encoder_width",
    ):
        _compare(f"text.{size}", getattr(stated.text, size), getattr(inferred.text, size))
    return stated


def _from_hugging_face(config: Mapping[str, Any], inferred: Architecture) -> Architecture:
    vision, text = _HF_VISION | config["vision_config"], _HF_TEXT | config["text_config"]
    for key, size in (
        ("hidden_size", inferred.vit.width),
        ("num_hidden_layers", inferred.vit.depth),
        ("image_size", inferred.image_size),
    ):
        _compare(f"vision_config.{key}", vision.get(key, size), size)
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "max_position_embeddings"):
        _compare(f"text_config.{key}", text.get(key, getattr(inferred.text, key)), getattr(inferred.text, key))
    if vision.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"vision_config.hidden_act {vision['hidden_act']!r} is not supported: BLIP's is 'gelu'")
    vit = inferred.vit._replace(heads=vision["num_attention_heads"], layer_norm_eps=vision["layer_norm_eps"])
    stated = inferred.text.as_dict() | {key: text[key] for key in (*_HF_TEXT, "hidden_act") if key in text}
    return inferred._replace(vit=vit, text=MedConfig.read(stated))


def _compare(key: str, stated: object, found: object) -> None:
    if stated != found:
        raise ValueError(f"{key} is {stated!r}, but the tensors say {found}")


def _check_heads(name: str, architecture: Architecture) -> None:
    vit, text = architecture.vit, architecture.text
    for part, width, heads in (("vision", vit.width, vit.heads), ("text", text.hidden_size, text.num_attention_heads)):
        if not isinstance(heads, int) or heads < 1 or width % heads:
            raise CheckpointError(
                f"checkpoint {name!r}: bad configuration: {part} width {width} cannot be divided into {heads!r} heads"
            )


class _Shapes:
    """Shapes of a checkpoint's tensors by name; CheckpointError for one that is not there or has another rank."""

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.name = name
        self.tensors = tensors

    def of(self, tensor: str, rank: int) -> tuple[int, ...]:
        if tensor not in self.tensors:
            raise CheckpointError(f"{self.name!r} is not a BLIP_ITM checkpoint: it has no tensor {tensor}")
        shape = tuple(self.tensors[tensor].shape)
        if len(shape) != rank or 0 in shape:
            raise CheckpointError(f"checkpoint {self.name!r}: {tensor} has shape {shape}, which BLIP_ITM's cannot have")
        return shape

    def layers(self, prefix: str) -> int:
        """How many layers there are, by the highest number behind `prefix`; no more than there are tensors."""
        numbers = [name.removeprefix(prefix).split(".", 1)[0] for name in self.tensors if name.startswith(prefix)]
        return min(len(numbers), max((int(number) + 1 for number in numbers if number.isdecimal()), default=0))


def _from_shapes(shapes: _Shapes) -> Architecture:
    _, tokens, width = shapes.of(POS_EMBED, 3)
    patch_size = shapes.of("visual_encoder.patch_embed.proj.weight", 4)[-1]
    grid = isqrt(tokens - 1)
    if grid < 1 or grid * grid != tokens - 1:
        raise CheckpointError(f"checkpoint {shapes.name!r}: {POS_EMBED} has {tokens} positions, which is not 1 and a square")
    vocab_size, hidden = shapes.of("text_encoder.embeddings.word_embeddings.weight", 2)
    vit = VitShape(
        width=width,
        depth=shapes.layers("visual_encoder.blocks."),
        heads=1,
        mlp_width=shapes.of("visual_encoder.blocks.0.mlp.fc1.weight", 2)[0],
        patch_size=patch_size,
    )
    text = MedConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_hidden_layers=shapes.layers("text_encoder.encoder.layer."),
        num_attention_heads=1,
        intermediate_size=shapes.of("text_encoder.encoder.layer.0.intermediate.dense.weight", 2)[0],
        max_position_embeddings=shapes.of("text_encoder.embeddings.position_embeddings.weight", 2)[0],
        encoder_width=shapes.of("text_encoder.encoder.layer.0.crossattention.self.key.weight", 2)[1],
    )
    return Architecture(grid * patch_size, _with_drop_path(vit), shapes.of("vision_proj.weight", 2)[0], text)


def _with_drop_path(vit: VitShape) -> VitShape:
    """Drop path as in the published model of the same width and depth, if there is one."""
    known = (shape.drop_path for shape in VIT_SHAPES.values() if (shape.width, shape.depth) == (vit.width, vit.depth))
    return vit._replace(drop_path=next(known, 0.0))


def _with_known_heads(name: str, inferred: Architecture) -> Architecture:
    """Shapes do not tell how many heads there are; every published model has heads of 64."""
    for part, width in (("vision", inferred.vit.width), ("text", inferred.text.hidden_size)):
        if width % HEAD_WIDTH:
            raise CheckpointError(
                f"checkpoint {name!r} has no configuration, and {part} width {width} does not tell its number of heads"
            )
    text = replace(inferred.text, num_attention_heads=inferred.text.hidden_size // HEAD_WIDTH)
    return inferred._replace(vit=inferred.vit._replace(heads=inferred.vit.width // HEAD_WIDTH), text=text)
