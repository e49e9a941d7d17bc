"""What sections of settings are made of: the frozen base, lists that may be one string, paths that become absolute.

Knows no setting.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A frozen group of settings that refuses names it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def as_list(value: Any) -> Any:
    """A single string as a list of it."""
    return [value] if isinstance(value, str) else value


StrList = Annotated[list[str], BeforeValidator(as_list)]


def absolute_path(path: str) -> str:
    """Local paths become absolute, because workers run in other directories; URLs stay as they are."""
    path = path.removeprefix("file://")
    if not path or "://" in path:
        return path.rstrip("/")
    return str(Path(path).expanduser().absolute())
