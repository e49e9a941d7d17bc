"""The labelling page: one HTML file that shows the rows of a sample and exports labels as `labels` reads them.

Captions, URLs and keys are anybody's text. They lie in the page as JSON in which nothing can end the script or the string, are
shown by `textContent` alone, and the page's content security policy allows its own script and style, by hash, images, and
nothing else. The score isn't in the page: it would be what people label. Knows nothing of how rows are drawn.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa

MAX_TEXT = 10_000  # characters of a caption or URL that are shown
TEMPLATE = Path(__file__).with_name("labelling.html")
# What could end a script element, begin a comment or an entity, or end a line of JavaScript.
ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def labelling_page(rows: pa.Table, title: str) -> str:
    """The page, of a sample's table (`sample.Sample.table`). title: shown as text; part of nothing else."""
    items = [_item(row) for row in rows.to_pylist()]
    content = json.dumps(items, ensure_ascii=False, sort_keys=True)
    sample = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    data = safe_json({"title": title, "sample": sample, "rows": items})
    template = TEMPLATE.read_text(encoding="utf-8")
    for kind in ("script", "style"):
        template = template.replace(f"{kind.upper()}_HASH", _hash(template, kind))
    return template.replace("SAMPLE_DATA", data)  # last: nothing of the data is looked at as template


def safe_json(value: Any) -> str:
    """JSON that may stand in a script element, whatever texts are in it."""
    return json.dumps(value, ensure_ascii=False).translate(ESCAPES)


def _item(row: dict[str, Any]) -> dict[str, Any]:
    """One row for the page; image: a data URL of its thumbnail, else the URL where a browser may fetch it."""
    item = {name: row[name] for name in ("key", "stratum", "stratum_rows")}
    caption, url = (text and text[:MAX_TEXT] for text in (row["caption"], row["url"]))
    if row.get("image") is not None:
        item["image"] = "data:image/jpeg;base64," + base64.b64encode(row["image"]).decode()
    elif url is not None and re.match(r"https?://", url, re.IGNORECASE):
        item["image"] = url
    return {**item, "caption": caption, "url": url}


def _hash(template: str, kind: str) -> str:
    """The content security policy's name for the page's own script or style."""
    found = re.search(rf"<{kind}>(.*?)</{kind}>", template, re.DOTALL)
    if found is None:
        raise ValueError(f"the template has no {kind}")
    return "'sha256-" + base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode() + "'"
