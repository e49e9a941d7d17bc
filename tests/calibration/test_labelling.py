"""The labelling page: whatever captions hold, nothing but the page's own script can run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calibration.labelling import MAX_TEXT, labelling_page, safe_json

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>&lt;img src=x onerror=alert(1)>",
    "\u2028\u2029\u202e\x00\x1b[31m",
    "SAMPLE_DATA SCRIPT_HASH STYLE_HASH",
    "قطة على أريكة",
    '"; alert(1); "',
]


def table(**columns: list[Any]) -> pa.Table:
    count = len(next(iter(columns.values())))
    defaults = {
        "key": [f"k{number}" for number in range(count)],
        "url": ["https://a.example/1.jpg"] * count,
        "caption": ["a caption"] * count,
        "stratum": [0] * count,
        "stratum_rows": [9] * count,
    }
    return pa.table({**defaults, **columns})


class Page(HTMLParser):
    """The elements of a page as a browser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = f"{tag}[{dict(attrs).get('type')}]" if tag in ("script", "style") else tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self.inside, []).append(data)

    @property
    def data(self) -> dict[str, Any]:
        """What the script gets."""
        found: dict[str, Any] = json.loads("".join(self.text["script[application/json]"]))
        return found


def test_hostile_text_stays_text() -> None:
    count = len(HOSTILE)
    page = Page(labelling_page(table(caption=HOSTILE, key=HOSTILE, url=HOSTILE), HOSTILE[0]))
    harmless = Page(labelling_page(table(caption=["a"] * count), "title"))
    assert page.elements == [
        (tag, attributes if "content" not in attributes else own)
        for (tag, attributes), (_, own) in zip(harmless.elements, page.elements, strict=True)
    ], "no caption adds an element or an attribute"
    assert [row["caption"] for row in page.data["rows"]] == HOSTILE
    assert [row["key"] for row in page.data["rows"]] == HOSTILE
    assert page.data["title"] == HOSTILE[0]
    assert all("image" not in row for row in page.data["rows"]), "none of these is a web address"


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_json_in_a_script_element(text: str) -> None:
    written = safe_json({"text": text})
    assert json.loads(written)["text"] == text
    assert not set(written) & set("<>&\u2028\u2029")


def test_the_policy_allows_the_pages_own_script_and_style_alone() -> None:
    text = labelling_page(table(caption=HOSTILE), "title")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    for kind in ("script", "style"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert directives[f"{kind}-src"] == f"'sha256-{digest}'"
    script = text[text.rindex("<script>") :]
    for sink in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "javascript:"):
        assert sink not in script
    page = Page(text)
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src", "href")], tag


def test_images_from_the_web_or_out_of_the_sample() -> None:
    urls = ["https://a.example/x.jpg", "HTTP://b.example/", "s3://bucket/x", "javascript:alert(1)", "data:text/html,x", None]
    page = Page(labelling_page(table(url=urls), "title"))
    assert [row.get("image") for row in page.data["rows"]] == [urls[0], urls[1], None, None, None, None]
    assert [row["url"] for row in page.data["rows"]] == urls
    page = Page(labelling_page(table(url=urls[:2], image=[b"\xff\xd8\xff", None]), "title"))
    assert [row["image"] for row in page.data["rows"]] == ["data:image/jpeg;base64,/9j/", urls[1]]


def test_nobody_sees_the_score_and_progress_belongs_to_one_sample() -> None:
    first = Page(labelling_page(table(itm_score=[0.123456, 0.7], label=[None, None]), "title"))
    assert set(first.data["rows"][0]) == {"key", "caption", "url", "image", "stratum", "stratum_rows"}
    again = Page(labelling_page(table(itm_score=[0.1, 0.7], label=[None, None]), "another title"))
    other = Page(labelling_page(table(key=["k1", "k0"]), "title"))
    assert first.data["sample"] == again.data["sample"] != other.data["sample"]


def test_endless_captions_are_cut() -> None:
    page = Page(labelling_page(table(caption=["x" * 1_000_000]), "title"))
    assert page.data["rows"][0]["caption"] == "x" * MAX_TEXT


@pytest.mark.parametrize("name", ["good", "bad", "skip", "undo", "export", "keys"])
def test_every_control_has_a_name(name: str) -> None:
    text = labelling_page(table(caption=["a"]), "title")
    assert re.search(rf'id="{name}"', text)
    ((_, language),) = [(tag, attributes.get("lang")) for tag, attributes in Page(text).elements if tag == "html"]
    assert language == "en"
