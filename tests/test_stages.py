"""What the stages do to Arrow batches: images of a chunk, statuses, scores at their rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commandline import load
from pipeline.config import Config
from pipeline.manifest import find_manifest
from pipeline.records import Chunk
from pipeline.schema import IMAGES, score_schema, scored_schema
from pipeline.stages import image_blocks, pixel_array, score_images
from tests.echo import EchoScorer
from tests.greys import png

SIZE = 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for grey in (0, 100, 200):
        (tmp_path / f"{grey}.png").write_bytes(png(grey))
    (tmp_path / "junk.png").write_bytes(b"no image at all")
    return tmp_path


def blocks_of(folder: Path, config: Config | None = None, **columns: list[Any]) -> Iterator[pa.Table]:
    config = config or Config()
    pq.write_table(pa.table(columns), folder / "m.parquet")
    config = config.model_copy(update={"input": config.input.model_copy(update={"manifest": [str(folder / "m.parquet")]})})
    manifest = find_manifest(config.input, config.storage, 1000)
    yield from image_blocks(Chunk(0, ((0, manifest.rows),)), manifest, config, SIZE)


def scores_of(blocks: Iterator[pa.Table], *, lists: bool = False) -> dict[int, dict[str, Any]]:
    tables = [score_images(block, EchoScorer(), lists=lists) for block in blocks]
    rows = pa.concat_tables(tables).to_pylist()
    assert len({row["row"] for row in rows}) == len(rows), "each row once"
    return {row["row"]: row for row in sorted(rows, key=lambda row: row["row"])}


def test_every_row_comes_out_with_its_own_score_or_reason(folder: Path) -> None:
    urls = ["200.png", "missing.png", "0.png", "junk.png", "100.png", "0.png", None]
    captions = ["a", "b", "cc", "d", "eee", "ffff", "g"]
    rows = scores_of(blocks_of(folder, url=urls, caption=captions))
    assert [row["status"] for row in rows.values()] == [
        "success", "failed_to_download", "success", "failed_to_decode", "success", "success", "invalid_row",
    ]  # fmt: skip
    assert [row["error_message"] for row in rows.values()] == [None, "not found", None, "not an image", None, None, "no image"]
    for row, (grey, caption) in {0: (200, "a"), 2: (0, "cc"), 4: (100, "eee"), 5: (0, "ffff")}.items():
        assert rows[row]["itm_logit"] == pytest.approx(grey / 255, abs=1e-6)
        assert rows[row]["itc_similarity"] == pytest.approx(len(caption) / 1000)
        assert (rows[row]["original_width"], rows[row]["original_height"]) == (20, 10)
        assert len(rows[row]["image_sha256"]) == 64
    assert all(rows[row]["itm_score"] is None for row in (1, 3, 6))
    assert [rows[row]["caption_tokens"] for row in (0, 1, 3)] == [1, 1, 1], "captions are counted on failed rows too"


def test_an_image_of_several_rows_is_read_once(folder: Path) -> None:
    rows = scores_of(blocks_of(folder, url=["100.png"] * 3, caption=["a", "b", "c"]))
    assert [row["bytes_read"] for row in rows.values()] == [len(png(100)), 0, 0]


def test_lists_of_captions_give_aligned_lists(folder: Path) -> None:
    captions = [["aa", None, "b"], [], None, ["", "ccc"], [None]]
    rows = scores_of(blocks_of(folder, url=["0.png", "0.png", "0.png", "100.png", "0.png"], caption=captions), lists=True)
    assert rows[0]["itc_similarity"] == [pytest.approx(0.002), None, pytest.approx(0.001)]
    assert rows[3]["itm_logit"] == [None, pytest.approx(100 / 255, abs=1e-6)]
    assert [rows[i]["status"] for i in range(5)] == ["success", "invalid_row", "invalid_row", "success", "invalid_row"]
    assert rows[2]["itm_score"] is None


def test_blocks_are_full_of_pixels_however_many_rows_fail(folder: Path) -> None:
    config = Config.model_validate({"compute": {"block_rows": 2}})
    images = [png(grey) if grey % 3 else b"junk" for grey in range(9)]
    blocks = list(blocks_of(folder, config, image=images, caption=["c"] * 9))
    assert [len(block["pixels"]) - block["pixels"].null_count for block in blocks] == [2, 2, 2]
    assert sum(block.num_rows for block in blocks) == 9


def test_a_block_of_failures_is_handed_on_before_it_grows_without_end(folder: Path) -> None:
    config = Config.model_validate({"compute": {"block_rows": 1}})
    blocks = list(blocks_of(folder, config, image=[b"junk"] * 20, caption=["c"] * 20))
    assert [block.num_rows for block in blocks] == [8, 8, 4]
    assert all(row["status"] == "failed_to_decode" for row in scores_of(iter(blocks)).values())


def test_embeddings_are_those_of_the_row_s_image(folder: Path) -> None:
    (block,) = blocks_of(folder, url=["100.png", "missing.png", "0.png"], caption=["a", "b", "c"])
    rows = {r["row"]: r for r in score_images(block, EchoScorer(), lists=False, embedding_dim=32).to_pylist()}
    assert rows[0]["image_embedding"] == pytest.approx([100 / 255] * 32, abs=1e-6)
    assert rows[2]["image_embedding"] == [0] * 32
    assert rows[1]["image_embedding"] is None


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.data())
def test_pixels_are_found_between_nulls_without_a_copy(present: list[bool], data: st.DataObject) -> None:
    images = [np.full((4, 4, 3), number, np.uint8) if there else None for number, there in enumerate(present)]
    column = pa.array([None if image is None else image.tobytes() for image in images], pa.large_binary())
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(present))] * 2)))
    valid = [number for number, there in enumerate(present) if there and first <= number < last]
    if not valid:
        return
    pixels = pixel_array(column.slice(first, last - first))
    assert pixels[:, 0, 0, 0].tolist() == valid
    assert pixels.base is not None, "a view, not a copy"


def test_blocks_have_the_agreed_schemas(folder: Path) -> None:
    (block,) = blocks_of(folder, url=["0.png"], caption=["a"])
    assert block.schema == IMAGES
    assert score_images(block, EchoScorer(), lists=False).schema == scored_schema(score_schema(lists=False))


def test_other_bytes_than_the_expected_hash_says_are_no_success(folder: Path) -> None:
    hashes = [hashlib.sha256(png(grey)).hexdigest() for grey in (0, 100, 200)]
    columns: dict[str, list[Any]] = {
        "url": ["0.png", "100.png", "200.png", "0.png", "0.png", "missing.png", "junk.png"],
        "caption": list("abcdefg"),
        "sha256": [hashes[0], hashes[1].upper(), hashes[0], None, hashes[2], hashes[0], hashes[0]],
    }
    named = load(None, {"input": {"columns": {"sha256": "sha256"}}})
    rows = scores_of(blocks_of(folder, named, **columns))
    changed, missing = ("failed_to_download", "content changed"), ("failed_to_download", "not found")
    good = ("success", None)
    outcomes = [(row["status"], row["error_message"]) for row in rows.values()]
    assert outcomes == [good, good, changed, good, changed, missing, changed]
    assert rows[2]["image_sha256"] == hashes[2], "what came instead"
    not_named = scores_of(blocks_of(folder, **columns))
    assert [row["error_message"] for row in not_named.values()] == [None] * 5 + ["not found", "not an image"]


def test_bytes_in_the_row_are_held_against_the_hash_too(folder: Path) -> None:
    columns: dict[str, list[Any]] = {
        "image": [png(0), png(0)],
        "caption": ["a", "b"],
        "sum": [hashlib.sha256(png(0)).hexdigest(), "not even a hash"],
    }
    rows = scores_of(blocks_of(folder, load(None, {"input": {"columns": {"sha256": "sum"}}}), **columns))
    assert [row["error_message"] for row in rows.values()] == [None, "content changed"]
