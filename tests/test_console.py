"""What programs print: the live line, a line a minute without a terminal, the table by status, one line an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.bottleneck import Shares
from pipeline.errors import ConfigError
from pipeline.progress import Progress, Summary
from pipeline.tallies import Placeholder, WorstHost

JOBS = Path(__file__).parents[1] / "jobs"
HALF_WAY = Progress(
    rows=1_200, rows_left=1_200, success_share=0.75, rows_per_s=10.0, busy_share=0.5, shards_committed=1, elapsed_s=120
)
SHARES = Shares(60.0, busy=0.5, starved=0.5, download=0.2, decode=0.8, held=0.0, fetching=1.0, write_to_score=0.1)


@pytest.fixture(autouse=True)
def jobs_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(JOBS))


def test_the_progress_line_says_all() -> None:
    from console import progress_line

    assert progress_line(HALF_WAY) == "1,200 of 2,400 rows, 10.0 rows/s, 75% success, replicas busy 50%, 2 min 00 s left"


def test_without_a_terminal_a_line_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import console

    now = 1000.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.Console() as shown:
        for now in range(1000, 1181):  # noqa: B007 read by the clock
            shown.progressed(HALF_WAY)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("1,200 of 2,400 rows") == 3


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    from console import Console

    with Console(quiet=True) as shown:
        shown.starting("manifest")
        shown.progressed(HALF_WAY)
    assert capsys.readouterr() == ("", "")


def test_the_summary_has_a_line_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    from console import Console

    counts = Counter({("success", None): 6, ("failed_to_download", "http 404"): 1, ("failed_to_download", "timeout"): 3})
    stage_s = {"fetch": 1.0, "decode": 0.02, "score": 0.5}
    Console().summarise(Summary(10, 10, counts, 2, 65.0, 5.0, SHARES, stage_s, 99, "s3://b/o"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert lines[1:4] == [
        ["success", "6", "60.0%"],
        ["failed_to_download", "timeout", "3", "30.0%"],
        ["failed_to_download", "http", "404", "1", "10.0%"],
    ]
    assert "1 min 05 s" in " ".join(lines[4])
    assert " ".join(lines[5]) == "replicas busy 50%; held back by decoding: fetch tasks decoded 80% of their time; add CPUs"
    assert " ".join(lines[6]) == "10 rows in 2 files below s3://b/o"


def test_the_summary_names_the_worst_hosts_and_placeholders(capsys: pytest.CaptureFixture[str]) -> None:
    from console import Console

    summary = Summary(10, 10, Counter({("success", None): 10}), 2, 65.0, 5.0, SHARES, {}, 99, "s3://b/o")
    summary = summary._replace(
        worst_hosts=[WorstHost("a.example", 1200, "http 404", 1000), WorstHost("s3://[red]", 2, "not found", 2)],
        placeholders=[Placeholder("ab" * 32, 31)],
    )
    Console().summarise(summary)
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert ["a.example", "1,200", "http", "404", "(1,000)"] in lines
    assert ["s3://[red]", "2", "not", "found", "(2)"] in lines, "no markup"
    assert ["ab" * 32, "31"] in lines
    as_json = summary.as_json()
    assert as_json["worst_hosts"][0] == {"host": "a.example", "rows": 1200, "reason": "http 404", "reason_rows": 1000}
    assert as_json["placeholders"] == [{"sha256": "ab" * 32, "urls": 31}]


def test_a_users_mistake_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    from console import report_errors

    with pytest.raises(SystemExit) as caught, report_errors("score"):
        raise ConfigError("no manifest: name one")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "score: error: no manifest: name one\n"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_says_how_to_go_on(signum: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    from console import interrupts_raise, report_errors

    before = signal.getsignal(signum)
    with pytest.raises(SystemExit) as caught, report_errors("score"), interrupts_raise():
        signal.raise_signal(signum)
    assert caught.value.code == code
    assert f"stopped by {signum.name}" in capsys.readouterr().err
    assert signal.getsignal(signum) == before


@pytest.mark.parametrize("pause_s", [0.0, 1.5])
def test_a_second_signal_ends_a_program_that_is_slow_to_end_but_not_at_once(pause_s: float) -> None:
    """`timeout` sends its signal to the process and to its group: two that come together are one."""
    code = (
        "import time\nfrom console import interrupts_raise, report_errors\nwith report_errors('p'), interrupts_raise():\n"
        "    try:\n        print('ready', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        time.sleep(4)\n        print('clean', flush=True)\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{JOBS}{os.pathsep}{JOBS.parent}"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(pause_s)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest == ("" if pause_s else "clean\n")
