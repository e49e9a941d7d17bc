"""Explanations of a scored output: which rows, whose model, what the folder holds, what becomes of failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import Config
from pipeline.errors import ConfigError, ManifestError, OutputError
from pipeline.explain.explainer import Explainer, load_explainer
from pipeline.explain.run import ExplainSummary, explain
from pipeline.images import decode
from pipeline.scenes.evaluation import scene_captions
from pipeline.scenes.render import render_jpeg
from pipeline.scenes.scene import DEMO
from tests.demo import FinishedDemo
from tests.explain.outputs import at_home, score, settings
from tests.tiny import tiny_checkpoint


def run(config: Config, explainer: Explainer) -> tuple[ExplainSummary, dict[str, Any]]:
    summary = explain(config, lambda: explainer)
    return summary, json.loads((Path(config.output.path) / "index.json").read_text())


def test_a_sample_of_best_borderline_and_worst(manifest: Path, scored: Path, tmp_path: Path, explainer: Explainer) -> None:
    config = settings(scored, tmp_path / "out", explain={"sample": 2}, fetch=at_home(manifest))
    summary, index = run(config, explainer)
    assert (summary.rows, summary.explained, summary.failed, summary.hint) == (6, 6, {}, None)
    table = pq.read_table(scored / "m-00000.parquet")
    order = np.argsort([-value for value in table["itm_logit"].to_pylist() if value is not None], kind="stable")
    groups = {key: entry["group"] for key, entry in index.items()}
    assert [key for key, group in groups.items() if group == "best"] == [f"row-{row}" for row in order[:2]]
    assert {key for key, group in groups.items() if group == "worst"} == {f"row-{row}" for row in order[-2:]}
    assert list(groups.values()) == ["best"] * 2 + ["borderline"] * 2 + ["worst"] * 2
    for key, entry in index.items():
        row = table.slice(int(key.removeprefix("row-")), 1).to_pylist()[0]
        (caption,) = entry["captions"]
        assert caption["caption"] == entry["caption"] == row["caption"]
        assert entry["image"] == caption["image"]
        assert caption["scored"] == {name: row[name] for name in ("itm_score", "itm_logit", "itc_similarity")}
        assert caption["itm_logit"] == pytest.approx(row["itm_logit"], abs=1e-3), "the score that is explained"
        assert caption["itm_score"] == pytest.approx(row["itm_score"], abs=1e-4)
        with Image.open(tmp_path / "out" / caption["image"]) as picture:
            assert picture.size == (2 * explainer.image_size, explainer.image_size)
        assert max(word["strength"] for word in caption["words"]) == 1
        for word in caption["words"]:
            assert word["word"] in row["caption"]
            with Image.open(tmp_path / "out" / word["image"]) as picture:
                assert picture.size == (explainer.image_size, explainer.image_size)
    about = json.loads((tmp_path / "out" / "_EXPLAIN.json").read_text())
    assert about["layer"] == explainer.layer == 1


def test_the_left_half_is_the_image_itself(manifest: Path, scored: Path, tmp_path: Path, explainer: Explainer) -> None:
    config = settings(scored, tmp_path / "out", explain={"keys": "row-0", "words": False}, fetch=at_home(manifest))
    _, index = run(config, explainer)
    wanted = decode((manifest.parent / "0.jpg").read_bytes(), explainer.image_size)
    with Image.open(tmp_path / "out" / index["row-0"]["image"]) as picture:
        assert np.array_equal(np.asarray(picture)[:, : explainer.image_size], wanted)
    assert len(list((tmp_path / "out").glob("*.png"))) == 1
    assert "image" not in index["row-0"]["captions"][0]["words"][0]


def test_keys_and_rows_that_fail(manifest: Path, scored: Path, tmp_path: Path, explainer: Explainer) -> None:
    keys = ["row-16", "row-3", "row-0"]
    summary, index = run(settings(scored, tmp_path / "out", explain={"keys": keys}, fetch=at_home(manifest)), explainer)
    assert list(index) == keys
    assert (summary.rows, summary.explained, summary.failed) == (3, 2, {"not found": 1})
    failed = index["row-16"]
    assert (failed["status"], failed["error_message"], failed["captions"]) == ("failed_to_download", "not found", [])
    assert failed["caption"] == "a lost picture"
    assert "image" not in failed
    assert index["row-3"]["row"] == 3
    assert index["row-3"]["file"] == "m-00000.parquet"


def test_an_image_that_changed_is_not_explained(tmp_path: Path, explainer: Explainer) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(render_jpeg(scene_captions(DEMO, 0, 100).scene))
    pq.write_table(pa.table({"url": ["a.jpg"], "caption": ["a red circle"]}), folder / "m.parquet")
    scored = score(folder / "m.parquet", tmp_path / "scored")
    (folder / "a.jpg").write_bytes(render_jpeg(scene_captions(DEMO, 1, 100).scene))
    config = settings(scored, tmp_path / "out", fetch=at_home(folder / "m.parquet"))
    summary, index = run(config, explainer)
    assert summary.failed == {"content changed": 1}
    assert index["a.jpg"]["error_message"] == "content changed", "rows without keys are called by their URLs"


def test_lists_of_captions_a_prefix_and_bytes_in_the_rows(tmp_path: Path, explainer: Explainer) -> None:
    rows = [scene_captions(DEMO, index, 100) for index in range(2)]
    captions = [[rows[0].other, None, rows[0].true], [rows[1].true]]
    table = pa.table({"image": [render_jpeg(row.scene) for row in rows], "captions": captions})
    pq.write_table(table, tmp_path / "m.parquet")
    scored = score(tmp_path / "m.parquet", tmp_path / "scored", prefix="blip_")
    _, index = run(settings(scored, tmp_path / "out", explain={"sample": 1}), explainer)
    assert sorted(index) == ["m-00000.parquet:0", "m-00000.parquet:1"]
    entry = index["m-00000.parquet:0"]
    assert [caption["caption"] for caption in entry["captions"]] == [rows[0].other, rows[0].true]
    assert entry["caption"] == rows[0].true, "the caption that fits best stands for the row"
    for caption in entry["captions"]:
        assert caption["itm_logit"] == pytest.approx(caption["scored"]["itm_logit"], abs=1e-3)


def test_hostile_captions_are_data(tmp_path: Path, explainer: Explainer) -> None:
    captions = ["<script>alert(1)</script> star", "قلب أحمر", "a " * 60, "../../etc/passwd", "?!", "\x00\u202e [SEP] red"]
    jpeg = render_jpeg(scene_captions(DEMO, 0, 100).scene)
    pq.write_table(pa.table({"image": [jpeg] * 6, "caption": captions, "key": captions}), tmp_path / "m.parquet")
    summary, index = run(settings(tmp_path / "m.parquet", tmp_path / "out", explain={"keys": captions}), explainer)
    assert summary.explained == len(captions)
    assert list(index) == captions
    names = {path.name for path in (tmp_path / "out").rglob("*")}
    assert all(
        name.endswith(".png") and name.replace("-", "").removesuffix(".png").isdigit() for name in names if "." in name[-4:]
    )
    assert index["?!"]["captions"][0]["words"] == []
    assert len(index["a " * 60]["captions"][0]["words"]) == 33, "words that the model does not see have no map"


def test_another_model_than_the_one_that_scored(manifest: Path, scored: Path, tmp_path: Path) -> None:
    model = {"checkpoint": tiny_checkpoint(tmp_path)}
    config = settings(scored, tmp_path / "out", model=model, explain={"keys": "row-0"}, fetch=at_home(manifest))
    with pytest.raises(ConfigError, match=r"m-00000.parquet was scored by 'capsieve demo model' with model_sha256 '\w{64}'"):
        explain(config, lambda: pytest.fail("the model is not loaded"))
    assert not (tmp_path / "out").exists()
    config = config.model_copy(update={"explain": config.explain.model_copy(update={"other_model": True})})
    tiny = load_explainer(model["checkpoint"], device="cpu")
    summary, index = run(config, tiny)
    assert summary.explained == 1
    assert index["row-0"]["captions"][0]["itm_logit"] != pytest.approx(index["row-0"]["captions"][0]["scored"]["itm_logit"])


def test_a_file_does_not_open_a_folder_by_saying_so(scored: Path, tmp_path: Path, explainer: Explainer, manifest: Path) -> None:
    summary, index = run(settings(scored, tmp_path / "out", explain={"keys": "row-0"}), explainer)
    assert index["row-0"]["error_message"] == "not found"
    assert summary.hint is not None
    assert f"--fetch.file_roots {manifest.parent}" in summary.hint


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"explain": {"keys": ["row-0", "row-99"]}}, ConfigError, r"no such rows in column 'uid': 'row-99'"),
        ({"input": {}}, ManifestError, "no manifest given"),
        ({"output": {"path": ""}}, ConfigError, "--output.path"),
    ],
)
def test_mistakes_are_one_line(scored: Path, tmp_path: Path, sections: dict[str, Any], error: type, message: str) -> None:
    own = {"input": {"manifest": str(scored)}, "output": {"path": str(tmp_path / "out")}}
    config = Config.model_validate(own | sections)
    with pytest.raises(error, match=message) as caught:
        explain(config, lambda: pytest.fail("the model is not loaded"))
    assert "\n" not in str(caught.value)


def test_a_manifest_without_scores_needs_keys(manifest: Path, tmp_path: Path, explainer: Explainer) -> None:
    with pytest.raises(ConfigError, match=r"have no itm_logit to choose a sample by: name rows with --explain.keys"):
        explain(settings(manifest, tmp_path / "out"), lambda: explainer)
    summary, index = run(settings(manifest, tmp_path / "out", explain={"keys": "row-2"}), explainer)
    assert summary.explained == 1
    assert index["row-2"]["captions"][0]["scored"] is None


def test_whose_folder(manifest: Path, scored: Path, tmp_path: Path, explainer: Explainer) -> None:
    config = settings(scored, tmp_path / "out", explain={"keys": "row-0"}, fetch=at_home(manifest))
    run(config, explainer)
    with pytest.raises(OutputError, match="holds explanations already"):
        explain(config, lambda: explainer)
    replaced = {"path": str(tmp_path / "out"), "overwrite": True}
    again = {"input": {"manifest": str(scored)}, "output": replaced, "explain": {"keys": "row-3"}, "fetch": at_home(manifest)}
    _, index = run(Config.model_validate(again), explainer)
    assert list(index) == ["row-3"]
    (tmp_path / "out" / "index.json").unlink()  # as an interrupted one leaves it
    run(config, explainer)
    with pytest.raises(OutputError, match="holds files that explain did not write"):
        explain(settings(scored, scored, explain={"keys": "row-0"}, fetch=at_home(manifest)), lambda: explainer)


@pytest.mark.slow
def test_what_a_real_run_says_of_itself_is_understood(finished_demo: FinishedDemo, tmp_path: Path) -> None:
    scored = finished_demo.folder / "demo-output/scored"
    with pytest.raises(ConfigError, match=r"was scored by .* with model_sha256 .*, not by 'capsieve demo model'"):
        explain(settings(scored, tmp_path / "out", explain={"sample": 1}), lambda: pytest.fail("the model is not loaded"))
    model, nowhere = {"checkpoint": finished_demo.checkpoint}, {"endpoint_url": "http://127.0.0.1:9", "anonymous": True}
    config = settings(scored, tmp_path / "out", explain={"sample": 2}, model=model, storage=nowhere)
    tiny = load_explainer(finished_demo.checkpoint, device="cpu")
    summary, _ = run(config, tiny)
    assert summary.rows == 6
    assert summary.explained == 0, "its bucket is gone, and addresses of this machine are refused"
    assert set(summary.failed) <= {"refused address", "storage error"}
