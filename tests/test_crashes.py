"""Property tests: whatever dies, whenever, and whatever lies in staging, a commit gives the right file or refuses."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import output as out
from pipeline import resume, storage
from pipeline.config import InputConfig, StorageConfig
from pipeline.errors import CapsieveError
from pipeline.manifest import Manifest, find_manifest
from pipeline.output import MissingRowsError, Output
from pipeline.provenance import PartFacts, fingerprint, source_of, with_facts
from pipeline.schema import part_schema, score_schema, scored_schema

SCORES = score_schema(lists=False)
STORE = StorageConfig()
ROWS = 6
CHANGES = ("write_bytes", "delete_files", "delete_folder")  # what storage does that a death can come before or after


class Killed(BaseException):
    """Stands for SIGKILL: no handler of failures catches it."""


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    """Die after so many changes of the store; of a deletion of several files, each counts."""
    left = after

    def step() -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1

    def killing(name: str, real: Any) -> Any:
        def change(*args: Any) -> Any:
            if name == "delete_files":
                for url in list(args[0]):
                    step()
                    real([url], args[1])
                return None
            step()
            return real(*args)

        return change

    with monkeypatch.context() as patch:
        for name in CHANGES:
            patch.setattr(storage, name, killing(name, getattr(storage, name)))
        yield


def make(folder: Path) -> tuple[Manifest, Output]:
    (folder / "in").mkdir()
    table = pa.table({"url": [f"u{i}" for i in range(2 * ROWS)], "caption": [f"c{i}" for i in range(2 * ROWS)]})
    pq.write_table(table, folder / "in" / "m.parquet")
    manifest = find_manifest(InputConfig(manifest=[str(folder / "in")]), STORE, ROWS)
    return manifest, Output(str(folder / "out"), STORE, SCORES, "", {"model": "m"})


def scored(shard: int, rows: Sequence[int], *, bad: frozenset[int] = frozenset()) -> pa.Table:
    records = [
        {
            "shard": shard,
            "row": row,
            "itm_score": None if row in bad else value_of(shard, row),
            "status": "failed_to_download" if row in bad else "success",
            "error_message": "timeout" if row in bad else None,
        }
        | {"fetch_s": 0.0, "decode_s": 0.0, "score_s": 0.0, "bytes_read": 0}
        for row in rows
    ]
    return pa.Table.from_pylist(records, schema=scored_schema(SCORES))


def value_of(shard: int, row: int) -> float:
    return (shard * ROWS + row) / 1000


def run_once(manifest: Manifest, output: Output, block: int, bad: frozenset[int], retry: Sequence[str]) -> None:
    """What the driver does, without Ray: rows that nothing holds are staged, complete shards committed."""
    resume.claim(output, overwrite=False)
    own, staged = resume.scan(output, manifest.shards, retry)
    for index, shard in enumerate(manifest.shards):
        if shard.name in staged.done:
            continue
        held = set(staged.rows[shard.name].tolist()) if shard.name in staged.rows else set()
        missing = [row for row in range(shard.rows) if row not in held]
        for start in range(0, len(missing), block):
            out.stage(own, manifest.shards, scored(index, missing[start : start + block], bad=bad))
        out.commit(own, shard)
    out.finish(own, {"rows": manifest.rows})


def check_finished(output: Output, manifest: Manifest, bad: frozenset[int]) -> None:
    names = [file.url.removeprefix(output.url + "/") for file in storage.list_files(output.url, STORE)]
    assert names == ["_SUCCESS", "_run.json", *(shard.name for shard in manifest.shards)]
    for index, shard in enumerate(manifest.shards):
        table = pq.read_table(output.at(shard.name), partitioning=None)
        assert table["url"].to_pylist() == [f"u{index * ROWS + row}" for row in range(ROWS)]
        wanted = [None if row in bad else pytest.approx(value_of(index, row)) for row in range(ROWS)]
        assert table["itm_score"].to_pylist() == wanted


@settings(deadline=None, max_examples=60)
@given(deaths=st.lists(st.integers(0, 12), max_size=6), block=st.integers(1, ROWS), bad=st.frozensets(st.integers(0, ROWS - 1)))
def test_any_deaths_in_staging_committing_and_finishing_end_in_the_right_files(
    deaths: list[int], block: int, bad: frozenset[int]
) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        manifest, output = make(Path(name))
        for after in deaths:
            with suppress(Killed), dying(patch, after):
                run_once(manifest, output, block, bad, ())
        run_once(manifest, output, block, bad, ())
        check_finished(output, manifest, bad)


@settings(deadline=None, max_examples=60)
@given(
    deaths=st.lists(st.integers(0, 12), max_size=6),
    block=st.integers(1, ROWS),
    bad=st.frozensets(st.integers(0, ROWS - 1), min_size=1),
    still_bad=st.frozensets(st.integers(0, ROWS - 1)),
    gives_up=st.booleans(),
)
def test_any_deaths_in_a_second_chance_end_in_the_right_files(
    deaths: list[int], block: int, bad: frozenset[int], still_bad: frozenset[int], gives_up: bool
) -> None:
    """Every state on the way is a complete output, and whoever gives up and runs without `retry` has one at the end."""
    still_bad &= bad
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        manifest, output = make(Path(name))
        run_once(manifest, output, block, bad, ())
        for after in deaths:
            with suppress(Killed), dying(patch, after):
                run_once(manifest, output, block, still_bad, ["failed_to_download"])
            for index, shard in enumerate(manifest.shards):
                check_complete(pq.read_table(output.at(shard.name), partitioning=None), index, bad)
        run_once(manifest, output, block, still_bad, [] if gives_up else ["failed_to_download:timeout"])
        if not gives_up:
            check_finished(output, manifest, still_bad)
        for index, shard in enumerate(manifest.shards):
            check_complete(pq.read_table(output.at(shard.name), partitioning=None), index, bad)


def check_complete(table: pa.Table, index: int, bad: frozenset[int]) -> None:
    """Every row is there, rows that never failed have their scores, and a score is never another row's."""
    scores = table["itm_score"].to_pylist()
    assert table["url"].to_pylist() == [f"u{index * ROWS + row}" for row in range(ROWS)]
    for row, score in enumerate(scores):
        assert (score is None and row in bad) or score == pytest.approx(value_of(index, row))


Kind = st.sampled_from(["own", "another model's", "of another version", "another shard's", "junk"])


@settings(deadline=None, max_examples=80)
@given(parts=st.lists(st.tuples(Kind, st.lists(st.integers(0, ROWS), max_size=ROWS)), max_size=6))
def test_any_set_of_files_in_staging_gives_the_right_file_or_a_refusal(parts: list[tuple[str, list[int]]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        manifest, output = make(Path(name))
        shard = manifest.shards[0]
        for number, (kind, rows) in enumerate(parts):
            url = f"{output.staging(shard)}/{number}.parquet"
            storage.write_bytes(url, b"junk" if kind == "junk" else part_of(kind, rows, manifest, output), STORE)
        held = {row for kind, rows in parts for row in rows if kind == "own"}
        if held != set(range(ROWS)):
            with pytest.raises(MissingRowsError):
                out.commit(output, shard)
            assert not storage.exists(output.at(shard.name), STORE)
            return
        out.commit(output, shard)
        check_complete(pq.read_table(output.at(shard.name), partitioning=None), 0, frozenset())


def part_of(kind: str, rows: list[int], manifest: Manifest, output: Output) -> bytes:
    """A part as a run leaves it; with scores of 1 where it must not be used."""
    records = [{"row": row, "status": "success", "itm_score": value_of(0, row) if kind == "own" else 1.0} for row in rows]
    source = source_of(manifest.shards[1 if kind == "another shard's" else 0])
    if kind == "of another version":
        source |= {"version": "older"}
    made_of = fingerprint({"model": "other"} if kind == "another model's" else output.identity)
    table = pa.Table.from_pylist(records, schema=part_schema(SCORES))
    return out.to_parquet(with_facts(table, PartFacts(made_of, source, 0)))


def test_a_commit_that_lost_the_output_to_another_run_writes_nothing(tmp_path: Path) -> None:
    from pipeline.lease import Lease

    manifest, output = make(tmp_path)
    out.stage(output, manifest.shards, scored(0, range(ROWS)))
    with Lease(output.url, STORE, 60), pytest.raises(CapsieveError, match="taken over by another run"):
        out.commit(replace(output, run="an earlier one"), manifest.shards[0])
    assert not storage.exists(output.at(manifest.shards[0].name), STORE)


def test_a_manifest_that_changes_during_the_run_is_refused_at_the_commit(tmp_path: Path) -> None:
    manifest, output = make(tmp_path)
    out.stage(output, manifest.shards, scored(0, range(ROWS)))
    pq.write_table(pa.table({"url": ["x"] * 12, "caption": ["other"] * 12}), tmp_path / "in" / "m.parquet")
    with pytest.raises(CapsieveError, match="has changed since the run began"):
        out.commit(output, manifest.shards[0])
