"""Nothing breaks out of the page: its JSON, its policy, its URLs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.report.page import embedded, render
from pipeline.report.pairs import shown_url

TEXTS = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            ["</script", ">", "<!--", "<script", "]]>", "{{data}}", "\\u003c", "&lt;", '"', "\\", "\u2028", "\x00", "x"]
        )
    ).map("".join),
)
VALUES = st.recursive(
    TEXTS | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=8
)


class Parts(HTMLParser):
    """The elements of a page, and the texts of its scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.texts: list[str] = []
        self.policy = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""
        if tag in ("script", "style"):
            self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag in ("script", "style") and data.strip():
            self.texts[-1] += data


@settings(deadline=None)
@given(VALUES)
@example("</script><script>alert(1)</script>")
@example("<!--<script>")
def test_json_says_the_same_and_holds_nothing_that_html_knows(value: object) -> None:
    text = embedded(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert not set(text) & set("<>&")


@settings(deadline=None)
@given(TEXTS, VALUES)
def test_no_text_makes_an_element(title: str, value: object) -> None:
    plain, hostile = (Parts(render({"title": t, "pairs": v}).decode()) for t, v in (("title", 1), (title, value)))
    assert hostile.elements == plain.elements
    assert [text for text in hostile.texts if "pairs" not in text[:40]] == [
        text for text in plain.texts if "pairs" not in text[:40]
    ]


def test_the_policy_allows_this_style_and_this_script_alone() -> None:
    page = render({"title": "t"}).decode()
    parts = Parts(page)
    style, _, script = parts.texts
    for name, text in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}';" in parts.policy
    assert parts.policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in parts.policy
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://(?!www\.w3\.org/2000/svg)", script
    )
    assert "</" not in script
    assert not re.search(r"url\(|@import", style)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/x.jpg?size=3#top", "https://a.example/x.jpg?size=3#top"),
        ("https://user:password@a.example/x.jpg", "https://a.example/x.jpg"),
        ("https://b.s3.amazonaws.com/x.jpg?X-Amz-Credential=A&X-Amz-Signature=abc&size=3", "https://b.s3.amazonaws.com/x.jpg"),
        ("https://a.example/x.jpg?access_token=abc", "https://a.example/x.jpg"),
        ("s3://bucket/x.jpg", "s3://bucket/x.jpg"),
        ("images/a b.jpg", "images/a b.jpg"),
        ("https://[broken/x.jpg?sig=abc", "https://[broken/x.jpg"),
        ("javascript:alert(1)", "javascript:alert(1)"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@settings(deadline=None)
@given(st.text())
def test_any_text_may_be_a_url(url: str) -> None:
    assert len(shown_url(url)) <= 401
