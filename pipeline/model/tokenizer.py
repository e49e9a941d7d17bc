"""Captions to token ids: BERT's uncased WordPiece with BLIP's two extra tokens, run by the Rust library `tokenizers`.

Owns the shipped vocabulary and the 35-token limit. Gives the ids that Hugging Face's BertTokenizer gives. Needs no network
and no torch: the arrays are numpy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

MAX_TOKENS = 35  # BLIP's retrieval models saw captions of at most 35 tokens, [CLS] and [SEP] among them
DEFAULT_VOCAB_FILE = Path(__file__).with_name("vocab") / "bert-base-uncased.txt"
BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BLIP_TOKENS = ("[DEC]", "[ENC]")


class TokenBatch(NamedTuple):
    """n captions, padded at the right to the longest of them, L <= 35 tokens."""

    input_ids: npt.NDArray[np.int64]  # (n, L)
    attention_mask: npt.NDArray[np.int64]  # (n, L), 1 on tokens, 0 on padding
    lengths: npt.NDArray[np.int64]  # (n,) tokens before truncation, [CLS] and [SEP] among them


class Word(NamedTuple):
    """A word of a caption, and which tokens it became."""

    text: str  # as in the caption
    start: int  # of its first token, among the caption's ids
    stop: int  # behind its last one that the model sees


class CaptionTokenizer:
    """A WordPiece vocabulary in use. Made by `init_tokenizer`."""

    def __init__(self, vocab: Sequence[str], *, max_tokens: int = MAX_TOKENS) -> None:
        ids = {token: index for index, token in enumerate(vocab)}
        if len(ids) != len(vocab):
            raise ValueError(f"the vocabulary repeats {len(vocab) - len(ids)} of its {len(vocab)} entries")
        absent = [token for token in BERT_TOKENS[:4] if token not in ids]
        if absent:
            raise ValueError(f"the vocabulary lacks {', '.join(absent)}: it is not a BERT vocabulary")
        self.vocab = tuple(vocab)
        self.max_tokens = max_tokens
        self._tokenizer = _build(ids)
        self.pad_token_id = ids["[PAD]"]
        self.cls_token_id = ids["[CLS]"]
        self.sep_token_id = ids["[SEP]"]
        every = self._tokenizer.get_vocab()
        self.bos_token_id, self.enc_token_id = (every[token] for token in BLIP_TOKENS)

    def __len__(self) -> int:
        """Entries of the vocabulary, [DEC] and [ENC] among them: the least number of word embeddings a model needs."""
        return self._tokenizer.get_vocab_size()

    def __call__(self, captions: str | Sequence[str]) -> TokenBatch:
        """Encode one caption or many. TypeError names the first that is not a string."""
        encoded = self._encode([captions] if isinstance(captions, str) else list(captions))
        lengths = np.fromiter((len(ids) for ids in encoded), np.int64, len(encoded))
        shape = (len(encoded), int(min(self.max_tokens, lengths.max(initial=0))))
        input_ids = np.full(shape, self.pad_token_id, np.int64)
        for row, ids in zip(input_ids, encoded, strict=True):
            if len(ids) <= self.max_tokens:
                row[: len(ids)] = ids
            else:
                row[:-1] = ids[: self.max_tokens - 1]
                row[-1] = self.sep_token_id
        mask = np.arange(shape[1]) < lengths[:, None]
        return TokenBatch(input_ids, mask.astype(np.int64), lengths)

    def lengths(self, captions: Sequence[str]) -> npt.NDArray[np.int64]:
        """(n,) tokens of each caption before truncation, [CLS] and [SEP] among them."""
        return np.fromiter((len(ids) for ids in self._encode(list(captions))), np.int64, len(captions))

    def words(self, caption: str) -> list[Word]:
        """The words of a caption that the model sees, in order. A punctuation mark is one, [CLS] and [SEP] are none."""
        encoding = self._tokenizer.encode(_without_surrogates(caption))
        words: list[Word] = []
        last = None
        for token, word in enumerate(encoding.word_ids):
            if word is None:
                continue
            if len(encoding.ids) > self.max_tokens and token >= self.max_tokens - 1:  # cut off
                break
            start, stop = encoding.offsets[token]
            if word == last:
                words[-1] = Word(words[-1].text + caption[start:stop], words[-1].start, token + 1)
            else:
                words.append(Word(caption[start:stop], token, token + 1))
            last = word
        return words

    def _encode(self, captions: list[str]) -> list[list[int]]:
        for index, caption in enumerate(captions):
            if not isinstance(caption, str):
                raise TypeError(f"caption {index} is not a string but {type(caption).__name__}")
        try:
            encodings = self._tokenizer.encode_batch_fast(captions)
        except TypeError:  # a lone surrogate
            encodings = self._tokenizer.encode_batch_fast([_without_surrogates(caption) for caption in captions])
        return [encoding.ids for encoding in encodings]


def _without_surrogates(caption: str) -> str:
    """Lone surrogates, which no UTF-8 can hold, as U+FFFD: what decoders put there, and BERT drops. Length and places stay."""
    return caption.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def init_tokenizer(vocab_file: str | Path | None = None) -> CaptionTokenizer:
    """The tokenizer of a vocabulary file, one entry a line; without one, of the shipped BERT base uncased vocabulary.

    [DEC] and [ENC] are added behind the vocabulary's own entries (ids 30522 and 30523) unless it has them.
    Raises FileNotFoundError, or ValueError for a file that is not a BERT vocabulary.
    """
    return CaptionTokenizer(read_vocab(DEFAULT_VOCAB_FILE if vocab_file is None else Path(vocab_file)))


def read_vocab(path: Path) -> list[str]:
    """The entries of a vocabulary file, in order. ValueError if it is not UTF-8 text."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a vocabulary: it is not UTF-8 text") from None
    return text.removesuffix("\n").split("\n")


def _build(ids: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    special = [token for token in BERT_TOKENS if token in ids] + list(BLIP_TOKENS)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    return tokenizer
