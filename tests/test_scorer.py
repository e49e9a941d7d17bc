"""One replica: pixels and captions in, the model's own numbers out, whatever way the batch is cut."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.device import MEAN, STD, choose_device, choose_precision
from pipeline.model import BLIP_ITM, save_checkpoint
from pipeline.model.linears import Int8Linear
from pipeline.schema import ScorerProtocol, Scores
from pipeline.scorer import Scorer, load_scorer
from tests.model.builders import CAPTIONS, SMALL_SIZE, small_model

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(small_model(), device="cpu")


def pixels(count: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, SMALL_SIZE, SMALL_SIZE, 3), dtype=np.uint8)


@functools.cache
def reference() -> BLIP_ITM:
    return small_model()


def by_the_book(images: Pixels, captions: list[str]) -> Scores:
    """`forward` of each head, pair by pair, normalised as torchvision would."""
    model = reference()
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    normalised = (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.inference_mode():
        logits = torch.cat([model(image[None], [text]) for image, text in zip(normalised, captions, strict=True)])
        cosine = torch.cat([model(image[None], [text], "itc")[0] for image, text in zip(normalised, captions, strict=True)])
        embedding = model.image_embedding(model.encode_image(normalised))
    return Scores(logits.numpy(), logits.softmax(1)[:, 1].numpy(), cosine.numpy(), embedding.numpy())


def assert_close(found: Scores, expected: Scores, atol: float = 2e-5) -> None:
    for name in Scores._fields:
        part = getattr(found, name)
        if part is None:
            continue
        assert part.dtype == np.float32
        np.testing.assert_allclose(part, getattr(expected, name), rtol=0, atol=atol, err_msg=name)


def test_is_what_the_stream_asks_for(scorer: Scorer) -> None:
    protocol: ScorerProtocol = scorer
    assert protocol is scorer


def test_one_caption_an_image(scorer: Scorer) -> None:
    assert_close(scorer.score(pixels(5), CAPTIONS), by_the_book(pixels(5), CAPTIONS))


@pytest.mark.parametrize("counts", [[5, 0, 0], [0, 0, 5], [2, 0, 3], [1, 3, 1], [5]])
def test_lists_of_captions(scorer: Scorer, counts: list[int]) -> None:
    images = pixels(len(counts))
    owner = np.repeat(np.arange(len(counts)), counts)
    lists = [[CAPTIONS[index] for index in np.flatnonzero(owner == image)] for image in range(len(counts))]
    found = scorer.score(images, lists)
    expected = by_the_book(images[owner], CAPTIONS)
    assert found.image_embedding is not None
    assert found.image_embedding.shape == (len(counts), 24)
    assert_close(found._replace(image_embedding=found.image_embedding[owner]), expected)


def test_scores_do_not_depend_on_the_rest_of_the_batch(scorer: Scorer) -> None:
    images = pixels(5)
    order = [3, 0, 4, 1, 2]
    together = scorer.score(images, CAPTIONS)
    shuffled = scorer.score(images[order], [CAPTIONS[index] for index in order])
    assert_close(shuffled, Scores(*(part[order] for part in together)))
    assert_close(scorer.score(images[2:3], CAPTIONS[2:3]), Scores(*(part[2:3] for part in together)))


def test_nothing_in_nothing_out(scorer: Scorer) -> None:
    for images, captions in ((pixels(0), []), (pixels(2), [[], []])):
        scores = scorer.score(images, captions)
        assert [part.shape for part in scores] == [(0, 2), (0,), (0,), (len(images), 24)]
        assert {part.dtype for part in scores} == {np.dtype(np.float32)}
    alone = scorer.score(pixels(2), ["a", "b"]).image_embedding
    np.testing.assert_allclose(scores.image_embedding, alone, rtol=0, atol=1e-6)


def test_arrays_from_arrow_and_views(scorer: Scorer) -> None:
    images = pixels(10)
    expected = scorer.score(np.ascontiguousarray(images[::2]), CAPTIONS)
    images.flags.writeable = False
    assert_close(scorer.score(images[::2], CAPTIONS), expected, atol=0)
    assert not np.array_equal(scorer.score(images[::2, ::-1], CAPTIONS).itm_logits, expected.itm_logits)


@pytest.mark.parametrize(
    ("images", "captions", "message"),
    [
        (pixels(1).astype(np.float32), ["a"], "numpy array of uint8, not float32"),
        ([[1]], ["a"], "numpy array of uint8, not list"),
        (pixels(1)[0], ["a"], r"shape \(B, 48, 48, 3\), not \(48, 48, 3\)"),
        (pixels(1).transpose(0, 3, 1, 2), ["a"], r"shape \(B, 48, 48, 3\), not \(1, 3, 48, 48\)"),
        (pixels(1)[:, :32], ["a"], r"not \(1, 32, 48, 3\)"),
        (pixels(2), ["a"], r"1 captions \(or lists of captions\) for 2 images"),
        (pixels(1), "a", "one string for 1 images"),
    ],
)
def test_bad_input_is_named(scorer: Scorer, images: Any, captions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scorer.score(images, captions)


def test_caption_lengths(scorer: Scorer) -> None:
    lengths = scorer.caption_lengths(["", "a cat", "cat " * 33, "cat " * 34, "cat " * 40_000])
    assert lengths.tokens.tolist() == [2, 4, 35, 36, 32_767]
    assert lengths.tokens.dtype == np.int16
    assert lengths.truncated.tolist() == [False, False, False, True, True]
    assert scorer.caption_lengths([]).tokens.shape == (0,)


def test_low_precision_of_encoders_with_heads_in_float32() -> None:
    low = Scorer(small_model(), device="cpu", precision="bfloat16")
    assert (
        low.model.visual_encoder.norm.weight.dtype == low.model.text_encoder.embeddings.LayerNorm.weight.dtype == torch.bfloat16
    )
    assert low.model.itm_head.weight.dtype == low.model.vision_proj.weight.dtype == torch.float32
    expected = by_the_book(pixels(5), CAPTIONS)
    found = low.score(pixels(5), CAPTIONS)
    assert_close(found, expected, atol=0.2)
    assert not np.array_equal(found.itm_logits, expected.itm_logits)


def test_the_model_is_in_eval_mode() -> None:
    scorer = Scorer(small_model().train(), device="cpu")
    assert_close(scorer.score(pixels(2), ["a", "b"]), scorer.score(pixels(2), ["a", "b"]), atol=0)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float32)],
)
def test_precision_by_what_the_gpu_has(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", torch.device("cuda")) == dtype
    assert choose_precision("float32", torch.device("cuda")) == torch.float32
    assert choose_precision("auto", torch.device("cpu")) == torch.float32
    with pytest.raises(ValueError, match="precision 'int8' is for CPUs, not for cuda"):
        choose_precision("int8", torch.device("cuda"))


def test_devices_and_precisions_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="device 'cuda:3' is not there: this process sees 0 GPUs"):
        choose_device("cuda:3")
    with pytest.raises(ValueError, match="device 'toaster' is not one"):
        choose_device("toaster")
    with pytest.raises(ValueError, match="precision 'int4' is not one of 'auto', 'float32'"):
        choose_precision("int4", torch.device("cpu"))


def test_load_scorer(tmp_path: Path) -> None:
    save_checkpoint(small_model(), tmp_path)
    scorer = load_scorer(str(tmp_path), device="cpu")
    assert_close(scorer.score(pixels(5), CAPTIONS), by_the_book(pixels(5), CAPTIONS))
    larger = load_scorer(str(tmp_path), image_size=64, device="cpu", precision="bfloat16", itm_first_token="enc")
    assert (larger.image_size, larger.dtype, larger.model.itm_first_token) == (64, torch.bfloat16, "enc")


# ------------------------------------------------------------------ the same numbers, however they are computed

WORDS = st.lists(st.sampled_from(["a", "cat", "[PAD]", "zebra", "unfathomably", "."]), max_size=40).map(" ".join)


@given(lists=st.lists(st.lists(WORDS, max_size=4), min_size=1, max_size=4), batch_size=st.integers(1, 3), repeat=st.booleans())
@settings(deadline=None, max_examples=15)
def test_mixed_lengths_repeats_and_uneven_lists(scorer: Scorer, lists: list[list[str]], batch_size: int, repeat: bool) -> None:
    if repeat:
        lists = [own + lists[0][:2] for own in lists]
    images = pixels(len(lists))
    scorer.batch_size = batch_size
    found = scorer.score(images, lists)
    scorer.batch_size = None
    owner = np.repeat(np.arange(len(lists)), [len(own) for own in lists])
    flat = [text for own in lists for text in own]
    assert found.itm_score.shape == (len(flat),)
    if flat:
        expected = by_the_book(images[owner], flat)
        assert_close(found._replace(image_embedding=None), expected._replace(image_embedding=None))


def test_a_repeated_caption_runs_once() -> None:
    scorer = Scorer(small_model(), "cpu")
    rows = []
    scorer.model.text_encoder.encoder.layer[0].register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    lists = [["a cat", "a cat", "a zebra crossing"], ["a cat"]]
    tokens = scorer.caption_lengths(["a cat", "a zebra crossing"]).tokens
    found = scorer.score(pixels(2), lists)
    assert sorted(rows) == sorted([tokens.sum(), 2 * tokens[0] + tokens[1]])  # alone; with each image
    assert found.itm_logits[0].tolist() == found.itm_logits[1].tolist() != found.itm_logits[3].tolist()


def test_batches_within_a_call_change_nothing() -> None:
    whole, cut = Scorer(small_model(), "cpu"), Scorer(small_model(), "cpu", batch_size=2)
    assert_close(cut.score(pixels(5), CAPTIONS), whole.score(pixels(5), CAPTIONS))


class RunsOut(torch.nn.Module):
    """A vision encoder with memory for so many images."""

    def __init__(self, encoder: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.encoder, self.most, self.seen = encoder, most, list[int]()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(image))
        if len(image) > self.most:
            raise torch.OutOfMemoryError("no memory left")
        return self.encoder(image)


def test_out_of_memory_halves_the_batch_and_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.scorer.CPU_SLICE", 1_000)  # the encoder sees whole batches, as on a GPU
    scorer = Scorer(small_model(), "cpu", batch_size=16)
    encoder = RunsOut(scorer.model.visual_encoder, 4)
    scorer.model.visual_encoder = encoder
    captions = [CAPTIONS[index % 5] for index in range(13)]
    assert_close(scorer.score(pixels(13), captions), by_the_book(pixels(13), captions))
    assert encoder.seen == [13, 6, 3, 3, 3, 3, 1]
    encoder.seen.clear()
    assert_close(scorer.score(pixels(5), CAPTIONS), by_the_book(pixels(5), CAPTIONS))
    assert encoder.seen == [3, 2]
    assert scorer.batch_size == 3


def test_an_image_too_large_for_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer(small_model(), "cpu")
    scorer.model.visual_encoder = RunsOut(scorer.model.visual_encoder, 0)
    with pytest.raises(torch.OutOfMemoryError):
        scorer.score(pixels(3), CAPTIONS[:3])


def test_int8_stays_near_and_keeps_the_heads_in_float32() -> None:
    rounded = Scorer(small_model(), "cpu", "int8")
    found, expected = rounded.score(pixels(5), CAPTIONS), by_the_book(pixels(5), CAPTIONS)
    assert_close(found, expected, atol=0.15)
    assert not np.array_equal(found.itm_logits, expected.itm_logits)
    assert rounded.model.itm_head.weight.dtype == rounded.model.text_proj.weight.dtype == torch.float32
    kinds = {module.weight.dtype for module in rounded.model.text_encoder.modules() if isinstance(module, Int8Linear)}
    assert kinds == {torch.int8}
    assert not any(isinstance(module, torch.nn.Linear) for module in rounded.model.visual_encoder.modules())


def test_int8_rounds_each_token_by_its_own_scale() -> None:
    linear = torch.nn.Linear(64, 32)
    rows = torch.randn(7, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 7)[:, None]
    rows[0] = 0
    with torch.inference_mode():
        found, expected = Int8Linear(linear)(rows), linear(rows)
    size = (expected - linear.bias).norm(dim=1)
    assert ((found - expected).norm(dim=1) <= 0.02 * size + 1e-6).all()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_layers_give_the_same_numbers() -> None:
    scorer = Scorer(small_model(), "cpu", batch_size=4, compile=True)
    for lists in ([[text] for text in CAPTIONS], [[CAPTIONS[0]], CAPTIONS, []]):
        owner = np.repeat(np.arange(len(lists)), [len(own) for own in lists])
        images, flat = pixels(len(lists)), [text for own in lists for text in own]
        found = scorer.score(images, lists)
        assert_close(found._replace(image_embedding=None), by_the_book(images[owner], flat)._replace(image_embedding=None))
