"""The same ids as Hugging Face's BertTokenizer with BLIP's two tokens, whatever the text."""

from __future__ import annotations

import pickle
import random
import shutil
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from pipeline.model import init_tokenizer
from pipeline.model.tokenizer import DEFAULT_VOCAB_FILE, CaptionTokenizer

TOKENIZER = init_tokenizer()

FRAGMENTS = [
    *(
        "a cat on the mat",
        "Naïve café",
        "ÅNGSTRÖM",
        "straße",
        "İstanbul",
        "ŒUVRE",
        "Ελληνικά",
        "Привет мир",
        "שלום",
        "مرحبا",
        "नमस्ते",
        "สวัสดี",
    ),
    *(
        "猫が好き",
        "北京欢迎你",
        "한국어",
        "𠜎𠜱",
        "😀",
        "👩‍👩‍👧‍👦",
        "🇩🇪",
        "e\u0301\u0327",
        "\u00ad",
        "\u200b",
        "\u200d",
        "\ufeff",
        "\ufffd",
        "\u202e",
    ),
    *(
        "\x00",
        "\x07",
        "\x7f",
        "\x85",
        "\u2028",
        "\t",
        "\r\n",
        "\v",
        " ",
        "\u00a0",
        "\u3000",
        "[CLS]",
        "[SEP]",
        "[PAD]",
        "[UNK]",
        "[MASK]",
    ),
    *(
        "[DEC]",
        "[ENC]",
        "[enc]",
        "[unused1]",
        "##ing",
        "##",
        "don't",
        "http://x.y/z?q=1&r=%20",
        "<b>bold</b>",
        "&amp;",
        "$1,000.00",
        "a_b-c",
    ),
    *(
        "x" * 99,
        "x" * 100,
        "x" * 101,
        "antidisestablishmentarianism",
        "ﬁligree",
        "Ⅷ",
        "½",
        "①",
        "ＦＵＬＬ",
        "\U0001d50a",
        "\U000e0001",
        "\U0010ffff",
    ),
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizer:
    folder = tmp_path_factory.mktemp("bert")
    shutil.copy(DEFAULT_VOCAB_FILE, folder / "vocab.txt")
    tokenizer = BertTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 30_522  # transformers makes an empty vocabulary, silently, where it finds none
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    return tokenizer


def assert_same(reference: BertTokenizer, captions: list[str]) -> None:
    expected = reference(captions, padding="longest", truncation=True, max_length=35)
    batch = TOKENIZER(captions)
    assert batch.input_ids.tolist() == expected["input_ids"]
    assert batch.attention_mask.tolist() == expected["attention_mask"]
    assert batch.lengths.tolist() == [len(ids) for ids in reference(captions)["input_ids"]]


@pytest.mark.filterwarnings("ignore")
def test_thousands_of_hostile_captions(reference: BertTokenizer) -> None:
    rng = random.Random(0)
    captions = ["", *FRAGMENTS]
    captions += [rng.choice(["", " "]).join(rng.choices(FRAGMENTS, k=rng.randint(1, 12))) for _ in range(3000)]
    points = [code for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cs", "Cn", "Co")]
    captions += ["".join(map(chr, rng.choices(points, k=20))) for _ in range(1000)]
    for start in range(0, len(captions), 500):
        assert_same(reference, captions[start : start + 500])


@pytest.mark.filterwarnings("ignore")
@given(captions=st.lists(st.text() | st.lists(st.sampled_from(FRAGMENTS)).map(" ".join), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_any_text(reference: BertTokenizer, captions: list[str]) -> None:
    assert_same(reference, captions)


@pytest.mark.parametrize("unit", ["a red cat ", "x", "猫", " ", "é", "!", "😀", "e\u0301", "[SEP]"])
def test_100_kilobytes_are_right_and_quick(reference: BertTokenizer, unit: str) -> None:
    caption = unit * (100_000 // len(unit.encode()))
    start = time.perf_counter()
    batch = TOKENIZER(caption)
    assert time.perf_counter() - start < 5  # 0.05 on an idle core
    assert batch.input_ids[0].tolist() == reference(caption, truncation=True, max_length=35)["input_ids"]


def test_lone_surrogates_are_as_if_replaced_by_a_decoder() -> None:
    captions = ["a \ud800cat", "\udfff", "whole pair \U0001f600", "plain"]
    clean = ["a \ufffdcat", "\ufffd", "whole pair \U0001f600", "plain"]
    assert TOKENIZER(captions).input_ids.tolist() == TOKENIZER(clean).input_ids.tolist()
    assert TOKENIZER("\ud83d\ude00").input_ids.tolist() == TOKENIZER("\U0001f600").input_ids.tolist()


def test_special_ids() -> None:
    assert (TOKENIZER.pad_token_id, TOKENIZER.cls_token_id, TOKENIZER.sep_token_id) == (0, 101, 102)
    assert (TOKENIZER.bos_token_id, TOKENIZER.enc_token_id, len(TOKENIZER)) == (30_522, 30_523, 30_524)


def test_shapes_and_truncation() -> None:
    batch = TOKENIZER(["cat", "cat " * 33, "cat " * 34])
    assert batch.input_ids.shape == (3, 35)
    assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64
    assert batch.lengths.tolist() == [3, 35, 36]
    assert batch.input_ids[:, -1].tolist() == [0, 102, 102]
    assert TOKENIZER([]).input_ids.shape == (0, 0)
    assert TOKENIZER.lengths(["", "cat"]).tolist() == [2, 3]


@pytest.mark.parametrize("bad", [None, 3, b"cat", float("nan")])
def test_what_is_no_string_is_named(bad: object) -> None:
    with pytest.raises(TypeError, match=f"caption 1 is not a string but {type(bad).__name__}"):
        TOKENIZER(["a cat", bad])  # type: ignore[list-item]


def test_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(TOKENIZER))("a cat").input_ids.tolist() == TOKENIZER("a cat").input_ids.tolist()


def test_own_vocabulary_file(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[ENC]\nred\n##der\n")
    tokenizer = init_tokenizer(path)
    assert tokenizer("Redder blue").input_ids.tolist() == [[2, 5, 6, 1, 3]]
    assert (tokenizer.enc_token_id, tokenizer.bos_token_id, len(tokenizer)) == (4, 7, 8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"red\nblue\n", r"lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\]"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nred\nred\n", "repeats 1 of its 6 entries"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_vocabulary(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        init_tokenizer(path)


def test_counts_survive_odd_vocabularies() -> None:
    tokenizer = CaptionTokenizer(["[UNK]", "[CLS]", "[SEP]", "[PAD]"], max_tokens=4)
    batch = tokenizer(["", "one two three"])
    assert batch.input_ids.tolist() == [[1, 2, 3, 3], [1, 0, 0, 2]]
    assert batch.lengths.tolist() == [2, 5]
