"""What `make audit` makes of pip-audit's answers; the answers are its own, of the version that the Makefile names."""

from __future__ import annotations

import json

from tests.audit import judge

CLEAN = {"name": "click", "version": "8.5.1", "vulns": []}
SKIPPED = {"name": "ray", "skip_reason": "Dependency not found on PyPI and could not be audited: ray (2.60.0)"}
VULNERABLE = {
    "name": "jinja2",
    "version": "2.4.1",
    "vulns": [{"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"], "aliases": ["CVE-2019-10906"], "description": "..."}],
}


def answer(*packages: object) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_a_vulnerability_is_named_and_fails() -> None:
    lines, code = judge(answer(CLEAN, VULNERABLE), "Found 1 known vulnerability in 1 package")
    assert lines == ["jinja2 2.4.1: PYSEC-2019-217, mended in 2.10.1", "2 of 2 packages audited, 1 vulnerabilities"]
    assert code == 1


def test_what_was_not_audited_is_not_passed_over() -> None:
    assert judge(answer(CLEAN, SKIPPED), "") == (["not audited: ray", "1 of 2 packages audited, 0 vulnerabilities"], 0)


def test_a_database_that_does_not_answer_is_said_and_fails_nothing() -> None:
    lines, code = judge("", "Traceback\nrequests.exceptions.ConnectionError: Failed to resolve 'api.osv.dev'\n")
    assert lines == [
        "nothing was audited, the database of vulnerabilities does not answer: "
        "requests.exceptions.ConnectionError: Failed to resolve 'api.osv.dev'"
    ]
    assert code == 0


def test_any_other_failure_fails() -> None:
    assert judge("", "ERROR: invalid requirements input") == (["pip-audit failed: ERROR: invalid requirements input"], 1)
