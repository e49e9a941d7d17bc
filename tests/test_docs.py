"""Whether what the documentation names is there: links, files of the repository, settings, modules."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.config import Config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("benchmarks", "configs", "docs", "jobs", "notebooks", "pipeline", "tests")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./*-]*\w\b|(?<![\w./-])(?:{'|'.join(FOLDERS)})/(?=[`\s,])")
FLAG = re.compile(r"(?<![\w-])--([a-z]\w*(?:\.\w+)+)")
CODE = re.compile(r"`([^`\n]+)`")
MODULE = re.compile(r"\bpipeline(?:\.\w+)+")
FILE_ENDINGS = ("py", "html", "json", "yaml", "md", "csv", "parquet", "js", "css", "safetensors", "pth")


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Paths of all sections and settings below a model."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")


SETTINGS = set(fields(Config))


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param  # type: ignore[no-any-return]


def headings(page: Path) -> set[str]:
    """What links may name behind a #, as GitHub makes it of headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if re.match(r"\w+:", link):
            continue  # the web
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def test_files_are_there(page: Path) -> None:
    for path in PATH.findall(page.read_text()):
        assert any(ROOT.glob(path.rstrip("/"))), path


def test_settings_are_settings(page: Path) -> None:
    text = page.read_text()
    assert [flag for flag in FLAG.findall(text) if flag not in SETTINGS] == []
    named = [word for code in CODE.findall(text) if re.fullmatch(r"[a-z]\w*(\.[a-z]\w*)+", word := re.split(r"[ :=]", code)[0])]
    sections = [word for word in named if word.partition(".")[0] in Config.model_fields]
    assert [word for word in sections if word not in SETTINGS and word.rpartition(".")[2] not in FILE_ENDINGS] == []


def test_modules_are_there(page: Path) -> None:
    for name in MODULE.findall(page.read_text()):
        assert name.rpartition(".")[2] in FILE_ENDINGS or is_there(name), name


def is_there(name: str) -> bool:
    """Whether there is such a module, or one whose text has the last part of the name. Nothing but packages is imported."""
    module, _, last = name.rpartition(".")
    try:
        if importlib.util.find_spec(name):
            return True
    except ModuleNotFoundError:  # the module before the last dot is none, or no package
        pass
    source = importlib.util.find_spec(module)
    return source is not None and re.search(rf"\b{last}\b", Path(source.origin or "").read_text()) is not None
