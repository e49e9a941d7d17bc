"""jobs/filter.py as a user runs it: what it writes and prints, whose folder it is, what other tools read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.config import Config, StorageConfig
from pipeline.errors import ManifestError, OutputError
from pipeline.filters.run import filter_dataset
from pipeline.local_s3 import LocalS3

ROOT = Path(__file__).parents[2]
STORE = StorageConfig()


def uid(number: int) -> str:
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()


def scored(start: int, stop: int) -> pa.Table:
    """Rows as score.py writes them: every tenth failed, itm_score 0 to 0.99 in turn."""
    numbers = range(start, stop)
    failed = np.array([number % 10 == 9 for number in numbers], dtype=bool)
    score = np.array([number % 100 / 100 for number in numbers], np.float32)
    return pa.table(
        {
            "uid": [uid(number) for number in numbers],
            "url": pa.array([f"https://a.example/{number}.jpg" for number in numbers], mask=np.array(numbers) % 50 == 48),
            "text": [f'line one\nline "two", {number}' for number in numbers],
            "itm_score": pa.array(score, mask=failed),
            "itm_logit": pa.array(score * 2 - 1, mask=failed),
            "itc_similarity": pa.array(score[::-1].copy(), mask=failed),
            "status": pa.array(np.where(failed, "failed_to_download", "success")).dictionary_encode(),
            "image_sha256": pa.array(
                [hashlib.sha256(uid(number % 200).encode()).hexdigest() for number in numbers], mask=failed
            ),
        }
    ).replace_schema_metadata({b"capsieve": b"{}", b"mine": b"kept"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished output of score.py: 500 rows in three files, one in a folder."""
    (tmp_path / "scored" / "sub").mkdir(parents=True)
    for name, start, stop in (("a", 0, 200), ("b", 200, 300), ("sub/c", 300, 500)):
        pq.write_table(scored(start, stop), tmp_path / "scored" / f"{name}.parquet", row_group_size=64)
    (tmp_path / "scored" / "_run.json").write_text(json.dumps({"model": "m"}))
    (tmp_path / "scored" / "_SUCCESS").write_text("{}")
    return tmp_path


def run_filter(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / "filter.py"), *arguments]
    everything = {**os.environ, **(env or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=250, cwd="/", check=False, env=everything)


def arguments_of(folder: Path, *more: str) -> list[str]:
    return ["--input.manifest", str(folder / "scored"), "--output.path", str(folder / "out"), *more]


def config_of(folder: Path, **filter: Any) -> Config:
    return Config.model_validate(
        {"input": {"manifest": str(folder / "scored")}, "output": {"path": str(folder / "out")}, "filter": filter}
    )


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------ the program


def test_flags_alone(folder: Path) -> None:
    done = run_filter(*arguments_of(folder, "--filter.min_itm", "0.5", "--filter.unique", "--json"))
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["rows"] == 500
    assert {entry["reason"]: entry["rows"] for entry in summary["dropped"]} == {
        "failed_to_download": 50,
        "itm_score >= 0.5": 225,
        "unique image_sha256 by itm_logit": 135,
    }
    assert summary["kept"] == 90
    kept = pd.read_parquet(folder / "out")
    assert len(kept) == 90, "pandas reads the kept rows alone"
    assert kept.itm_score.min() == 0.5
    rejected = pd.read_parquet(folder / "out" / "_rejected")
    assert rejected.drop_reason.value_counts().to_dict() == {entry["reason"]: entry["rows"] for entry in summary["dropped"]}
    assert set(kept.uid) | set(rejected.uid) == {uid(number) for number in range(500)}


def test_the_table(folder: Path) -> None:
    more = ["--filter.min_itm", "0.5", "--filter.rules", '{"top": 100, "by": "itc_similarity", "name": "[best] hundred"}']
    done = run_filter(*arguments_of(folder, *more))
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["failed_to_download", "50", "10.0%"] in lines
    assert ["itm_score", ">=", "0.5", "225", "45.0%"] in lines
    assert any(line[:4] == ["[best]", "hundred", "125", "25.0%"] and "threshold" in line for line in lines)
    assert ["kept", "100", "20.0%"] in lines


def test_the_example_configuration(folder: Path) -> None:
    arguments = ["--config", str(ROOT / "configs" / "filter.yaml"), *arguments_of(folder), "--dry-run"]
    done = run_filter(*arguments)
    assert done.returncode == 2
    assert "caption_tokens" in done.stderr, "a column that these rows lack"
    for path in (folder / "scored").rglob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.append_column("caption_tokens", pa.array([7] * len(table), pa.int16())), path)
    done = run_filter(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["output"] is None
    assert summary["kept"] + sum(entry["rows"] for entry in summary["dropped"]) == 500
    assert not (folder / "out").exists(), "a dry run writes nothing"


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--filter.min_imt", "0.5"], "did you mean filter.min_itm"),
        (["--filter.rules", '{"column": "itm_scores", "at_least": 0.5}'], "did you mean itm_score"),
        (["--filter.rules", '{"colum": "itm_score"}'], "did you mean column"),
        (["--filter.min_margin", "0.1"], "min_margin needs best_caption"),
        (["--filter.write", "uids", "--input.columns.key", "text"], "is no uid of DataComp's"),
        (["--input.columns.key", "nowhere"], "no column 'nowhere' (--input.columns.key)"),
        (["--input.manifest", "/nowhere"], "/nowhere"),
    ],
)
def test_a_mistake_is_one_line(more: list[str], complaint: str, folder: Path) -> None:
    done = run_filter(*arguments_of(folder, *more))
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("filter: error: ")
    assert complaint in line


def test_neither_ray_nor_torch_is_paid_for() -> None:
    code = "import sys, pipeline.filters.run; sys.exit(bool({'ray', 'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=250, check=False, cwd=ROOT).returncode == 0


# ------------------------------------------------------------------ what is written


def test_files_mirror_the_input_and_tell_what_made_them(folder: Path) -> None:
    summary = filter_dataset(config_of(folder, min_itm=0.5, top_fraction=0.5))
    names = ["a.parquet", "b.parquet", "sub/c.parquet"]
    assert files(folder / "out") == sorted([*names, *(f"_rejected/{name}" for name in names), "_FILTER.json", "_SUCCESS"])
    metadata = pq.read_schema(folder / "out" / "b.parquet").metadata
    assert metadata[b"mine"] == b"kept"
    facts = json.loads(metadata[b"capsieve_filter"])
    assert facts["rules"] == [{"column": "itm_score", "at_least": 0.5}, {"top_fraction": 0.5, "by": "itm_logit"}]
    assert facts["source"]["made_of"] == {str(folder / "scored"): {"model": "m"}}
    assert facts["file"]["url"] == str(folder / "scored" / "b.parquet")
    threshold = facts["dropped"][-1]["found"]["threshold"]
    success = json.loads((folder / "out" / "_SUCCESS").read_text())
    assert success["kept"] == facts["kept"] == summary.kept
    logits = pq.read_table(folder / "out" / "a.parquet", partitioning=None)["itm_logit"].to_pylist()
    assert min(logits) >= threshold


def test_input_columns_alone(folder: Path) -> None:
    filter_dataset(config_of(folder, min_itm=0.5, columns="input", write=["manifest"]))
    assert pq.read_schema(folder / "out" / "a.parquet").names == ["uid", "url", "text"]
    assert not (folder / "out" / "_rejected").exists()


def test_values_and_types_come_out_as_they_were(folder: Path) -> None:
    filter_dataset(config_of(folder, rules=[{"column": "itm_score", "at_least": 0}]))
    before = pq.read_table(folder / "scored" / "b.parquet", partitioning=None)
    after = pq.read_table(folder / "out" / "b.parquet", partitioning=None)
    assert after.schema == before.schema
    expected = before.filter(before["itm_score"].is_valid())
    assert after.to_pylist() == expected.to_pylist()


def test_a_file_without_rows_and_rules_that_keep_nothing(folder: Path) -> None:
    pq.write_table(scored(0, 0), folder / "scored" / "d.parquet")
    summary = filter_dataset(config_of(folder, min_itm=1, write=["manifest", "rejected", "uids", "img2dataset"]))
    assert (summary.kept, summary.uids, summary.listed) == (0, 0, 0)
    assert pq.read_table(folder / "out" / "d.parquet", partitioning=None).schema.names == scored(0, 0).schema.names
    assert len(pd.read_parquet(folder / "out")) == 0


def test_datacomps_file_of_uids_as_its_resharder_reads_it(folder: Path) -> None:
    summary = filter_dataset(config_of(folder, min_itm=0.5, write=["uids"]))
    subset = np.load(folder / "out" / "_uids.npy", mmap_mode="r")
    assert subset.dtype == np.dtype("u8,u8")
    assert summary.uids == summary.kept == len(subset) == 225
    kept = [uid(number) for number in range(500) if number % 10 != 9 and number % 100 >= 50]
    # the example of DataComp's README
    expected = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in kept], np.dtype("u8,u8"))
    expected.sort()
    assert np.array_equal(subset, expected)


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_img2datasets_list_as_its_reader_reads_it(format: str, folder: Path) -> None:
    summary = filter_dataset(config_of(folder, min_itm=0.5, write=["img2dataset"], img2dataset_format=format))
    tables = []
    for path in sorted((folder / "out" / "_img2dataset").glob("*." + format)):  # a flat folder, by suffix
        read = pq.read_table if format == "parquet" else pyarrow.csv.read_csv
        table = read(path)
        assert table.column_names == ["url", "caption"]
        tables.append(table)
    rows = pa.concat_tables(tables, promote_options="permissive").to_pylist()
    numbers = [number for number in range(500) if number % 10 != 9 and number % 100 >= 50 and number % 50 != 48]
    assert [row["url"] for row in rows] == [f"https://a.example/{number}.jpg" for number in numbers]
    separator = "\n" if format == "parquet" else " "
    assert rows[0]["caption"] == f'line one{separator}line "two", {numbers[0]}'
    assert summary.listed == len(numbers) == summary.kept - 5, "rows without a URL are not listed"


def test_prefixed_columns(folder: Path) -> None:
    for path in (folder / "scored").rglob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.rename_columns([n if n in ("uid", "url", "text") else "c_" + n for n in table.column_names]), path)
    config = config_of(folder, min_itm=0.5, unique=True, columns="input")
    config = config.model_copy(update={"output": config.output.model_copy(update={"column_prefix": "c_"})})
    assert filter_dataset(config).kept == 90
    assert pq.read_schema(folder / "out" / "a.parquet").names == ["uid", "url", "text"]


# ------------------------------------------------------------------ whose folder


def test_the_same_again_is_done_already_and_others_are_refused(folder: Path) -> None:
    first = filter_dataset(config_of(folder, min_itm=0.5))
    times = {name: (folder / "out" / name).stat().st_mtime_ns for name in files(folder / "out")}
    assert filter_dataset(config_of(folder, min_itm=0.5)) == first
    assert {name: (folder / "out" / name).stat().st_mtime_ns for name in files(folder / "out")} == times
    with pytest.raises(OutputError, match=r"other rules.*--output\.overwrite"):
        filter_dataset(config_of(folder, min_itm=0.6))
    pq.write_table(scored(0, 10), folder / "scored" / "new.parquet")
    with pytest.raises(OutputError, match="other source"):
        filter_dataset(config_of(folder, min_itm=0.5))


def test_overwriting_deletes_what_the_earlier_filter_wrote_and_nothing_else(folder: Path) -> None:
    filter_dataset(config_of(folder, min_itm=0.5, write=["manifest", "rejected", "uids", "img2dataset"]))
    (folder / "out" / "thesis.parquet").write_text("mine")
    config = config_of(folder, min_itm=0.6, write=["manifest"])
    filter_dataset(config.model_copy(update={"output": config.output.model_copy(update={"overwrite": True})}))
    names = ["a.parquet", "b.parquet", "sub/c.parquet", "thesis.parquet"]
    assert files(folder / "out") == sorted(["_FILTER.json", "_SUCCESS", *names])


def test_an_interrupted_filter_is_run_again(folder: Path) -> None:
    first = filter_dataset(config_of(folder, min_itm=0.5))
    (folder / "out" / "_SUCCESS").unlink()
    (folder / "out" / "b.parquet").unlink()
    again = filter_dataset(config_of(folder, min_itm=0.5))
    assert (again.kept, again.dropped) == (first.kept, first.dropped)
    assert len(pd.read_parquet(folder / "out")) == first.kept


def test_foreign_folders_are_refused_even_to_overwrite(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("mine")
    config = config_of(folder, min_itm=0.5)
    for output in (config.output, config.output.model_copy(update={"overwrite": True})):
        with pytest.raises(OutputError, match=r"thesis\.txt"):
            filter_dataset(config.model_copy(update={"output": output}))


@pytest.mark.parametrize("output", ["scored", "scored/kept", "."])
def test_input_and_output_in_one_another_are_refused(output: str, folder: Path) -> None:
    done = run_filter("--input.manifest", str(folder / "scored"), "--output.path", str(folder / output), "--output.overwrite")
    assert done.returncode == 2
    assert "lie one in the other" in done.stderr
    assert len(files(folder / "scored")) == 5


def test_an_unfinished_run_is_refused_unless_asked_for(folder: Path) -> None:
    (folder / "scored" / "_SUCCESS").unlink()
    for entry in ("scored", "scored/*.parquet"):
        config = config_of(folder, min_itm=0.5)
        config = config.model_copy(update={"input": config.input.model_copy(update={"manifest": [str(folder / entry)]})})
        with pytest.raises(ManifestError, match=r"unfinished.*--filter\.allow_unfinished"):
            filter_dataset(config)
    assert filter_dataset(config_of(folder, min_itm=0.5, allow_unfinished=True)).kept == 225


def test_a_filter_of_a_filter(folder: Path) -> None:
    filter_dataset(config_of(folder, min_itm=0.5))
    shutil.rmtree(folder / "scored")
    (folder / "out").rename(folder / "scored")
    assert filter_dataset(config_of(folder, min_itm=0.75)).rows == 225
    config = config_of(folder)
    again = {"manifest": [str(folder / "out" / "_rejected" / "a.parquet")]}
    config = Config.model_validate(
        {**config.model_dump(), "input": again, "output": {"path": str(folder / "third")}, "filter": {"min_itm": 0.6}}
    )
    assert filter_dataset(config).kept == 28
    assert pq.read_schema(folder / "third" / "_rejected" / "a.parquet").names.count("drop_reason") == 1


def test_on_s3(folder: Path, bucket: str, s3_env: LocalS3) -> None:
    for name in files(folder / "scored"):
        storage.write_bytes(f"{bucket}/scored/{name}", (folder / "scored" / name).read_bytes(), STORE)
    arguments = ["--input.manifest", f"{bucket}/scored", "--output.path", f"{bucket}/out", "--filter.min_itm", "0.5"]
    done = run_filter(*arguments, "--filter.unique", "--filter.write", "manifest", "--filter.write", "uids", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kept"] == 90
    names = [file.url.removeprefix(f"{bucket}/out/") for file in storage.list_files(f"{bucket}/out", STORE)]
    assert names == ["_FILTER.json", "_SUCCESS", "_uids.npy", "a.parquet", "b.parquet", "sub/c.parquet"]
    local = filter_dataset(config_of(folder, min_itm=0.5, unique=True, write=["manifest", "uids"]))
    assert local.kept == 90
    for name in ("_uids.npy",):
        assert storage.read_bytes(f"{bucket}/out/{name}", STORE) == (folder / "out" / name).read_bytes()
