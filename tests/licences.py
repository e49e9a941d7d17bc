"""The licences of everything in requirements.lock, from what the packages say of themselves; docs/licences.md is made of it.

    python -m tests.licences > docs/licences.md       (`make licences`)

Needs the pinned environment, and no network. What a package says is taken as it says it: whether its wheel holds parts under
other licences is for its makers to tell (NumPy's and PyTorch's expressions do).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NVIDIA = "LicenseRef-NVIDIA-Proprietary"

# What may be used, changed and passed on with a notice. MPL-2.0 asks for more of whoever changes its own files alone.
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CNRI-Python", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib",
}  # fmt: skip
# NVIDIA's: free to use and, as PyTorch's dependencies, to install; not ours to pass on. PyTorch's CPU wheels need none of them.
EXCEPTIONS = {NVIDIA: ["cuda-toolkit", "nvidia-"]}

# Where a package has no expression: how its classifier or its field of free text begins, in lower case.
WORDS = (
    (r"(the )?mit\b", "MIT"),
    (r"apache", "Apache-2.0"),
    (r"(the )?(bsd[- ]2|2-clause bsd)", "BSD-2-Clause"),
    (r"(the )?(bsd[- ]3|3-clause bsd)", "BSD-3-Clause"),
    (r"bsd", "BSD"),  # which of them, it does not say
    (r"isc", "ISC"),
    (r"mozilla|mpl-2\.0$", "MPL-2.0"),
    (r"(python software foundation|psf)", "PSF-2.0"),
    (r"licenseref-nvidia|nvidia proprietary", NVIDIA),
)
SAYS_NOTHING = {"cuda-toolkit": NVIDIA}  # a package without files, which names NVIDIA's others


class Licence(NamedTuple):
    """A pinned package, what it may be used under, and who needs it."""

    name: str
    version: str
    expression: str
    needed_by: str  # capsieve | an extra | development

    @property
    def allowed(self) -> bool:
        """Whether one of the alternatives has only parts that are allowed, or it is an exception by name."""
        if self.expression in EXCEPTIONS:
            return self.name.startswith(tuple(EXCEPTIONS[self.expression]))
        return any(set(one.split(" AND ")) <= ALLOWED for one in self.expression.split(" OR "))


def pinned() -> dict[str, str]:
    """Versions of requirements.lock, by canonical name."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return {
        canonicalize_name(name): version.split()[0] for name, _, version in (line.partition("==") for line in lines if line)
    }


def closure(wanted: list[str]) -> set[str]:
    """Canonical names of these requirements and of all that they require here, in turn."""
    found: set[tuple[str, str]] = set()
    open_ends = [(Requirement(one), "") for one in wanted]
    while open_ends:
        requirement, extra = open_ends.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for asked in {"", *requirement.extras}:
            key = (canonicalize_name(requirement.name), asked)
            if key not in found:
                found.add(key)
                open_ends += [(Requirement(one), asked) for one in distribution(requirement.name).requires or []]
    return {name for name, _ in found}


def expression(package: Distribution) -> str:
    """SPDX as far as the package's metadata allow it. Raises LookupError where they tell nothing that we know."""
    metadata = package.metadata
    if "License-Expression" in metadata:
        return str(metadata["License-Expression"])
    classified = [text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier") or [] if text.startswith("License ::")]
    free = str(metadata["License"] or "").strip() if "License" in metadata else ""
    if re.fullmatch(r"[\w.+-]+-[\d.]+( AND [\w.-]+)*", free) and set(free.split(" AND ")) <= ALLOWED:
        return free  # an expression in the old field
    for text in [*classified, free]:
        for beginning, known in WORDS:
            if re.match(beginning, text.lower()):
                more = known == "BSD" and re.match(r"bsd[- ]([23])", free.lower())
                return f"BSD-{more[1]}-Clause" if more else known
    if (name := canonicalize_name(metadata["Name"])) in SAYS_NOTHING:
        return SAYS_NOTHING[name]
    raise LookupError(f"{metadata['Name']} says nothing of its licence that is known here: {classified} {free[:80]!r}")


def licences() -> Iterator[Licence]:
    """Of every pinned package, in the lock's order. Raises PackageNotFoundError where the environment is another one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = {"capsieve": closure(project["dependencies"])}
    needs |= {extra: closure(wanted) for extra, wanted in project["optional-dependencies"].items()}
    for name, version in pinned().items():
        package = distribution(name)
        if package.version != version:
            raise LookupError(f"{name} {package.version} is installed, requirements.lock has {version}: make setup")
        needed_by = next((who for who, names in needs.items() if name in names), "development")
        yield Licence(name, version, expression(package), needed_by)


def page() -> str:
    """docs/licences.md."""
    found = list(licences())
    lines = [
        "# Licences of what capsieve needs",
        "",
        "Made by `make licences` from what the packages of `requirements.lock` say of themselves. `tests/test_licences.py`",
        "keeps it so, and lets pass what may be used, changed and passed on with a notice. capsieve itself is BSD-3-Clause;",
        "the BERT vocabulary in its package is Apache-2.0. Neither wheel nor working directory holds any of these packages.",
        "",
        f"`{NVIDIA}`: NVIDIA's CUDA libraries, which PyTorch's wheel for GPUs asks for. Free to use under",
        "NVIDIA's terms, which come with them; read those before you put them into an image that others get. PyTorch's wheels",
        "for CPUs need none of them. `BSD`: the package does not say which of its clauses; its licence file does.",
    ]
    for who, title in (
        ("capsieve", "What a run needs"),
        ("gcs", "Google Cloud Storage (`capsieve[gcs]`)"),
        ("notebook", "The notebook (`capsieve[notebook]`)"),
        ("development", "Tests and development"),
    ):
        lines += ["", f"## {title}", "", "| package | version | licence |", "|---|---|---|"]
        lines += [f"| {one.name} | {one.version} | {one.expression} |" for one in found if one.needed_by == who]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 it is a program
