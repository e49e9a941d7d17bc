"""Known vulnerabilities of everything in requirements.lock, by pip-audit and OSV's database.

    python -m tests.audit PIP_AUDIT       (`make audit`, which installs it apart)

Ends with 1 where one is found. Where the database does not answer it says that nothing was audited, and ends with 0: CI may
be offline. pip-audit's other source, PyPI, answers "not found" from mirrors, and then looks as if all were well.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

LOCK = Path(__file__).parents[1] / "requirements.lock"
UNREACHABLE = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "ServiceError", "HTTPError")


class Verdict(NamedTuple):
    """What is printed, and the exit code."""

    lines: list[str]
    code: int


def judge(stdout: str, stderr: str) -> Verdict:
    """What pip-audit's answer (`--format json`) means."""
    try:
        packages = json.loads(stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (stderr.strip().splitlines() or ["it said nothing"])[-1]
        if any(word in stderr for word in UNREACHABLE):
            return Verdict([f"nothing was audited, the database of vulnerabilities does not answer: {last}"], 0)
        return Verdict([f"pip-audit failed: {last}"], 1)
    lines = []
    for package in packages:
        for found in package.get("vulns", []):
            mended = ", ".join(found["fix_versions"]) or "no version"
            lines.append(f"{package['name']} {package['version']}: {found['id']}, mended in {mended}")
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    counted = f"{len(packages) - len(skipped)} of {len(packages)} packages audited, {len(lines)} vulnerabilities"
    unknown = [f"not audited: {', '.join(skipped)}"] if skipped else []
    return Verdict([*lines, *unknown, counted], 1 if lines else 0)


def main(tool: str) -> int:
    command = [
        tool,
        "--requirement",
        str(LOCK),
        "--no-deps",
        "--disable-pip",
        "--vulnerability-service",
        "osv",
        "--format",
        "json",
    ]
    done = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, text=True, timeout=600, check=False)
    verdict = judge(done.stdout, done.stderr)
    print(*verdict.lines, sep="\n")  # noqa: T201 it is a program
    return verdict.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
