"""Numbers and texts -> one HTML page. Hostile text stays text: it travels as JSON that no tag can end, and the page's own
script writes it as text nodes; a policy in the page forbids every other script, every other style and every request.

The same contents give the same bytes. Knows nothing of where the contents come from.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib import resources
from typing import Any

SCRIPTS = ("dom.js", "charts.js", "threshold.js", "gallery.js", "tables.js", "page.js")
_FIELD = re.compile(r"\{\{(\w+)\}\}")


def render(contents: dict[str, Any]) -> bytes:
    """The page. `contents` is what page.js expects; `contents["title"]` is the headline."""
    style = _template("page.css")
    script = '"use strict";\n' + "\n".join(_template(name) for name in SCRIPTS)
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    fields = {
        "title": html.escape(str(contents["title"])),
        "policy": html.escape(policy, quote=True),
        "style": style,
        "script": script,
        "data": embedded(contents),
    }
    # one pass: what is put in is not looked at again
    return _FIELD.sub(lambda match: fields[match[1]], _template("page.html")).encode()


def embedded(value: Any) -> str:
    """JSON for a script element of type application/json: ASCII alone, and none of the characters that HTML knows.

    Raises ValueError for numbers that JSON does not have.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _digest(text: str) -> str:
    """A source expression that allows an inline element of exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _template(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
