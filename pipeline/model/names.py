"""What tensors are called: the published names, Hugging Face's names for the same ones, and what is not BLIP_ITM's.

A table and nothing else: knows nothing of files, shapes or values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

POSITION_IDS = (
    "text_encoder.embeddings.position_ids"  # 0, 1, 2, ...: a constant, so whether a checkpoint has it does not matter
)
POS_EMBED = "visual_encoder.pos_embed"

# published -> Hugging Face; names that begin with none of these are the same in both
_PREFIXES = (
    ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
    ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
    ("visual_encoder.patch_embed.proj.", "vision_model.embeddings.patch_embedding."),
    ("visual_encoder.norm.", "vision_model.post_layernorm."),
    ("visual_encoder.blocks.", "vision_model.encoder.layers."),
)
_IN_BLOCK = (
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".attn.proj.", ".self_attn.projection."),
)

# of BLIP's other models and of its training: momentum copies (`visual_encoder_m.`), temperature, queues, captioning decoder
_FOREIGN = re.compile(r"\w+_m\..*|temp|(\w+_)?queue(_\w+)?|\w*ptr\w*|text_decoder\..*|(model\.)?logit_scale")


def to_hugging_face(name: str) -> str:
    """The name of BLIP_ITM's tensor `name` in `BlipForImageTextRetrieval`."""
    return _translate(name, _PREFIXES, _IN_BLOCK)


def from_hugging_face(name: str) -> str:
    """The inverse of `to_hugging_face`."""
    return _translate(name, [(theirs, ours) for ours, theirs in _PREFIXES], [(theirs, ours) for ours, theirs in _IN_BLOCK])


def is_hugging_face(names: Iterable[str]) -> bool:
    """Whether these are Hugging Face's names."""
    return any(name.startswith("vision_model.") for name in names)


def is_foreign(name: str) -> bool:
    """Whether a published checkpoint may carry this tensor although BLIP_ITM has no use for it."""
    return _FOREIGN.fullmatch(name) is not None


def _translate(name: str, prefixes: Iterable[tuple[str, str]], in_block: Iterable[tuple[str, str]]) -> str:
    for old, new in prefixes:
        if name.startswith(old):
            name = new + name[len(old) :]
            if ".blocks." in name or ".layers." in name:
                for old_part, new_part in in_block:
                    name = name.replace(old_part, new_part)
            break
    return name
