"""The log of a run and the record of all runs: what may not be in them, and what becomes of them when a store fails."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from pipeline.config import StorageConfig
from pipeline.watching.journal import MOST_RUNS, Journal, history, record_of, scrubbed, write_history

STORE = StorageConfig(retry_s=0)


def lines(journal: Journal) -> list[str]:
    return Path(journal.url).read_text().splitlines()


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("https://b.example/a.jpg?X-Amz-Signature=1234&b=c", "https://b.example/a.jpg?..."),
        ("cannot read s3://b/m.parquet?versionId=77: denied", "cannot read s3://b/m.parquet?... denied"),
        ("'https://b/x?sig=a%2Fb' is gone", "'https://b/x?...' is gone"),
        ("is the store slow?", "is the store slow?"),
        ({"a": ["https://b/x?k=1", 2, None]}, {"a": ["https://b/x?...", 2, None]}),
    ],
)
def test_queries_of_urls_are_left_out(value: object, wanted: object) -> None:
    assert scrubbed(value) == wanted


def test_every_event_is_a_line_of_json_and_is_written_when_it_is_due(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), STORE, "r1")
    journal.note("planned", rows=3, path=tmp_path, error="two\nlines")
    journal.flush()
    assert json.loads(lines(journal)[0])["error"] == "two\nlines"
    journal.note("ended", outcome="done")
    journal.flush()
    assert len(lines(journal)) == 1, "not twice in half a minute"
    journal.flush(at_once=True)
    assert [json.loads(line)["event"] for line in lines(journal)] == ["planned", "ended"]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["r1.jsonl"]


def test_a_store_that_cannot_be_written_is_said_once_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "_log").write_text("a file where the folder ought to be")
    journal = Journal(str(tmp_path), STORE, "r1")
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            journal.note("progress", rows=number)
            journal.flush(at_once=True)
    assert len(caplog.records) == 1
    (tmp_path / "_log").unlink()
    journal.flush(at_once=True)
    assert len(lines(journal)) == 3, "nothing is lost once it can be written again"


def test_the_record_of_a_run_that_was_killed_is_what_its_log_says_last(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), STORE, "r1")
    journal.note("planned", rows=100, pid=1)
    journal.note("progress", rows_scored=10)
    journal.note("warning", kind="deaths", text="...")
    last = journal.note("progress", rows_scored=40)
    record = record_of(journal.events())
    assert (record["rows"], record["rows_scored"], record["outcome"], record["ended"]) == (100, 40, "lost", last["time"])


def test_the_history_is_in_order_and_has_an_end(tmp_path: Path) -> None:
    for number in range(MOST_RUNS + 5):
        journal = Journal(str(tmp_path), STORE, f"r{number:03}")
        journal.note("planned", rows=number)
        journal.note("ended", outcome="done", rows_scored=number)
        journal.flush(at_once=True)
    earlier = history(str(tmp_path), STORE, journal)
    assert [one["run"] for one in earlier] == [f"r{number:03}" for number in range(4, MOST_RUNS + 4)]
    write_history(str(tmp_path), STORE, journal, record_of(journal.events()))
    runs = json.loads((tmp_path / "_log" / "run.json").read_text())["runs"]
    assert (len(runs), runs[-1]["run"]) == (MOST_RUNS + 1, "r104")
