"""jobs/verify.py: an output that is right, and one for each way to be wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline import output as out
from pipeline import resume
from pipeline.commandline import load
from pipeline.config import InputConfig, StorageConfig
from pipeline.errors import OutputError
from pipeline.manifest import find_manifest
from pipeline.output import Output
from pipeline.schema import score_schema, scored_schema
from pipeline.verify import Report, verify

ROOT = Path(__file__).parents[1]
STORE = StorageConfig()
ROWS = 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An output of two shards, with NaN, nested and dictionary columns, one failed row in each."""
    (tmp_path / "in").mkdir()
    table = pa.table(
        {
            "url": [f"u{n}" for n in range(ROWS)],
            "caption": [f"c{n}" for n in range(ROWS)],
            "nan": [float("nan")] * ROWS,
            "tag": pa.array(["a", "b"] * (ROWS // 2)).dictionary_encode(),
            "nested": [[{"x": n}] for n in range(ROWS)],
        }
    )
    pq.write_table(table, tmp_path / "in" / "m.parquet")
    manifest = find_manifest(InputConfig(manifest=[str(tmp_path / "in")]), STORE, ROWS // 2)
    identity = {
        "model": "m",
        "columns": {"url": "url", "caption": "caption", "image": None, "key": None},
        "rows_per_output_file": ROWS // 2,
        "column_prefix": "",
        "image_embedding": False,
    }
    settings = {"settings": {"input": {"manifest": [str(tmp_path / "in")]}}}
    output = Output(str(tmp_path / "out"), STORE, score_schema(lists=False), "", identity, settings)
    resume.claim(output, overwrite=False)
    for index, shard in enumerate(manifest.shards):
        out.stage(output, manifest.shards, scored(index, shard.rows))
        out.commit(output, shard)
    summary = {"rows": ROWS, "status": {"success": ROWS - 2, "failed_to_download": 2}}
    out.finish(output, {**summary, "made_of": identity, **settings})
    return tmp_path


def scored(shard: int, rows: int) -> pa.Table:
    records = [
        {"shard": shard, "row": row, "status": "success", "itm_score": 0.5, "itm_logit": 0.1, "itc_similarity": row / 10}
        | {"fetch_s": 0.0, "decode_s": 0.0, "score_s": 0.0, "bytes_read": 0}
        for row in range(rows)
    ]
    records[1] |= {
        "status": "failed_to_download",
        "error_message": "timeout",
        "itm_score": None,
        "itm_logit": None,
        "itc_similarity": None,
    }
    return pa.Table.from_pylist(records, schema=scored_schema(score_schema(lists=False)))


def check(folder: Path) -> Report:
    return verify(str(folder / "out"), load())


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the first file, and leave what it says of itself."""
    path = folder / "out" / "m-00000.parquet"
    table = pq.read_table(path, partitioning=None)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


def with_column(name: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        field = table.schema.field(name)
        return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))

    return change


def test_all_is_well(folder: Path) -> None:
    report = check(folder)
    assert (report.files, report.rows, report.faults, report.notes) == (2, ROWS, [], [])
    assert report.counts == {("success", None): ROWS - 2, ("failed_to_download", "timeout"): 2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_column("url", ["u0", "u1", "u3", "u2", "u4"]), "column url is not the input's"),
        (with_column("nan", [float("nan")] * 4 + [1.0]), "column nan is not the input's"),
        (with_column("itc_similarity", [0, None, 0.3, 0.2, 0.4]), "do not have the checksum"),
        (with_column("itm_score", [0.5, 0.5, 0.5, 0.5, 0.5]), "itm_score is not there exactly where status is success"),
        (with_column("itm_score", [1.5, None, 0.5, 0.5, 0.5]), "itm_score is not within 0 and 1"),
        (with_column("itm_score", [np.nan, None, 0.5, 0.5, 0.5]), "itm_score is not within 0 and 1"),
        (with_column("error_message", [None, None, None, None, None]), "counts in its metadata"),
        (lambda table: table.take([0, 1, 2, 3]), "4 rows, but its input has 5"),
        (lambda table: table.take([0, 1, 2, 4, 3]), "column url is not the input's"),
        (lambda table: table.drop_columns(["status"]), "columns are"),
        (lambda table: table.set_column(6, "itm_logit", pc.cast(table["itm_logit"], pa.float64())), "columns are"),
    ],
)
def test_a_file_that_is_not_what_was_written(folder: Path, change: Callable[[pa.Table], pa.Table], words: str) -> None:
    rewrite(folder, change)
    report = check(folder)
    assert any(fault.startswith("m-00000.parquet: ") and words in fault for fault in report.faults), report.faults


def test_a_missing_file_a_strange_one_and_a_damaged_one(folder: Path) -> None:
    (folder / "out" / "m-00000.parquet").unlink()
    pq.write_table(pa.table({"a": [1]}), folder / "out" / "stranger.parquet")
    path = folder / "out" / "m-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    faults = check(folder).faults
    assert any("m-00000.parquet: there is no such file, of 5 rows" in fault for fault in faults)
    assert any("stranger.parquet: not a file of capsieve's" in fault for fault in faults)
    assert any("m-00001.parquet: damaged" in fault for fault in faults)


def test_a_run_that_has_not_ended(folder: Path) -> None:
    (folder / "out" / "_SUCCESS").unlink()
    (folder / "out" / "_staging").mkdir()
    (folder / "out" / "_staging" / "x.parquet").write_bytes(b"")
    (folder / "out" / "_lease.json").write_text("{}")
    faults = verify(str(folder / "out"), load(None, {"input": {"manifest": str(folder / "in")}})).faults
    assert [fault.partition(":")[0] for fault in faults] == [
        "1 parts are staged and not committed",
        "_lease.json is there",
        "no _SUCCESS",
    ]


def test_an_input_that_changed_and_one_that_is_gone(folder: Path) -> None:
    data = pq.read_table(folder / "in" / "m.parquet")
    pq.write_table(data.take(list(range(ROWS))[::-1]), folder / "in" / "m.parquet")
    faults = check(folder).faults
    assert any("its input has changed since: " in fault for fault in faults)
    (folder / "in" / "m.parquet").rename(folder / "in" / "n.parquet")
    report = check(folder)
    assert any("n-00000.parquet: there is no such file" in fault for fault in report.faults)
    assert len([note for note in report.notes if "is not in the manifest any more" in note]) == 2


def test_a_folder_that_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"it has no _run\.json"):
        check(tmp_path)


def test_the_program(folder: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "jobs" / "verify.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    good = run(str(folder / "out"))
    assert good.returncode == 0, good.stderr
    assert "2 files, 10 rows checked" in good.stdout
    assert "all is well" in good.stdout
    (folder / "out" / "m-00001.parquet").unlink()
    bad = run(str(folder / "out"), "--json")
    assert bad.returncode == 3, bad.stderr
    assert len(json.loads(bad.stdout)["faults"]) == 2, "the file, and the counts of _SUCCESS"
    assert run().returncode == 2
    assert run(str(folder / "nowhere")).returncode == 2
