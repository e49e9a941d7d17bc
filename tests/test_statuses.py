"""docs/statuses.md lists every status and reason there is, under its status, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.schema import Reason, Status

PAGE = Path(__file__).parents[1] / "docs" / "statuses.md"


def _documented() -> dict[str, set[str]]:
    reasons: dict[str, set[str]] = {}
    status = ""
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and cells[0] != "status" and not cells[0].startswith("-"):
            status = cells[0].strip("`") or status
            reasons.setdefault(status, set()).update(re.findall(r"`([^`]+)`", cells[1]))
    return reasons


def test_every_status_and_reason_has_its_line() -> None:
    documented = _documented()
    assert set(documented) == set(Status)
    listed = [reason for reasons in documented.values() for reason in reasons if not reason.startswith("http ")]
    assert sorted(listed) == sorted(Reason)


def test_reasons_stand_below_their_status() -> None:
    documented = _documented()
    assert {Reason.HOST_DOWN, Reason.CONTENT_CHANGED, Reason.TIMEOUT} <= documented[Status.FAILED_TO_DOWNLOAD]
    assert {Reason.EMPTY, Reason.CORRUPT} <= documented[Status.FAILED_TO_DECODE]
    assert documented[Status.INVALID_ROW] == {Reason.NO_IMAGE, Reason.BAD_URL, Reason.NO_CAPTION}
