"""Who hears of an alarm, and what no log tells."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from pipeline.nightly import alarm
from pipeline.nightly.alarm import Alarm
from tests.nightly.records import FIRST, config_of
from tests.servers import serving


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
    with serving(Hook) as url:
        yield url
        Hook.release.set()


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
