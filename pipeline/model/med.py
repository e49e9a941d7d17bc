"""The text encoder: BERT whose layers can also attend to an image ("MED" of the BLIP paper, arXiv:2201.12086).

Owns its configuration, its architecture and its parameter names (those of the published weights). Token ids in, hidden
states out; knows nothing of strings, of how images were encoded, or of heads. Self-attention is bidirectional, never
causal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.packing import Packing
from pipeline.model.texts import Layout, whole_grid

PACKAGE_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class MedConfig:
    """Sizes of a text encoder, named as in BERT's configuration files. Defaults: BERT base with BLIP's vocabulary."""

    vocab_size: int = 30_524
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3_072
    max_position_embeddings: int = 512
    encoder_width: int = 768  # of the image tokens; set at construction to the vision encoder's
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    pad_token_id: int = 0
    hidden_act: str = "gelu"
    add_cross_attention: bool = True

    def __post_init__(self) -> None:
        if self.hidden_act != "gelu":
            raise ValueError(f"hidden_act {self.hidden_act!r} is not supported: BLIP's text encoder uses 'gelu'")
        if not self.add_cross_attention:
            raise ValueError("add_cross_attention is false: without cross-attention there is no image-text matching")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} cannot be divided into {self.num_attention_heads} heads")

    @classmethod
    def read(cls, source: str | Path | Mapping[str, Any] | MedConfig) -> MedConfig:
        """From a JSON file or a mapping; keys that mean nothing here (`architectures`, `type_vocab_size`, ...) are passed over.

        A relative path is looked up as given, then in the installed package, then at the root of a source checkout.
        Raises FileNotFoundError, or ValueError for a file that is not a JSON object or for sizes that do not fit together.
        """
        if isinstance(source, MedConfig):
            return source
        values = _read_json(Path(source)) if isinstance(source, str | Path) else source
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    def with_encoder_width(self, width: int) -> MedConfig:
        """The same sizes over image tokens of `width`."""
        return replace(self, encoder_width=width)

    def as_dict(self) -> dict[str, Any]:
        """What `read` takes back."""
        return asdict(self)


def _read_json(path: Path) -> dict[str, Any]:
    candidates = (path, PACKAGE_ROOT / path, PACKAGE_ROOT.parent / path)
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"med_config {str(path)!r} not found, neither as given nor beside the package")
    try:
        values = json.loads(found.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"med_config {str(found)!r} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"med_config {str(found)!r} is not a JSON object")
    return values


class TextEncoder(nn.Module):
    """Embeddings and layers, without a pooler."""

    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = LayerStack(config)
        self.apply(self._init)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_tokens: Tensor | None = None,
        packing: Packing | None = None,
        layout: Layout | None = None,
    ) -> Tensor:
        """Encode n texts of L tokens, alone or together with their images.

        input_ids, attention_mask: (n, L) integers, the mask 1 on tokens and 0 on padding. image_tokens: (B, T,
        encoder_width), or None for the text-only mode. packing: which caption belongs to which image; None: caption i to
        image i. layout: of the mask's tokens; None: padding is computed too. Returns (n, L, hidden_size).
        """
        layout = layout or whole_grid(attention_mask)
        hidden = layout.flatten(self.embeddings(input_ids))
        image = None
        if image_tokens is not None:
            packing = packing or Packing(len(input_ids), 1, None, None)
            image = (image_tokens.to(hidden.dtype), packing.to(hidden.device))
        for layer in self.encoder.layer:
            hidden = layer(hidden, layout, image)
        return layout.pad(hidden)

    def set_layer_norm_eps(self, eps: float) -> None:
        """Use another epsilon in all layers."""
        self.config = replace(self.config, layer_norm_eps=eps)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = eps

    def _init(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


class LayerStack(nn.Module):
    """Holds the layers under the name that the published weights give them, `encoder.layer`."""

    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


class Embeddings(nn.Module):
    """Words plus positions; BLIP has no token types."""

    position_ids: Tensor  # (1, max_position_embeddings); a buffer because the published weights carry it

    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings).unsqueeze(0))

    def forward(self, input_ids: Tensor) -> Tensor:
        length = input_ids.shape[1]
        positions = self.position_embeddings(self.position_ids[:, :length])
        return self.dropout(self.LayerNorm(self.word_embeddings(input_ids) + positions))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Self-attention, cross-attention to an image if there is one, feed-forward; each adds to its input, then normalises."""

    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.attention = Attention(config, config.hidden_size)
        self.crossattention = Attention(config, config.encoder_width)
        self.intermediate = Intermediate(config)
        self.output = Output(config, config.intermediate_size)

    def forward(self, hidden: Tensor, layout: Layout, image: tuple[Tensor, Packing] | None) -> Tensor:
        """hidden: (T, hidden), the tokens of all texts. image: (B, tokens, encoder_width) and whose captions these are."""
        hidden = self.attention(hidden, layout)
        if image is not None:
            hidden = self.crossattention(hidden, layout, *image)
        return self.output(self.intermediate(hidden), hidden)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head attention with its residual and norm."""

    def __init__(self, config: MedConfig, source_width: int) -> None:
        super().__init__()
        self.self = Projections(config, source_width)
        self.output = Output(config, config.hidden_size)

    def forward(
        self, hidden: Tensor, layout: Layout, image_tokens: Tensor | None = None, packing: Packing | None = None
    ) -> Tensor:
        """Each text's tokens (T, hidden) among themselves, or to the tokens of its image."""
        return self.output(self.self(hidden, layout, image_tokens, packing), hidden)  # type: ignore[no-any-return]


class Projections(nn.Module):
    """Queries, keys, values, and the attention between them."""

    def __init__(self, config: MedConfig, source_width: int) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(source_width, config.hidden_size)
        self.value = nn.Linear(source_width, config.hidden_size)

    def forward(
        self, hidden: Tensor, layout: Layout, image_tokens: Tensor | None = None, packing: Packing | None = None
    ) -> Tensor:
        """(T, hidden) -> (T, hidden). An image's keys and values are made once for all of its captions."""
        query = layout.pad(self.query(hidden))
        if image_tokens is None or packing is None:
            key, value = layout.pad(self.key(hidden)), layout.pad(self.value(hidden))
            return layout.flatten(self._attend(query, key, value, layout.visible))
        key, value = (packing.of_groups(made(image_tokens)) for made in (self.key, self.value))
        # every image token is visible: no mask, which would rule out the fastest kernels
        attended = self._attend(packing.pack(query), key, value, None)
        return layout.flatten(packing.unpack(attended, layout.length))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
        query, key, value = (self._heads(part) for part in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
        return attended.transpose(1, 2).flatten(2)

    def _heads(self, part: Tensor) -> Tensor:
        return part.reshape(*part.shape[:2], self.heads, -1).transpose(1, 2)


class Intermediate(nn.Module):
    """The feed-forward's first half."""

    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.gelu(self.dense(hidden))


class Output(nn.Module):
    """A linear map back to the hidden width, added to the residual, normalised."""

    def __init__(self, config: MedConfig, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, branch: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(branch)) + residual)  # type: ignore[no-any-return]
