"""score.py --dry-run: what it says of a fresh, a half-done and a finished output, and that it leaves no trace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import output as out
from pipeline import run
from pipeline.config import Config
from pipeline.errors import OutputError
from pipeline.preview import Preview, preview
from pipeline.run import Job
from pipeline.schema import score_schema, scored_schema

SCORE = Path(__file__).parents[1] / "jobs" / "score.py"
ROWS = 10  # in shards of 4, 3 and 3


class Silent:
    def starting(self, what: str) -> None: ...

    def planned(self, plan: object) -> None: ...

    def progressed(self, progress: object) -> None: ...


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "in").mkdir()
    table = pa.table({"url": [f"{n}.jpg" for n in range(ROWS)], "caption": ["a caption"] * ROWS})
    pq.write_table(table, tmp_path / "in" / "m.parquet")
    output = {"path": str(tmp_path / "out"), "rows_per_output_file": 4}
    return Config.model_validate({"input": {"manifest": str(tmp_path / "in")}, "output": output})


def look(config: Config, **output: object) -> Preview:
    """A dry run, and the assurance that nothing came of it."""
    folder = Path(config.output.path)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    changed = config.model_copy(update={"output": config.output.model_copy(update=output)})
    try:
        return preview(changed, Silent())
    finally:
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def stage(job: Job, shard: int, *rows: int, status: str = "success") -> None:
    records = [{"shard": shard, "row": row, "status": status, "fetch_s": 0.0, "decode_s": 0.0, "score_s": 0.0} for row in rows]
    out.stage(job.output, job.manifest.shards, pa.Table.from_pylist(records, schema=scored_schema(score_schema(lists=False))))


def states(found: Preview) -> list[tuple[int, int, int]]:
    return [(one.rows_done, one.rows_staged, one.rows_missing) for one in found.shards]


def test_a_fresh_output_misses_everything(config: Config) -> None:
    found = look(config)
    assert [(one.shard.name, one.shard.first_row, one.shard.rows) for one in found.shards] == [
        ("m-00000.parquet", 0, 3), ("m-00001.parquet", 3, 3), ("m-00002.parquet", 6, 4)
    ]  # fmt: skip
    assert states(found) == [(0, 0, 3), (0, 0, 3), (0, 0, 4)]
    assert not Path(config.output.path).exists()


def test_a_half_done_output_says_what_is_staged_and_what_is_committed(config: Config) -> None:
    job = run.begin(run.check(config, Silent()))
    stage(job, 0, 0, 1, 2)
    out.commit(job.output, job.manifest.shards[0])
    stage(job, 2, 1, 3)
    found = look(config)
    assert states(found) == [(3, 0, 0), (0, 0, 3), (0, 2, 2)]
    assert found.total() == {"rows": 10, "rows_done": 3, "rows_staged": 2, "rows_missing": 5}


def test_a_finished_output_misses_nothing_unless_it_is_begun_anew_or_retried(config: Config) -> None:
    job = run.begin(run.check(config, Silent()))
    stage(job, 0, 0, 1, 2)
    stage(job, 1, 0, status="failed_to_download")
    stage(job, 1, 1, 2)
    stage(job, 2, 0, 1, 2, 3)
    for shard in job.manifest.shards:
        out.commit(job.output, shard)
    out.finish(job.output, {})
    assert states(look(config)) == [(3, 0, 0), (3, 0, 0), (4, 0, 0)]
    assert look(config, overwrite=True).total()["rows_missing"] == ROWS
    assert states(look(config, retry=["failed_to_download"])) == [(3, 0, 0), (0, 2, 1), (4, 0, 0)]


def test_an_output_of_something_else_is_refused_as_a_run_refuses_it(config: Config) -> None:
    folder = Path(config.output.path)
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        look(config)


def test_the_program_prints_the_shards_or_json(config: Config) -> None:
    flags = ["--dry-run", "--input.manifest", *config.input.manifest, "--output.path", config.output.path]
    command = [sys.executable, str(SCORE), *flags, "--output.rows_per_output_file", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["shard", "input", "file", "from", "row", "rows", "done", "staged", "missing"]
    file = f"{config.input.manifest[0]}/m.parquet"
    assert lines[3].split() == ["m-00002.parquet", file, "6", "4", "0", "0", "4"]
    assert lines[4].split() == ["3", "shards", "10", "0", "0", "10"]
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, timeout=60, check=True).stdout)
    assert (found["dry_run"], found["rows_missing"], len(found["shards"])) == (True, ROWS, 3)
    assert not Path(config.output.path).exists()
