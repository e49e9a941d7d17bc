"""BLIP_ITM: an image encoder, a text encoder and two heads that say how well a caption fits an image.

Owns how the parts are put together, the two published ways to call them (`forward`) and the one-pass way (`score_pairs`).
Knows nothing of files, URLs, devices or precision. The model is described in arXiv:2201.12086 and the names are its authors'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.med import MedConfig, TextEncoder
from pipeline.model.packing import Packing, pack_captions, to_device
from pipeline.model.texts import Layout, Texts, plan_texts, real_lengths
from pipeline.model.tokenizer import CaptionTokenizer, init_tokenizer
from pipeline.model.vit import VitShape, create_vit

ItmFirstToken = Literal["cls", "enc"]


class PairScores(NamedTuple):
    """Both heads' answers for n (image, caption) pairs of B images."""

    itm_logits: Tensor  # (n, 2): mismatch, match
    itc_similarity: Tensor  # (n,): cosine of the pair
    image_embedding: Tensor  # (B, embed_dim): of length one, of each image


class BLIP_ITM(nn.Module):  # noqa: N801 the published name
    """BLIP for image-text retrieval.

    med_config: JSON file or mapping of the text encoder's sizes; `encoder_width` is set to the vision encoder's width.
    image_size: pixels a side, a multiple of 16. vit: "base", "large", "tiny", or a shape of one's own. embed_dim: width of
    the space in which cosines are taken. itm_first_token: what stands before the text of the matching head, "cls" as in the
    authors' demo and Hugging Face, or "enc" as in training and LAVIS. tokenizer: of a vocabulary of one's own; None: the
    shipped one. Raises ValueError for parts that do not fit together, FileNotFoundError for a missing med_config.
    """

    def __init__(
        self,
        med_config: str | Path | Mapping[str, Any] | MedConfig = "configs/med_config.json",
        image_size: int = 384,
        vit: str | VitShape = "base",
        vit_grad_ckpt: bool = False,
        vit_ckpt_layer: int = 0,
        embed_dim: int = 256,
        *,
        itm_first_token: ItmFirstToken = "cls",
        tokenizer: CaptionTokenizer | None = None,
    ) -> None:
        super().__init__()
        self.visual_encoder, vision_width = create_vit(vit, image_size, vit_grad_ckpt, vit_ckpt_layer)
        config = MedConfig.read(med_config).with_encoder_width(vision_width)
        self.tokenizer = tokenizer or init_tokenizer()
        _check_vocabulary(self.tokenizer, config)
        if itm_first_token not in ("cls", "enc"):
            raise ValueError(f"itm_first_token {itm_first_token!r} is not one of 'cls', 'enc'")
        self.itm_first_token = itm_first_token
        self.text_encoder = TextEncoder(config)
        self.vision_proj = nn.Linear(vision_width, embed_dim)
        self.text_proj = nn.Linear(config.hidden_size, embed_dim)
        self.itm_head = nn.Linear(config.hidden_size, 2)

    def forward(self, image: Tensor, caption: str | Sequence[str], match_head: str = "itm") -> Tensor:
        """Score images against captions with one head, as the published model does.

        image: (B, 3, S, S) float, normalised. "itm": B captions, one an image -> logits (B, 2) of mismatch and match.
        "itc": B' captions -> cosines (B, B'). Raises ValueError for another head, image shape or number of captions.
        """
        captions = [caption] if isinstance(caption, str) else list(caption)
        if match_head == "itm":
            if image.ndim == 4 and len(captions) != len(image):
                raise ValueError(
                    f"the itm head needs one caption an image, not {len(captions)} captions for {len(image)} images"
                )
            image_tokens = self.encode_image(image)
            return self.match_logits(image_tokens, *self.tokenize(captions))
        if match_head == "itc":
            image_embedding = self.image_embedding(self.encode_image(image))
            return image_embedding @ self.text_embedding(*self.tokenize(captions)).T
        raise ValueError(f"match_head {match_head!r} is not one of 'itm', 'itc'")

    def score_pairs(
        self, image: Tensor, input_ids: Tensor, attention_mask: Tensor, image_index: Tensor | None = None
    ) -> PairScores:
        """Both heads for n pairs in one pass: each image is encoded once, and so are its cross-attention keys and values.

        image: (B, 3, S, S) float, normalised. The rest is as in `score_texts`. Equals `forward` of each head. Raises
        ValueError as `forward` does.
        """
        return self.score_texts(self.encode_image(image), input_ids, attention_mask, image_index)

    def score_texts(
        self,
        image_tokens: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_index: Tensor | None = None,
        *,
        few_shapes: bool = False,
    ) -> PairScores:
        """Both heads for n pairs of encoded images (B, T, vision width) and captions.

        input_ids, attention_mask: (n, L), from `tokenize`; only tokens are computed, no padding, and repeated captions once.
        image_index: (n,), the image of each caption; None: caption i is image i's. These three best on the CPU.
        few_shapes: sizes are rounded up, for a compiled model. Raises ValueError where indices and counts disagree.
        """
        device, count = image_tokens.device, len(input_ids)
        on_host = None if image_index is None else image_index.cpu()
        packing = pack_captions(on_host, len(image_tokens), count)
        plan = plan_texts(Texts(input_ids.cpu(), attention_mask.cpu()), on_host, few_shapes=few_shapes)
        if plan.paired_image is not on_host:
            packing = pack_captions(plan.paired_image, len(image_tokens), len(plan.paired.input_ids))
        alone = self.text_embedding(*self._laid_out(plan.alone, few_shapes))
        itm_logits = self._match_logits(image_tokens, *self._laid_out(plan.paired, few_shapes), packing=packing)
        image_embedding = self.image_embedding(image_tokens)
        own = image_embedding if on_host is None else image_embedding[to_device(on_host, device)]
        return PairScores(
            itm_logits=itm_logits if plan.paired_of is None else itm_logits[to_device(plan.paired_of, device)],
            itc_similarity=(own * alone[to_device(plan.alone_of, device)]).sum(dim=-1),
            image_embedding=image_embedding,
        )

    def _laid_out(self, texts: Texts, few_shapes: bool) -> tuple[Tensor, Tensor, Layout]:
        device = self.itm_head.weight.device
        layout = real_lengths(texts.attention_mask, few_shapes=few_shapes).to(device)
        return to_device(texts.input_ids, device), to_device(texts.attention_mask, device), layout

    def tokenize(self, captions: str | Sequence[str]) -> tuple[Tensor, Tensor]:
        """(input_ids, attention_mask), each (n, L) int64 on the model's device, L the longest caption's tokens, at most 35."""
        batch = self.tokenizer(captions)
        device = self.itm_head.weight.device
        return torch.from_numpy(batch.input_ids).to(device), torch.from_numpy(batch.attention_mask).to(device)

    def encode_image(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) float, normalised -> (B, T, vision width), CLS first."""
        return self.visual_encoder(image)  # type: ignore[no-any-return]

    def encode_text(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_tokens: Tensor | None = None,
        image_index: Tensor | None = None,
    ) -> Tensor:
        """(n, L) ids -> hidden states (n, L, text width), alone or together with images; `image_index` as in `score_pairs`."""
        if image_tokens is None:
            return self.text_encoder(input_ids, attention_mask)  # type: ignore[no-any-return]
        packing = pack_captions(image_index, len(image_tokens), len(input_ids))
        return self.text_encoder(input_ids, attention_mask, image_tokens, packing)  # type: ignore[no-any-return]

    def image_embedding(self, image_tokens: Tensor) -> Tensor:
        """(B, T, vision width) -> (B, embed_dim), of length one."""
        return F.normalize(self.vision_proj(image_tokens[:, 0].to(self.vision_proj.weight.dtype)), dim=-1)

    def text_embedding(self, input_ids: Tensor, attention_mask: Tensor, layout: Layout | None = None) -> Tensor:
        """(n, L) ids -> (n, embed_dim), of length one; the image plays no part. layout: of the mask's tokens, if planned."""
        hidden = self.text_encoder(input_ids, attention_mask, layout=layout)
        return F.normalize(self.text_proj(hidden[:, 0].to(self.text_proj.weight.dtype)), dim=-1)

    def match_logits(
        self, image_tokens: Tensor, input_ids: Tensor, attention_mask: Tensor, image_index: Tensor | None = None
    ) -> Tensor:
        """Logits (n, 2) of mismatch and match; `image_index` as in `score_pairs`."""
        packing = pack_captions(image_index, len(image_tokens), len(input_ids))
        return self._match_logits(image_tokens, input_ids, attention_mask, packing=packing)

    def matching_ids(self, input_ids: Tensor) -> Tensor:
        """(n, L) ids as the matching head's text begins: with [CLS], or with [ENC] in a copy."""
        if self.itm_first_token == "enc":
            input_ids = input_ids.clone()
            input_ids[:, 0] = self.tokenizer.enc_token_id
        return input_ids

    def _match_logits(
        self,
        image_tokens: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        layout: Layout | None = None,
        *,
        packing: Packing,
    ) -> Tensor:
        hidden = self.text_encoder(self.matching_ids(input_ids), attention_mask, image_tokens, packing, layout)
        return self.itm_head(hidden[:, 0].to(self.itm_head.weight.dtype))  # type: ignore[no-any-return]


def _check_vocabulary(tokenizer: CaptionTokenizer, config: MedConfig) -> None:
    if len(tokenizer) > config.vocab_size:
        raise ValueError(f"the tokenizer has {len(tokenizer)} entries, but vocab_size of med_config is {config.vocab_size}")
    if tokenizer.max_tokens > config.max_position_embeddings:
        positions = config.max_position_embeddings
        raise ValueError(f"captions have up to {tokenizer.max_tokens} tokens, but max_position_embeddings is {positions}")
    if tokenizer.pad_token_id != config.pad_token_id:
        raise ValueError(
            f"[PAD] is {tokenizer.pad_token_id} in the tokenizer, but pad_token_id of med_config is {config.pad_token_id}"
        )


def blip_itm(pretrained: str = "", **kwargs: Any) -> BLIP_ITM:
    """A BLIP_ITM with `kwargs`, and with the weights of the checkpoint `pretrained` where one is named.

    Raises CheckpointError if the checkpoint cannot be read or lacks a tensor of the model; the error lists what is missing.
    """
    from pipeline.model.checkpoint import load_checkpoint, require_complete

    model = BLIP_ITM(**kwargs)
    if pretrained:
        _, message = load_checkpoint(model, pretrained)
        require_complete(message, pretrained)
    return model
