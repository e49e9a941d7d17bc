"""The nightly job: which nights are due, what it makes of them, who hears of an alarm, what happens when it is run again."""

from __future__ import annotations

import io
import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import cluster, storage
from pipeline.commandline import load
from pipeline.config import Config
from pipeline.errors import ConfigError, ManifestError, OutputError
from pipeline.lease import Lease
from pipeline.nightly import alarm, nights
from pipeline.nightly.alarm import Alarm
from pipeline.nightly.judge import Record, judge
from pipeline.nightly.nights import Places
from pipeline.nightly.run import run_nights
from pipeline.profiles import Profile
from tests.conftest import WriteManifest
from tests.echo import EchoScorer
from tests.listeners import Silent
from tests.nights import QUIET, SHUFFLED

JOBS = Path(__file__).parents[1] / "jobs"
FIRST = date(2026, 1, 1)
MODEL = {"model": "m", "model_sha256": "aa", "image_size": 384}


def night(number: int) -> date:
    return FIRST + timedelta(days=number)


def record(number: int, profile: Profile | None = None, **changes: Any) -> Record:
    """The record of a quiet night."""
    profile = profile or QUIET.draw(np.random.default_rng(number))
    fields = {"night": night(number), "files": 1, "scored": "s", "made_of": MODEL, "kept": 10, "max_failed_share": 0.5}
    return Record(**{**fields, "profile": profile, **changes})


def config_of(folder: Path | str, **nightly: Any) -> Config:
    return load(None, {"input": {"manifest": f"{folder}/in"}, "output": {"path": f"{folder}/out"}, "nightly": nightly})


# ------------------------------------------------------------------ partitions, and which are due


def partitions(config: Config) -> dict[str, int]:
    return {found.night.isoformat(): found.files for found in nights.find_partitions(config)}


ROWS = {"url": ["u"], "caption": ["c"]}


@pytest.mark.parametrize("where", ["local", "bucket"])
def test_partitions_are_found_oldest_first(
    where: str, tmp_path: Path, request: pytest.FixtureRequest, write_manifest: WriteManifest
) -> None:
    folder = str(tmp_path) if where == "local" else request.getfixturevalue("bucket")
    for name in ("date=2026-01-03/a", "date=2025-12-31/a", "date=2025-12-31/sub/b", "date=2026-02-30/a", "date=today/a", "a"):
        write_manifest(f"{folder}/in/{name}.parquet", ROWS)
    storage.write_bytes(f"{folder}/in/date=2026-01-04/_SUCCESS", b"", Config().storage)
    assert list(partitions(config_of(folder)).items()) == [("2025-12-31", 2), ("2026-01-03", 1)]
    assert partitions(config_of(folder, since="2026-01-01")) == {"2026-01-03": 1}
    assert partitions(config_of(folder, until="2025-12-31")) == {"2025-12-31": 2}
    one = config_of(folder).model_copy(
        update={"input": Config().input.model_copy(update={"manifest": [f"{folder}/in/*/a.parquet"]})}
    )
    assert partitions(one) == {"2025-12-31": 1, "2026-01-03": 1}


def test_several_folders_of_a_night_are_one_partition(tmp_path: Path, write_manifest: WriteManifest) -> None:
    for source in ("x", "y"):
        write_manifest(tmp_path / "in" / source / "date=2026-01-01" / f"{source}.parquet", ROWS)
    (found,) = nights.find_partitions(config_of(tmp_path))
    assert found.folders == tuple(f"{tmp_path}/in/{source}/date=2026-01-01" for source in ("x", "y"))


def test_no_partition_and_an_output_inside_the_input_are_refused(tmp_path: Path, write_manifest: WriteManifest) -> None:
    write_manifest(tmp_path / "in" / "a.parquet", ROWS)
    with pytest.raises(ManifestError, match=r"no file is in a folder date=YYYY-MM-DD \(e\.g\. .*a\.parquet"):
        nights.find_partitions(config_of(tmp_path))
    write_manifest(tmp_path / "in" / "date=2026-01-01" / "a.parquet", ROWS)
    inside = Config().output.model_copy(update={"path": f"{tmp_path}/in/out"})
    with pytest.raises(ConfigError, match=r"/in/out lies in the input .*/in: .* name another --output\.path"):
        nights.find_partitions(config_of(tmp_path).model_copy(update={"output": inside}))


SUCCESS = {"rows": 5, "shards": 1, "status": {"success": 5}, "reasons": {}, "made_of": {}, "elapsed_s": 1.0}


def why(folder: Path, **nightly: Any) -> list[str]:
    config = config_of(folder, **nightly)
    places = Places.of(config)
    plan = nights.plan(nights.find_partitions(config), nights.read_records(places, config), places, config)
    return [due.why for due in (*plan.due, *plan.waiting)] + ["finished"] * len(plan.finished)


def test_a_night_is_due_until_its_record_fits_its_input_and_its_scores(tmp_path: Path, write_manifest: WriteManifest) -> None:
    config = config_of(tmp_path)
    places = Places.of(config)
    write_manifest(tmp_path / "in" / "date=2026-01-01" / "a.parquet", ROWS)
    success = tmp_path / "out" / "date=2026-01-01" / "_SUCCESS"
    assert why(tmp_path) == ["new"]
    assert why(tmp_path, marker="_SUCCESS") == ["waits for _SUCCESS"]
    success.parent.mkdir(parents=True)
    success.write_text(json.dumps(SUCCESS))
    assert why(tmp_path) == ["scored, but neither filtered nor compared"]
    outcome = nights.outcome_of(places.scored(FIRST), config)
    nights.write_record(places, record(0, scored=outcome), config)
    assert why(tmp_path) == why(tmp_path, marker="_SUCCESS") == ["finished"]
    success.write_text(json.dumps({**SUCCESS, "elapsed_s": 2.0}))
    assert why(tmp_path) == ["finished"], "a finished run that is run once more changes nothing"
    success.write_text(json.dumps({**SUCCESS, "status": {"success": 4, "failed_to_decode": 1}}))
    assert why(tmp_path) == ["scored again since it was filtered and compared"]
    success.write_text(json.dumps(SUCCESS))
    write_manifest(tmp_path / "in" / "date=2026-01-01" / "late.parquet", ROWS)
    assert why(tmp_path) == ["1 more files than when it was scored"]
    success.unlink()
    assert why(tmp_path) == ["its scores are gone or unfinished"]


def test_records_survive_their_files_and_damaged_ones_are_named(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    places = Places.of(config)
    written = replace(
        record(0),
        findings=tuple(judge(night(30), SHUFFLED.draw(np.random.default_rng(1)), MODEL, HISTORY, config.nightly).findings),
        compared_with=(night(3),),
    )
    nights.write_record(places, written, config)
    assert nights.read_records(places, config)[FIRST].as_json() == written.as_json()
    Path(places.record(FIRST)).write_text('{"night": "2026-01-01"}')
    with pytest.raises(OutputError, match=r"date=2026-01-01/drift\.json is not as capsieve writes it .*: delete it"):
        nights.read_records(places, config)


# ------------------------------------------------------------------ judgement

HISTORY = [record(number) for number in range(28)]
SETTINGS = Config().nightly


def judged(
    number: int, profile: Profile, records: list[Record], made_of: dict[str, Any] | None = None, **settings: Any
) -> Record:
    chosen = SETTINGS.model_copy(update=settings)
    findings, compared_with = judge(night(number), profile, made_of or MODEL, records, chosen)
    return record(number, profile, findings=findings, compared_with=compared_with, made_of=made_of or MODEL)


def quiet(number: int) -> Profile:
    return QUIET.draw(np.random.default_rng(number))


def test_a_quiet_night_is_in_order_and_says_what_it_was_compared_with() -> None:
    found = judged(28, quiet(28), HISTORY)
    assert (found.exit_code, found.verdict) == (0, "like the 28 nights before")
    assert found.compared_with == tuple(night(number) for number in range(28))
    assert judged(28, quiet(28), HISTORY, history=5).compared_with == tuple(night(number) for number in range(23, 28))


def test_later_nights_are_no_history_and_too_few_are_none() -> None:
    early = judged(2, SHUFFLED.draw(np.random.default_rng(0)), HISTORY)
    assert (early.exit_code, early.verdict) == (0, "no history to compare with yet")
    assert judged(3, quiet(99), HISTORY).compared_with == tuple(night(number) for number in range(3))


def test_a_night_that_alarmed_stays_out_of_the_history_until_it_is_accepted() -> None:
    strange = judged(28, SHUFFLED.draw(np.random.default_rng(0)), HISTORY)
    assert strange.exit_code == 4
    assert "itm_logit moved by KS 0.0" in strange.verdict
    assert night(28) not in judged(29, quiet(29), [*HISTORY, strange]).compared_with
    assert night(28) in judged(29, quiet(29), [*HISTORY, strange], accept_all=True).compared_with
    accepted = replace(strange, accepted="2026-02-01T00:00:00+00:00")
    assert accepted.exit_code == 0
    assert accepted.verdict.endswith("(accepted)")
    assert night(28) in judged(29, quiet(29), [*HISTORY, accepted]).compared_with


def test_another_model_is_an_alarm_even_where_its_scores_are_alike() -> None:
    other = {**MODEL, "model_sha256": "bb"}
    swapped = judged(28, quiet(28), HISTORY, other)
    assert (swapped.exit_code, [finding.measure for finding in swapped.drifted]) == (4, ["model"])
    assert "model swapped: since 2026-01-28, model_sha256 was 'aa', now 'bb'" in swapped.verdict
    assert judged(29, quiet(29), [*HISTORY, swapped], other).exit_code == 4, "as long as nobody accepts it"
    accepted = replace(swapped, accepted="now")
    new = judged(29, quiet(29), [*HISTORY, accepted], other)
    assert (new.exit_code, new.compared_with) == (0, ()), "and its history begins anew"
    assert judged(29, quiet(29), [*HISTORY, accepted], MODEL).exit_code == 4, "back is a change as well"


def test_too_many_failed_rows_are_not_in_order_either() -> None:
    dead = Profile(Counter({("success", None): 40, ("failed_to_download", "dns"): 60}), {}, quiet(0).histograms)
    found = record(0, dead)
    assert (found.exit_code, found.verdict) == (3, "60.0% of the rows failed, more than 50.0%")


def test_accepting_a_night_that_has_no_record_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, accept=["2026-01-05"])
    with pytest.raises(OutputError, match=r"no record of 2026-01-05 to accept: .*/out/_nightly has none"):
        nights.accept(Places.of(config), {}, config)
    with pytest.raises(OutputError, match=r"has 2026-01-01 to 2026-01-01; correct --nightly\.accept"):
        nights.accept(Places.of(config), {FIRST: record(0)}, config)


# ------------------------------------------------------------------ who is told


class Hook(BaseHTTPRequestHandler):
    """Keeps what is posted; answers as the path says."""

    received: list[dict[str, Any]] = []  # noqa: RUF012
    release = threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        if path == "/silent":
            self.release.wait(20)
        self.received.append(json.loads(body))
        self.send_response({"/ok": 204, "/moved": 302}.get(path, 500))
        self.send_header("Location", "/ok")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[str]:
    Hook.received.clear()
    Hook.release.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        Hook.release.set()
        server.shutdown()
        thread.join(5)


ALARM = Alarm(FIRST, "itm_logit moved by KS 0.100", 4, ({"measure": "ks"},))


def test_a_webhook_gets_the_alarm(hook: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alarm.call_webhook(ALARM, config_of(tmp_path, webhook=f"{hook}/ok"))
    (body,) = Hook.received
    assert body["text"] == f"capsieve: night 2026-01-01 below {tmp_path}/out: itm_logit moved by KS 0.100"
    assert (body["night"], body["exit_code"], body["findings"]) == ("2026-01-01", 4, [{"measure": "ks"}])
    assert caplog.records == []


@pytest.mark.parametrize(
    ("path", "complaint"), [("/broken", "it answered 500"), ("/moved", "it answered 302"), ("/silent", "TimeoutError")]
)
def test_a_webhook_that_fails_is_a_warning_without_its_secret(
    path: str, complaint: str, hook: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alarm.call_webhook(ALARM, config_of(tmp_path, webhook=f"{hook}{path}?token=secret", webhook_timeout_s=0.3))
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert complaint in line
    assert "secret" not in line


def test_a_webhook_that_nobody_listens_at_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alarm.call_webhook(ALARM, config_of(tmp_path, webhook="http://127.0.0.1:9/secret"))
    assert "ClientConnectorError" in caplog.text
    assert "secret" not in caplog.text


def test_the_secret_of_a_webhook_stays_out_of_what_outputs_say(tmp_path: Path) -> None:
    config = config_of(tmp_path, webhook="https://hooks.example/T0KEN")
    assert "T0KEN" not in json.dumps(config.model_dump(mode="json")) + repr(config)


def test_the_alarm_file_is_there_as_long_as_something_is_open(tmp_path: Path) -> None:
    config = config_of(tmp_path, alarm_file=f"{tmp_path}/alarm.json")
    alarm.write_file([ALARM], config)
    (found,) = json.loads((tmp_path / "alarm.json").read_text())["alarms"]
    assert found["night"] == "2026-01-01"
    alarm.write_file([], config)
    alarm.write_file([], config)
    assert not (tmp_path / "alarm.json").exists()


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


# ------------------------------------------------------------------ the whole, on a real cluster


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
