"""Who is told that a night is not in order: a file, and a webhook. Whoever runs the program reads its line and its exit code.

A webhook that fails is a warning: the alarm stands in the record, and in the exit code of every run until it is accepted.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

import aiohttp

from pipeline import storage
from pipeline.config import Config
from pipeline.errors import StorageError
from pipeline.nightly.judge import Record

log = logging.getLogger(__name__)


class Alarm(NamedTuple):
    """A night that is not in order, or that failed."""

    night: date
    text: str  # one line
    exit_code: int
    findings: tuple[dict[str, Any], ...] = ()

    def as_json(self, output: str) -> dict[str, Any]:
        """For files and webhooks; `text` is what chat programs show."""
        return {
            "text": f"capsieve: night {self.night} below {output}: {self.text}",
            "night": self.night.isoformat(),
            "output": output,
            "exit_code": self.exit_code,
            "findings": list(self.findings),
        }


def alarm_of(record: Record) -> Alarm:
    """The alarm of a night that is not in order."""
    return Alarm(record.night, record.verdict, record.exit_code, tuple(finding.as_json() for finding in record.drifted))


def write_file(alarms: Sequence[Alarm], config: Config) -> None:
    """Write `nightly.alarm_file`, all open alarms in it; where there are none, there is no file."""
    url = config.nightly.alarm_file
    if url is None:
        return
    try:
        if alarms:
            text = json.dumps({"alarms": [alarm.as_json(config.output.path) for alarm in alarms]}, indent=2)
            storage.write_bytes(url, text.encode(), config.storage)
        else:
            storage.delete_files([url], config.storage)
    except StorageError as error:
        log.warning("cannot write nightly.alarm_file: %s", error)


def call_webhook(alarm: Alarm, config: Config) -> None:
    """POST an alarm to `nightly.webhook`. Takes `webhook_timeout_s` at most, and logs a warning where it fails.

    The URL is a secret and never logged. Redirects are not followed.
    """
    if config.nightly.webhook is None:
        return
    try:
        status = asyncio.run(
            _post(
                config.nightly.webhook.get_secret_value(), alarm.as_json(config.output.path), config.nightly.webhook_timeout_s
            )
        )
    except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
        log.warning("the alarm of %s did not reach nightly.webhook: %s", alarm.night, type(error).__name__)
        return
    if not 200 <= status < 300:
        log.warning("the alarm of %s did not reach nightly.webhook: it answered %d", alarm.night, status)


async def _post(url: str, body: dict[str, Any], timeout_s: float) -> int:
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
        session.post(url, json=body, allow_redirects=False) as response,
    ):
        return response.status
