"""Models for the tests of `pipeline.model`: small ones, and pairs with Hugging Face's reference on the same random weights."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import BlipConfig, BlipForImageTextRetrieval

from pipeline.model import BLIP_ITM
from pipeline.model.names import from_hugging_face
from pipeline.model.vit import VitShape

Module = TypeVar("Module", bound=nn.Module)

SMALL_TEXT = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 30_524,
}
SMALL_VIT = VitShape(width=40, depth=3, heads=5, mlp_width=100)
SMALL_SIZE = 48

CAPTIONS = [
    "a cat",
    "Two dogs are chasing a frisbee across the lawn of a suburban garden, while children cheer.",
    "",
    " ".join(["a very long caption that is cut"] * 9),
    "naïve café façade",
]


def small_model(seed: int = 0, **kwargs: Any) -> BLIP_ITM:
    """A BLIP_ITM of 2 million parameters, nearly all word embeddings, with weights that make every part count."""
    options = {"med_config": SMALL_TEXT, "image_size": SMALL_SIZE, "vit": SMALL_VIT, "embed_dim": 24} | kwargs
    return randomise(BLIP_ITM(**options), seed).eval()


def images(count: int, size: int = SMALL_SIZE, seed: int = 1) -> Tensor:
    """Normalised images of noise."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def randomise(module: Module, seed: int = 0) -> Module:
    """Random weights under which a wrong norm, bias, position or layer shows: linears keep variance, norms scale and shift."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                is_norm_weight = "norm" in name.lower() and name.endswith("weight")
                parameter.copy_(1 + 0.3 * noise if is_norm_weight else 0.2 * noise)
            elif "embed" in name and "patch" not in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return module


def reference_pair(
    image_size: int, text: dict[str, Any], vit: VitShape, embed_dim: int
) -> tuple[BlipForImageTextRetrieval, BLIP_ITM]:
    """Hugging Face's model and ours with the same random weights, copied by name here, not by our own reader."""
    config = BlipConfig(
        text_config={"encoder_hidden_size": vit.width, **text},
        vision_config={
            "hidden_size": vit.width,
            "num_hidden_layers": vit.depth,
            "num_attention_heads": vit.heads,
            "intermediate_size": vit.mlp_width or 4 * vit.width,
            "image_size": image_size,
            "layer_norm_eps": vit.layer_norm_eps,
        },
        image_text_hidden_size=embed_dim,
    )
    theirs = randomise(BlipForImageTextRetrieval(config)).eval()
    with torch.device("meta"):
        ours = BLIP_ITM(text, image_size, vit, embed_dim=embed_dim)
    ours.to_empty(device="cpu")
    state = {from_hugging_face(name): tensor for name, tensor in theirs.state_dict().items()}
    state["text_encoder.embeddings.position_ids"] = torch.arange(ours.text_encoder.config.max_position_embeddings)[None]
    ours.load_state_dict(state)
    return theirs, ours.eval()
