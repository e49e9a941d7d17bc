"""A night's record, and whether the night is in order: it looks like the nights before it, and few enough of its rows failed.

    OUTPUT/_nightly/date=YYYY-MM-DD/drift.json

is written last of all that is done for a night, in one PUT: a night that has it is done. It holds all that later nights are
compared with. A night that is not in order is done as well, but stays out of the history, and open, until somebody accepts it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, NamedTuple, Self

from pipeline import drift
from pipeline.drift import Finding
from pipeline.errors import OutputError
from pipeline.nightly_settings import NightlyConfig
from pipeline.profiles import Profile
from pipeline.provenance import differences

# Of all that an output is made of (`_run.json`), what its scores depend on; the rest is the form of the files.
SCORES_DEPEND_ON = ("model", "model_sha256", "image_size", "precision", "tf32", "itm_first_token", "images")
FAILED_ROWS, DRIFTED = 3, 4  # exit codes


@dataclass(frozen=True)
class Record:
    """What is known of a night that was scored, filtered and compared."""

    night: date
    files: int  # of the partition, when it was scored
    scored: str  # fingerprint of the output's `_SUCCESS`
    made_of: Mapping[str, Any]  # by the names of SCORES_DEPEND_ON
    profile: Profile
    kept: int  # rows that the filter kept
    max_failed_share: float  # the setting that the night was judged by
    findings: tuple[Finding, ...] = ()
    compared_with: tuple[date, ...] = ()
    accepted: str | None = field(default=None)  # when somebody accepted it; ISO 8601

    @property
    def drifted(self) -> list[Finding]:
        """What differs from the nights before it."""
        return [finding for finding in self.findings if finding.drifted]

    @property
    def exit_code(self) -> int:
        """What the night alone would end a run with; 0 where it is in order or accepted."""
        if self.accepted is not None:
            return 0
        if self.drifted:
            return DRIFTED
        return FAILED_ROWS if self.profile.failed_share > self.max_failed_share else 0

    @property
    def verdict(self) -> str:
        """One line without a night's name."""
        accepted = " (accepted)" if self.accepted is not None else ""
        complaints = [finding.text for finding in self.drifted]
        if self.profile.failed_share > self.max_failed_share:
            complaints.append(f"{self.profile.failed_share:.1%} of the rows failed, more than {self.max_failed_share:.1%}")
        if complaints:
            return "; ".join(complaints) + accepted
        nights = len(self.compared_with)
        return f"like the {nights} nights before" if nights else "no history to compare with yet"

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {
            "night": self.night.isoformat(),
            "verdict": self.verdict,
            "accepted": self.accepted,
            "findings": [finding.as_json() for finding in self.findings],
            "compared_with": [night.isoformat() for night in self.compared_with],
            "files": self.files,
            "scored": self.scored,
            "made_of": dict(self.made_of),
            "kept": self.kept,
            "max_failed_share": self.max_failed_share,
            "profile": self.profile.as_json(),
        }

    @classmethod
    def from_file(cls, url: str, data: bytes) -> Self:
        """What `as_json` made. Raises OutputError for anything else."""
        try:
            value = json.loads(data)
            return cls(
                night=date.fromisoformat(value["night"]),
                files=int(value["files"]),
                scored=str(value["scored"]),
                made_of=dict(value["made_of"]),
                profile=Profile.from_json(value["profile"]),
                kept=int(value["kept"]),
                max_failed_share=float(value["max_failed_share"]),
                findings=tuple(Finding(**finding) for finding in value["findings"]),
                compared_with=tuple(map(date.fromisoformat, value["compared_with"])),
                accepted=value["accepted"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(
                f"{url} is not as capsieve writes it ({error}): delete it, and its night is compared again"
            ) from None


class Judgement(NamedTuple):
    """What comparing gave."""

    findings: tuple[Finding, ...]  # all measures, those that drifted first
    compared_with: tuple[date, ...]


def judge(
    night: date, profile: Profile, made_of: Mapping[str, Any], records: Sequence[Record], settings: NightlyConfig
) -> Judgement:
    """Compare a night with the last nights before it that are in order and that one and the same model scored.

    Another model than the last night's is a finding of its own; the scores are compared all the same, which shows what the
    change did. Fewer nights than `min_history` are not compared with.
    """
    before = sorted(
        (one for one in records if one.night < night and (settings.accept_all or one.exit_code == 0)), key=lambda one: one.night
    )
    if not before:
        return Judgement((), ())
    latest = before[-1]
    findings = []
    difference = differences(latest.made_of, made_of)
    if difference:
        findings.append(drift.model_change(f"since {latest.night}, {difference}"))
    same = [one for one in before if one.made_of == latest.made_of][-settings.history :]
    if len(same) < settings.min_history:
        return Judgement(tuple(findings), ())
    findings += drift.compare(profile, [one.profile for one in same], settings)
    return Judgement(tuple(findings), tuple(one.night for one in same))
