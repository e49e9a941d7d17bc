"""jobs/report.py: what the page says equals what pandas finds in the output; the same bytes twice; mistakes in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, ManifestError
from pipeline.filters.run import filter_dataset
from pipeline.report.run import write_report
from tests.report.outputs import FILES, HOSTILE, IMAGES, config_of, write_output

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output and its page."""
    folder = write_output(tmp_path_factory.mktemp("report"))
    write_report(config_of(folder))
    return folder


def contents_of(page: Path) -> dict[str, Any]:
    """What is embedded in a page."""
    match = re.search(
        r'<script type="application/json" id="contents">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL
    )
    assert match
    found: dict[str, Any] = json.loads(match[1])
    found["galleries"] = {name: [found["shown"][n] for n in numbers] for name, numbers in found["galleries"].items()}
    return found


def grid_of(contents: dict[str, Any]) -> np.ndarray:
    """(itm edges, itc edges) counts, as the page's script reads them."""
    grid = np.zeros((len(contents["itm"]["ticks"]), len(contents["itc"]["ticks"])), np.int64)
    cells = np.array(contents["grid"]).reshape(-1, 2)
    grid.ravel()[np.cumsum(cells[:, 0]) - 1] = cells[:, 1]
    return grid


def scored_frame(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(folder / "scored" / name) for name in FILES], ignore_index=True)


def run_report(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / "report.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, cwd="/", check=False, env={**os.environ})


# ------------------------------------------------------------------ numbers


def test_counts_are_those_that_pandas_finds(folder: Path) -> None:
    contents, frame = contents_of(folder / "report.html"), scored_frame(folder)
    assert contents["rows"] == len(frame) == 330
    statuses = frame.groupby(["status", "error_message"], dropna=False, observed=True).size()
    expected = {(status, None if pd.isna(reason) else reason): rows for (status, reason), rows in statuses.items()}
    assert {(status, reason): rows for status, reason, rows in contents["statuses"]} == expected
    assert contents["statuses"][0][0] == "success"
    above = grid_of(contents)[::-1, ::-1].cumsum(axis=0).cumsum(axis=1)[::-1, ::-1]
    for i, tick in enumerate(contents["itm"]["ticks"]):
        for j in (0, 200, 230, 260, 300):
            kept = (frame.itm_score >= np.float32(tick / 10_000)) & (
                frame.itc_similarity >= np.float32(contents["itc"]["ticks"][j] / 1_000)
            )
            assert above[i, j] == kept.sum()
    lengths = frame.caption_tokens.clip(upper=256).value_counts()
    assert {length: rows for length, rows in enumerate(contents["tokens"]) if rows} == lengths.to_dict()
    assert contents["truncated"] == frame.caption_truncated.sum()


def test_the_slider_counts_what_the_filter_keeps(folder: Path, tmp_path: Path) -> None:
    contents = contents_of(folder / "report.html")
    grid = grid_of(contents)
    for threshold in (0.5, 0.7, 0.995):
        config = config_of(folder).model_copy(update={"output": config_of(tmp_path).output})
        config = type(config).model_validate({**config.model_dump(), "filter": {"min_itm": threshold, "min_itc": 0.3}})
        i, j = contents["itm"]["ticks"].index(round(threshold * 10_000)), contents["itc"]["ticks"].index(300)
        assert grid[i:, j:].sum() == filter_dataset(config, dry_run=True).kept > 0


def test_the_worst_hosts(folder: Path) -> None:
    hosts = contents_of(folder / "report.html")["hosts"]
    failed = scored_frame(folder).query("status != 'success'")
    gone, slow = (int(failed["where"].str.contains(host).sum()) for host in ("gone.example", "slow.example"))
    assert [(host["host"], host["rows"]) for host in hosts["worst"]] == [("gone.example", gone), ("slow.example", slow)]
    assert hosts["missed"] == 0


def test_galleries_hold_the_extremes(folder: Path) -> None:
    galleries, frame = contents_of(folder / "report.html")["galleries"], scored_frame(folder)
    done = frame[frame.status == "success"].astype({"status": str})
    best = done.sort_values("itm_logit", ascending=False).drop_duplicates("image_sha256").head(12)
    assert [pair["key"] for pair in galleries["best"]] == best.id.tolist()
    worst = done.sort_values("itm_logit").drop_duplicates("image_sha256").head(12)
    assert [pair["key"] for pair in galleries["worst"]] == worst.id.tolist()
    nearest = done.assign(distance=(done.itm_score.astype(float) - 0.5).abs()).sort_values("distance")
    assert [pair["key"] for pair in galleries["borderline"]] == nearest.drop_duplicates("image_sha256").head(12).id.tolist()
    scores = [pair["itm_score"] for pair in galleries["range"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.9
    assert scores[-1] < 0.1
    for pairs in galleries.values():
        for pair in pairs:
            row = done[done.id == pair["key"]].iloc[0]
            assert pair["itm_score"] == row.itm_score
            assert pair["caption"] == row.words or (
                pair["caption"].endswith("…") and row.words.startswith(pair["caption"][:-1])
            )
            assert pair["image"]["uri"].startswith("data:image/jpeg;base64,")


def test_provenance_and_the_run(folder: Path) -> None:
    contents = contents_of(folder / "report.html")
    (run,), (origin,) = contents["runs"], contents["origins"]
    assert (run["rows"], run["rows_scored"], run["rows_per_s"]) == (330, 330, 12.25)
    assert run["sentence"].startswith("replicas busy 91%; ")
    assert (origin["files"], origin["rows"], origin["identity"]["model"]) == (2, 330, "tiny.pth")


# ------------------------------------------------------------------ bytes


def test_the_same_output_gives_the_same_page(folder: Path, tmp_path: Path) -> None:
    before = (folder / "report.html").read_bytes()
    summary = write_report(config_of(folder, threads=1))
    assert (folder / "report.html").read_bytes() == before
    assert summary.bytes == len(before) < 10_000_000
    assert summary.at_threshold == (scored_frame(folder).itm_score >= 0.5).sum()


def test_lists_of_captions_are_a_pair_each(tmp_path: Path) -> None:
    folder = write_output(tmp_path, lists=True)
    summary = write_report(config_of(folder, thumbnails=False))
    frame = scored_frame(folder)
    flat = frame.explode(["words", "itm_score", "itm_logit", "itc_similarity"])
    assert (summary.rows, summary.pairs, summary.scored) == (330, len(flat), flat.itm_score.notna().sum())
    contents = contents_of(folder / "report.html")
    assert contents["lists"]
    assert grid_of(contents)[contents["threshold"] :].sum() == (flat.itm_score.astype(float) >= 0.5).sum()
    assert sum(rows for _, _, rows in contents["statuses"]) == 330
    best = flat.astype({"itm_logit": float}).sort_values("itm_logit", ascending=False).drop_duplicates("image_sha256").head(12)
    assert [pair["key"] for pair in contents["galleries"]["best"]] == best.id.tolist()
    for pair, words in zip(contents["galleries"]["best"], best.words, strict=True):
        assert pair["caption"] == words[: len(pair["caption"]) - 1] + "…" if len(words) > 600 else words
    assert any(pair["entry"] > 0 for pair in contents["galleries"]["best"])
    assert all(pair["image"] is None for pair in contents["galleries"]["best"])


# ------------------------------------------------------------------ images


def test_images_in_the_rows(tmp_path: Path) -> None:
    folder = write_output(tmp_path)
    for name in FILES:
        table = pq.read_table(folder / "scored" / name, partitioning=None)
        at = table.column_names.index("where")
        images = [
            None if pd.isna(sha) else (folder / "images" / f"{int(key[4:]) % IMAGES}.jpg").read_bytes()
            for key, sha in zip(table["id"].to_pylist(), table["image_sha256"].to_pylist(), strict=True)
        ]
        structs = pa.array(
            [{"bytes": image, "path": None} for image in images], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        )
        pq.write_table(table.set_column(at, "image", structs), folder / "scored" / name)
    summary = write_report(config_of(folder))
    assert summary.thumbnails > 30
    assert summary.without_thumbnail == {}


def test_an_image_that_cannot_be_had_is_a_reason(tmp_path: Path) -> None:
    folder = write_output(tmp_path)
    shown = contents_of_best(folder)
    names = [f"{int(pair['key'][4:]) % IMAGES}.jpg" for pair in shown[:3]]
    (folder / "images" / names[0]).unlink()
    (folder / "images" / names[1]).write_bytes((folder / "images" / names[2]).read_bytes())
    summary = write_report(config_of(folder))
    reasons = [pair["image"]["error"] for pair in contents_of(folder / "report.html")["galleries"]["best"]]
    assert reasons == ["not found", "content changed", *[None] * 10]
    assert summary.without_thumbnail.keys() == {"not found", "content changed"}
    config = config_of(folder).model_copy(update={"fetch": config_of(folder).fetch.model_copy(update={"file_roots": []})})
    assert write_report(config).without_thumbnail.keys() <= {"not found", "refused path"}, "what a file says is no permission"


def contents_of_best(folder: Path) -> list[dict[str, Any]]:
    write_report(config_of(folder, thumbnails=False))
    pairs: list[dict[str, Any]] = contents_of(folder / "report.html")["galleries"]["best"]
    return pairs


def test_heat_maps_are_found_by_key_or_row(tmp_path: Path) -> None:
    folder = write_output(tmp_path)
    best = contents_of_best(folder)
    maps = folder / "maps"
    maps.mkdir()
    (maps / "0.png").write_bytes((folder / "images" / "0.jpg").read_bytes())
    whole = [pair for pair in best if not pair["caption"].endswith("…")]
    same, other, outside, gone, by_row, other_file = whole[:6]

    def entry(pair: dict[str, Any], name: str, **more: Any) -> dict[str, Any]:
        return {"captions": [{"caption": "x", "image": "no.png"}, {"caption": pair["caption"], "image": name}], **more}

    index = {
        same["key"]: entry(same, "0.png"),
        other["key"]: entry({"caption": "another caption"}, "0.png"),
        outside["key"]: entry(outside, "../images/0.jpg"),
        gone["key"]: entry(gone, "gone.png"),
        "a": entry(by_row, "0.png", file=by_row["file"].partition("/scored/")[2], row=by_row["row"]),
        "b": entry(other_file, "0.png", file="z.parquet", row=other_file["row"]),
        "c": None,
    }
    (maps / "index.json").write_text(json.dumps(index))
    write_report(config_of(folder, thumbnails=False, explanations=str(maps)))
    shown = contents_of(folder / "report.html")["galleries"]["best"]
    assert {pair["key"] for pair in shown if pair["heat_map"]} == {same["key"], by_row["key"]}
    with pytest.raises(ConfigError, match=r"no index\.json there"):
        write_report(config_of(folder, explanations=str(folder / "images")))


# ------------------------------------------------------------------ the program


def test_the_program(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    common = ["--input.manifest", str(folder / "scored"), "--output.path", str(target), "--report.thumbnails", "false"]
    done = run_report(*common)
    assert done.returncode == 0, done.stderr
    kept = (scored_frame(folder).itm_score >= 0.5).sum()
    assert f"330 rows, 300 of 330 pairs scored; {kept / 300:.1%} of these have an itm_score of at least 0.5" in done.stdout
    assert str(target) in done.stdout
    done = run_report(*common, "--json")
    assert json.loads(done.stdout)["at_threshold"] == kept


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--output.path", "report.html"], "name the folder that score.py wrote"),
        (["--input.manifest", "{folder}/scored", "--output.path", "{folder}"], "ends in .html"),
        (["--input.manifest", "{folder}/nothing", "--output.path", "report.html"], "nothing"),
        (["--report.galery", "3"], "did you mean report.gallery"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], complaint: str, folder: Path) -> None:
    done = run_report(*(argument.replace("{folder}", str(folder)) for argument in arguments))
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("report: error: ")
    assert complaint in line


def test_a_manifest_that_was_not_scored(tmp_path: Path) -> None:
    (tmp_path / "scored").mkdir()
    pq.write_table(pa.table({"url": ["a"], "caption": ["b"]}), tmp_path / "scored" / "a.parquet")
    with pytest.raises(
        ManifestError, match=r"no column itm_score, itc_similarity, status: a report needs what score\.py wrote"
    ):
        write_report(config_of(tmp_path))


def test_an_output_in_which_everything_failed(tmp_path: Path) -> None:
    folder = write_output(tmp_path)
    for name in FILES:
        table = pq.read_table(folder / "scored" / name, partitioning=None)
        pq.write_table(table.filter(table["itm_score"].is_null()), folder / "scored" / name)
    summary = write_report(config_of(folder))
    assert (summary.rows, summary.scored, summary.thumbnails) == (30, 0, 0)


def test_texts_that_are_no_utf8(tmp_path: Path) -> None:
    folder = write_output(tmp_path)
    for name in FILES:
        table = pq.read_table(folder / "scored" / name, partitioning=None)
        bad = pa.array([b"caf\xe9 \xff"] * len(table), pa.binary())
        for column in ("words", "where"):
            at = table.column_names.index(column)
            table = table.set_column(at, column, bad.view(pa.string()))
        pq.write_table(table, folder / "scored" / name)
    write_report(config_of(folder))
    assert contents_of(folder / "report.html")["galleries"]["best"][0]["caption"] == "caf\ufffd \ufffd"


def test_neither_ray_nor_torch_is_paid_for() -> None:
    code = "import sys, pipeline.report.run; sys.exit(bool({'ray', 'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=250, check=False, cwd=ROOT).returncode == 0


def test_hostile_captions_are_among_those_shown(folder: Path) -> None:
    shown = {pair["caption"] for pairs in contents_of(folder / "report.html")["galleries"].values() for pair in pairs}
    assert {HOSTILE[0], HOSTILE[2]} <= shown, "or the tests of the page would prove nothing"
