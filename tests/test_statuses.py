"""The closed list of reasons and its page say the same."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.schema import Reason, Status

PAGE = Path(__file__).parent.parent / "docs" / "statuses.md"


def test_every_reason_has_its_line_in_the_docs_and_no_line_is_left_over() -> None:
    rows = [line.split("|")[1:3] for line in PAGE.read_text().splitlines() if line.startswith("|")]
    statuses = {name for status, _ in rows for name in re.findall("`(.+?)`", status)}
    reasons = {name for _, reason in rows for name in re.findall("`(.+?)`", reason)}
    assert statuses == set(Status)
    assert {reason for reason in reasons if not reason.startswith("http ")} == set(Reason)
