"""A complete BLIP_ITM of a size that tests can afford, with random weights: 32 px, two layers of text."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.model import BLIP_ITM, save_checkpoint

IMAGE_SIZE = 32
TEXT = {
    "vocab_size": 30524,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "pad_token_id": 0,
}


def tiny_model(seed: int = 0) -> BLIP_ITM:
    """The same weights for the same seed."""
    torch.manual_seed(seed)
    return BLIP_ITM(TEXT, image_size=IMAGE_SIZE, vit="tiny", embed_dim=32).eval()


def tiny_checkpoint(folder: Path, seed: int = 0) -> str:
    """Path of a safetensors file of `tiny_model`."""
    path = folder / f"tiny-{seed}.safetensors"
    save_checkpoint(tiny_model(seed), path)
    return str(path)
