"""The nightly job, whole and on a real cluster: what it makes of nights, and what happens when it is run again."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import cluster
from pipeline.commandline import load
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.lease import Lease
from pipeline.nightly.run import run_nights
from tests.echo import EchoScorer
from tests.listeners import Silent
from tests.nightly.records import night

JOBS = Path(__file__).parents[2] / "jobs"


def test_the_settings_that_we_ship_are_complete_and_the_defaults() -> None:
    shipped = load(str(JOBS.parent / "configs" / "nightly.yaml"))
    assert shipped.nightly == Config().nightly
    assert shipped.nightly.model_fields_set == set(type(shipped.nightly).model_fields)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"input": {"manifest": []}}, r"--input\.manifest"),
        ({"output": {"path": ""}}, r"--output\.path"),
        ({"output": {"path": "out", "overwrite": True}}, "neither overwrites nor retries"),
        ({"output": {"path": "out", "retry": "failed_to_download"}}, "neither overwrites nor retries"),
    ],
)
def test_settings_that_make_no_sense_for_many_nights_are_refused(settings: dict[str, Any], complaint: str) -> None:
    config = load(None, {"input": {"manifest": "in"}, "output": {"path": "out"}, **settings})
    with pytest.raises(ConfigError, match=complaint):
        run_nights(config, SilentNights())


class SilentNights(Silent):
    """Shows nothing of nights either."""

    def night_begins(self, due: Any) -> None: ...
    def night_ended(self, result: Any) -> None: ...


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    with cluster.joined(Config()):
        yield


def write_night(folder: Path, number: int, *, dead: int = 0) -> None:
    """A partition of 60 rows with images beside it; the first `dead` of them are missing."""
    partition = folder / "in" / f"date={night(number)}"
    partition.mkdir(parents=True)
    for row in range(dead, 60):
        buffer = io.BytesIO()
        Image.new("RGB", (20, 10), (4 * row, 250 - 4 * row, (row * number) % 250)).save(buffer, "PNG")
        (partition / f"{row}.png").write_bytes(buffer.getvalue())
    pq.write_table(
        pa.table({"url": [f"{row}.png" for row in range(60)], "caption": [f"a caption {row % 7}" for row in range(60)]}),
        partition / "m.parquet",
    )


class Program:
    """jobs/nightly.py in this process, which has joined a cluster already; its scores are computed from pixels and captions."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._arguments = [
            "--input.manifest", str(folder / "in"), "--output.path", str(folder / "out"),
            "--filter.top_fraction", "0.5", "--nightly.min_history", "2", "--compute.chunk_rows", "32",
            "--report.thumbnails", "false",
        ]  # fmt: skip
        self._capsys = capsys

    def __call__(self, *more: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        import nightly

        self._capsys.readouterr()
        code = nightly.main([*self._arguments, *more], EchoScorer)
        return (code, *self._capsys.readouterr())


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_nights_are_done_once_and_a_night_with_a_fault_alarms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(JOBS))
    run = Program(tmp_path, capsys)
    for number in (1, 0):
        write_night(tmp_path, number)

    code, out, _ = run("--dry-run")
    assert (code, list((tmp_path).iterdir())) == (0, [tmp_path / "in"]), "nothing is written"
    assert "2026-01-01  would be done: new, 1 file\n2026-01-02  would be done: new, 1 file\n" in out

    code, out, err = run("--nightly.until", "2026-01-02")
    assert code == 0, err
    assert out.splitlines()[0].startswith("2026-01-01  60 rows, 100.0% scored, 30 kept; no history to compare with yet")
    assert pq.read_table(tmp_path / "out", partitioning="hive").num_rows == 120, "underscored folders are passed over"
    assert pq.read_table(tmp_path / "out" / "_filtered" / "date=2026-01-02").num_rows == 30
    assert b"2026-01-02" in (tmp_path / "out" / "_nightly" / "date=2026-01-02" / "report.html").read_bytes()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}

    code, out, _ = run()
    assert (code, out) == (0, "nothing to do: 2 nights finished, 2026-01-01 to 2026-01-02\n")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()} == before

    write_night(tmp_path, 2, dead=40)  # a host is gone
    write_night(tmp_path, 3)
    (tmp_path / "in" / f"date={night(3)}" / "m.parquet").write_bytes(b"PAR1 nonsense PAR1")
    write_night(tmp_path, 4)
    code, out, err = run("--nightly.alarm_file", str(tmp_path / "alarm.json"))
    assert code == 2, "the worst: a night that could not be done"
    assert "nightly: 2026-01-03 ALARM: failed_to_download 66.7% of the rows, mostly not found (usually 0.0%" in err
    assert "nightly: 2026-01-04 failed: " in err
    assert "like the 2 nights before" in out, "of the later night, which neither held up"
    assert [one["exit_code"] for one in json.loads((tmp_path / "alarm.json").read_text())["alarms"]] == [4, 2]

    (tmp_path / "in" / f"date={night(3)}" / "m.parquet").unlink()
    code, out, err = run("--json")
    assert (code, json.loads(out)["finished"]) == (4, 4), "nothing is done again, and the alarm stays until it is accepted"
    assert "nightly: 2026-01-03 is open: " in err
    code, out, err = run("--nightly.accept", "2026-01-03", "--nightly.alarm_file", str(tmp_path / "alarm.json"))
    assert (code, err) == (0, "")
    assert not (tmp_path / "alarm.json").exists()
    assert json.loads((tmp_path / "out" / "_nightly" / "date=2026-01-03" / "drift.json").read_text())["accepted"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_whatever_died_the_same_command_goes_on_and_two_at_once_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(JOBS))
    run = Program(tmp_path, capsys)
    write_night(tmp_path, 0)
    out = tmp_path / "out"
    with Lease(f"{out}/_nightly", Config().storage, 60), pytest.raises(SystemExit) as refused:
        run()
    assert refused.value.code == 2
    assert "_nightly is being written by another run" in capsys.readouterr().err
    assert run()[0] == 0
    whole = {path.relative_to(out): path.read_bytes() for path in out.rglob("*.parquet")}

    (out / "_nightly" / "date=2026-01-01" / "drift.json").unlink()  # died before the record
    (out / "_filtered" / "date=2026-01-01" / "_SUCCESS").unlink()  # and in the middle of the filter
    assert run()[1].splitlines()[0].startswith("2026-01-01  60 rows, 100.0% scored, 30 kept")
    (out / "date=2026-01-01" / "_SUCCESS").unlink()  # died while rows were scored
    (out / "date=2026-01-01" / "m-00000.parquet").unlink()
    assert run("--filter.top_fraction", "0.5")[0] == 0
    assert {path.relative_to(out): pq.read_table(path).num_rows for path in out.rglob("*.parquet")} == {
        name: pq.read_table(io.BytesIO(data)).num_rows for name, data in whole.items()
    }
