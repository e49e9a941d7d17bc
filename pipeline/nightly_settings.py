"""Settings of the nightly job: which nights, what they are compared with, and from where on a difference is an alarm.

Where each default comes from is in docs/nightly.md. Knows nothing of how nights are scored or compared.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator

from pipeline.sections import Section, absolute_path


def _as_dates(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class NightlyConfig(Section):
    """Which nights are scored, and when a night is an alarm."""

    since: date | None = None
    """First night that is looked at, e.g. 2026-01-01; unset: the first there is."""
    until: date | None = None
    """Last night that is looked at; unset: the last there is."""
    accept: Annotated[list[date], BeforeValidator(_as_dates)] = Field(default_factory=list)
    """Nights that are not in order and that somebody has looked at: from now on they are history like any other."""
    accept_all: bool = False
    """Take every night into the history, whether it alarmed or not. An alarm is then said once, and not kept open."""
    history: int = Field(default=28, ge=2)
    """Compare with so many nights before: four weeks, so that every day of the week is in it equally often."""
    min_history: int = Field(default=3, ge=2)
    """With fewer nights than this, nothing is compared."""
    ks: float = Field(default=0.03, gt=0, le=1)
    """Kolmogorov-Smirnov distance of a score that is let pass: so much more or less of the rows lies above some threshold."""
    psi: float = Field(default=0.1, gt=0)
    """Population stability index of a score that is let pass; by convention 0.1 is a moderate change, 0.25 a large one."""
    failures: float = Field(default=0.03, gt=0, le=1)
    """Rise of a failure's share of the rows, by status, that is let pass: 0.03 is three points."""
    host: float = Field(default=0.02, gt=0, le=1)
    """Rise of the share of the rows that fail at one host that is let pass."""
    rows: float = Field(default=2.0, gt=1)
    """Rows of a night, as a multiple of the usual (or the usual as a multiple of the night's), that are let pass."""
    false_alarms: float = Field(default=0.001, gt=0, lt=0.5)
    """Chance of an alarm by one measure on a night like those before. Where the history varies much, this decides, and not
    the settings above."""
    stop_on_failure: bool = False
    """Leave later nights alone when one fails. Otherwise they are done, and the exit code tells the worst."""
    marker: str | None = Field(default=None, pattern=r"^[^/]+$")
    """Leave a partition alone that does not hold a file of this name yet, such as _SUCCESS, which Spark writes last."""
    filtered: str = ""
    """Folder of the filtered nights; empty: _filtered in output.path."""
    alarm_file: str | None = None
    """Write alarms to this file as JSON: a path, s3:// or gs://."""
    webhook: SecretStr | None = None
    """POST alarms as JSON to this http(s) URL. Its `text` is what Slack's and Mattermost's webhooks show."""
    webhook_timeout_s: float = Field(default=10.0, gt=0, le=300)
    """So long the webhook may take, all in all; without an answer, it is a warning."""

    @field_validator("filtered", "alarm_file")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        return absolute_path(value) if value else value

    @field_validator("webhook")
    @classmethod
    def _http(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("http://", "https://")):
            raise ValueError("a webhook is an http:// or https:// URL")
        return value

    @field_validator("until")
    @classmethod
    def _ordered(cls, value: date | None, info: ValidationInfo) -> date | None:
        since = info.data.get("since")
        if value is not None and since is not None and since > value:
            raise ValueError(f"until is before since, {since}")
        return value
