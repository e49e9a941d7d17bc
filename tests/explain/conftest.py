"""A small scored output of rendered scenes, and the demo model that explains it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.explain.explainer import Explainer, load_explainer
from pipeline.scenes.evaluation import scene_captions
from pipeline.scenes.render import render_jpeg
from pipeline.scenes.scene import DEMO
from tests.explain.outputs import score

SCENES = 8  # two captions each: the true one and another scene's
GONE = "gone.jpg"


@pytest.fixture(scope="module")
def explainer() -> Iterator[Explainer]:
    """The demo model, on one thread: several are slow beside other work, and images are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_explainer("", device="cpu")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered scenes as files beside their manifest, the last of which is missing."""
    folder = tmp_path_factory.mktemp("scenes")
    rows = [scene_captions(DEMO, index, 100) for index in range(SCENES)]
    for number, row in enumerate(rows):
        (folder / f"{number}.jpg").write_bytes(render_jpeg(row.scene))
    urls = [f"{number}.jpg" for number in range(SCENES) for _ in range(2)] + [GONE]
    captions = [caption for row in rows for caption in (row.true, row.other)] + ["a lost picture"]
    table = pa.table({"uid": [f"row-{n}" for n in range(len(urls))], "url": urls, "caption": captions})
    pq.write_table(table, folder / "m.parquet")
    return folder / "m.parquet"


@pytest.fixture(scope="module")
def scored(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return score(manifest, tmp_path_factory.mktemp("run") / "scored")
