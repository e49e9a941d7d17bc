"""The demo: what its bucket holds, that it ends well, and that nothing is left running however it ends."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.demo import JOBS, Demo, FinishedDemo
from tests.tiny import tiny_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """Random weights, because what scores mean is not this test's business."""
    return tiny_checkpoint(tmp_path)


def test_what_the_bucket_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(JOBS))
    from demo_bucket import Addresses, Kind, make_contents, manifest_bytes

    addresses = Addresses("http://127.0.0.1:1", "127.0.0.1:2")
    contents = make_contents(addresses, 16)
    assert make_contents(addresses, 16) == contents
    kinds = [row.kind for row in contents.rows]
    assert {kind: kinds.count(kind) for kind in Kind} == {Kind.GOOD: 8, Kind.WRONG: 4, Kind.SLIGHTLY_WRONG: 4, Kind.BROKEN: 10}
    for row in contents.rows:
        if row.kind != Kind.BROKEN:
            assert row.url is not None
            assert contents.objects["images/" + row.url.rpartition("/")[2]].startswith(b"\xff\xd8")
        assert (row.note is None) == (row.kind != Kind.BROKEN)
    assert {str(row.url).partition(":")[0] for row in contents.rows if row.kind == Kind.GOOD} == {"http", "s3"}
    table = pq.read_table(io.BytesIO(manifest_bytes(contents.rows)))
    assert [tuple(row.values()) for row in table.to_pylist()] == [tuple(row) for row in contents.rows]


@pytest.mark.slow
def test_the_demo_shows_scores_and_leaves_parquet(finished_demo: FinishedDemo) -> None:
    folder, log = finished_demo.folder, finished_demo.log
    scored = pd.read_parquet(folder / "demo-output/scored")
    assert len(scored) == 34
    assert scored["itm_score"].notna().sum() == 24
    failed = scored[scored["kind"] == "must fail"].set_index("note")["error_message"].to_dict()
    assert failed == {
        "no such object": "not found",
        "no such page": "http 404",
        "half of the file is missing": "truncated",
        "not an image": "not an image",
        "a web page, not an image": "html, not an image",
        "a server that never answers": "timeout",
        "a cloud's metadata service": "refused address",
        "a protocol that is not fetched": "refused scheme",
        "no URL": "no image",
        "no caption": "no caption",
    }
    for text in (
        "best captions",
        "worst captions",
        "failed rows",
        "by kind",
        "34 rows in, 34 out",
        "unchanged: yes",
        "pd.read_parquet",
    ):
        assert text in log
    assert list((folder / "demo-output/pictures").glob("*.jpg"))
    page = folder / "demo-output/report.html"
    assert str(page) in log.splitlines()[-2], "the demo ends with the report's path"
    assert page.read_text().count("data:image/jpeg;base64,") == 24, "each picture, once"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "moment"),
    [(signal.SIGINT, "rendering"), (signal.SIGINT, "$ python"), (signal.SIGTERM, "compute "), (signal.SIGKILL, "compute ")],
)
def test_nothing_is_left_running_after_a_signal(tmp_path: Path, checkpoint: str, signum: signal.Signals, moment: str) -> None:
    demo = Demo(tmp_path, "--scenes", "100", "--model.checkpoint", checkpoint)
    demo.wait_for(moment)
    demo.process.send_signal(signum)
    if signum is signal.SIGKILL:
        assert demo.wait() == -signum
    else:
        assert demo.wait() == 128 + signum
        assert "demo: stopped by" in demo.log.read_text()
    demo.assert_nothing_runs()


@pytest.mark.slow
def test_a_failing_score_is_the_demos_failure(tmp_path: Path) -> None:
    demo = Demo(tmp_path, "--scenes", "4", "--model.checkpoint", str(tmp_path / "nothing.pth"))
    assert demo.wait() == 2
    assert "nothing.pth" in demo.log.read_text()
    assert not (tmp_path / "demo-output").exists()
    demo.assert_nothing_runs()
