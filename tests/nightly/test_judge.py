"""Whether a night is in order, beside those before it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.nightly.judge import Record, judge
from pipeline.profiles import Profile
from tests.nightly.records import HISTORY, MODEL, night, record
from tests.nights import QUIET, SHUFFLED

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
