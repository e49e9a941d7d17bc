"""The page in a real Chromium: it draws, counts, obeys the keyboard, fits a phone, loads nothing and runs nobody's script."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.config import OutputConfig
from pipeline.report.run import write_report
from tests.browser import chromium
from tests.report.outputs import FILES, HOSTILE, config_of, write_output

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first one may have to install the browser


class Opened:
    """A page that notes whatever it says, asks for, or trips over."""

    def __init__(self, page: Page, report: Path) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(report.as_uri())

    def check(self) -> None:
        """Nothing was said, and nothing asked for but the page itself."""
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith("data:")] == [self.page.url]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with thumbnails and heat maps."""
    folder = write_output(tmp_path_factory.mktemp("page"))
    maps = folder / "maps"
    maps.mkdir()
    (maps / "0.png").write_bytes((folder / "images" / "0.jpg").read_bytes())
    frame = pd.read_parquet(folder / "scored" / "a.parquet")
    pictures = {key: [{"caption": words, "image": "0.png"}] for key, words in zip(frame.id, frame.words, strict=True)}
    index = {key: {"captions": captions} for key, captions in pictures.items()}
    (maps / "index.json").write_text(json.dumps(index))
    (folder / "images" / "7.jpg").unlink()
    write_report(config_of(folder, gallery=24, explanations=str(maps)))
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests here."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Opened]:
    """The page on a desk."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    opened = Opened(page, report)
    yield opened
    opened.check()
    page.close()


def scored(report: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(report.parent / "scored" / name) for name in FILES], ignore_index=True)


def test_the_slider_moves_the_counts(opened: Opened, report: Path) -> None:
    page, frame = opened.page, scored(report)
    expect(page.locator("#kept-count")).to_have_text(f"{(frame.itm_score >= 0.5).sum()} of 300 scored pairs")
    expect(page.locator("#command")).to_have_text("--filter.min_itm 0.5")
    page.locator("#itm").focus()
    for _ in range(20):  # by keyboard, a step of 0.005 each
        page.keyboard.press("ArrowRight")
    expect(page.locator("#itm-value")).to_have_text("0.6")
    expect(page.locator("#kept-count")).to_have_text(f"{(frame.itm_score >= 0.6).sum()} of 300 scored pairs")
    page.locator("#itc").evaluate("e => { e.value = 260; e.dispatchEvent(new Event('input')); }")
    expect(page.locator("#itc-value")).to_have_text("0.3")
    kept = int(((frame.itm_score >= 0.6) & (frame.itc_similarity >= 0.3)).sum())
    expect(page.locator("#kept-count")).to_have_text(f"{kept} of 300 scored pairs")
    expect(page.locator("#kept-share")).to_have_text(f"{kept / 3:.1f} %")
    expect(page.locator("#command")).to_have_text("--filter.min_itm 0.6 --filter.min_itc 0.3")
    expect(page.locator("#itm")).to_have_attribute("aria-valuetext", re.compile(rf"0\.6: keeps {kept} of 300 pairs"))
    page.get_by_role("button", name="Reset thresholds").click()
    expect(page.locator("#kept-count")).to_have_text(f"{(frame.itm_score >= 0.5).sum()} of 300 scored pairs")
    page.locator("#itm").press("Home")
    expect(page.locator("#kept-share")).to_have_text("100.0 %")
    expect(page.locator("#command-line")).to_be_hidden()


def test_galleries_load_and_say_what_is_kept(opened: Opened) -> None:
    page = opened.page
    for name in ("best", "borderline", "worst", "range"):
        gallery = page.locator(f"ul[aria-labelledby=gallery-{name}]")
        assert gallery.locator("li").count() >= 20
        assert gallery.locator("li:visible").count() == 12
        assert gallery.locator("img").evaluate_all("all => all.every(image => image.complete && image.naturalWidth > 0)")
    missing = page.locator(".missing").all_text_contents()
    assert missing
    assert set(missing) == {"no image: not found"}
    best, worst = (page.locator(f"ul[aria-labelledby=gallery-{name}] .badge") for name in ("best", "worst"))
    assert set(best.all_text_contents()) == {"kept"}
    assert set(worst.all_text_contents()) == {"dropped"}
    page.locator("#itm").press("Home")
    assert set(worst.all_text_contents()) == {"kept"}
    page.get_by_role("button", name="Show all 24").first.click()
    assert page.locator("ul[aria-labelledby=gallery-best] li:visible").count() == 24


def test_hostile_captions_are_text(opened: Opened) -> None:
    page = opened.page
    texts = page.locator(".caption").all_text_contents()
    for caption in (HOSTILE[0], HOSTILE[1], HOSTILE[2]):
        assert caption in texts
    assert page.evaluate("window.broken") is None
    assert page.locator("script").count() == 2
    assert page.locator(".caption *").count() == 0
    arabic = page.locator(".caption", has_text=HOSTILE[2]).first
    assert arabic.evaluate("e => getComputedStyle(e).direction") == "rtl"
    details = page.locator("ul[aria-labelledby=gallery-best] > li").first.locator("details").last
    details.locator("summary").click()
    expect(details.locator("dl")).to_contain_text("itm_logit")
    assert page.locator("a[href^=javascript]").count() == 0


def test_heat_maps_come_on_demand(opened: Opened) -> None:
    why = opened.page.locator(".why:visible").first
    assert why.locator("img").count() == 0
    why.locator("summary").press("Enter")
    expect(why.locator("img")).to_be_visible()
    assert why.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def test_charts_have_tables(opened: Opened, report: Path) -> None:
    page, frame = opened.page, scored(report)
    page.get_by_text("itm_score as a table", exact=True).click()
    tables = page.locator("#score-tables table")
    expect(tables).to_have_count(1)
    rows = tables.first.locator("tbody tr")
    cells = rows.nth(25).locator("th, td").all_text_contents()
    within = int(((frame.itm_score >= 0.5) & (frame.itm_score < 0.52)).sum())
    assert cells[:4] == ["0.5", "0.52", str(within), str(int((frame.itm_score >= 0.5).sum()))]
    total = sum(int(text) for text in rows.locator("td:nth-child(3)").all_text_contents())
    assert total == 300
    page.get_by_text("Both scores as a table", exact=True).click()
    expect(tables).to_have_count(2)
    joint = tables.last.locator("tbody td").all_text_contents()
    assert sum(map(int, joint)) == 300
    page.get_by_text("All settings").click()
    expect(page.locator("#origins pre")).to_contain_text("<b>m</b>")
    expect(page.locator("#statuses")).to_contain_text("http 404")
    expect(page.locator("#hosts")).to_contain_text("gone.example")
    expect(page.locator("#runs")).to_contain_text("12.3 rows a second")


def test_names_and_landmarks(opened: Opened) -> None:
    """What a screen reader goes by."""
    page = opened.page
    assert page.locator("main").count() == 1
    for name in ("itm_score at least", "itc_similarity at least"):
        assert page.get_by_role("slider", name=name).count() == 1
    nameless = page.evaluate(NAMELESS)
    assert nameless == 0
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the threshold")).to_be_focused()


def test_lists_of_captions_and_no_scores_at_all(browser: Browser, tmp_path: Path) -> None:
    folder = write_output(tmp_path, lists=True)
    summary = write_report(config_of(folder, thumbnails=False))
    for name in FILES:
        table = pq.read_table(folder / "scored" / name, partitioning=None)
        pq.write_table(table.filter(pc.not_equal(table["status"].cast("string"), "success")), folder / "scored" / name)
    empty = config_of(folder, thumbnails=False).model_copy(update={"output": OutputConfig(path=str(folder / "empty.html"))})
    write_report(empty)
    page = browser.new_page()
    opened = Opened(page, folder / "report.html")
    expect(page.locator("#kept-count")).to_have_text(f"{summary.at_threshold} of {summary.scored} scored captions")
    expect(page.locator("#command")).to_have_text("--filter.min_itm 0.5 --filter.captions explode")
    assert page.locator(".frame").count() == 0
    opened.check()
    opened = Opened(page, folder / "empty.html")
    expect(page.locator("#kept-count")).to_have_text("0 of 0 scored captions")
    expect(page.locator("#galleries")).to_have_text("No pair is shown.")
    page.locator("#logarithmic").check()
    opened.check()
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_in_light_and_dark(browser: Browser, report: Path, scheme: str, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    opened = Opened(page, report)
    for summary in page.locator("summary:visible").all()[:8]:
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    contrast = page.evaluate(CONTRAST)
    assert {name: ratio for name, ratio in contrast.items() if ratio < 4.5} == {}, "WCAG 2.2, AA"
    opened.check()
    page.close()


# How many elements that need a name have none.
NAMELESS = """() => [...document.querySelectorAll("img, svg, input, section, [role=region]")].filter((e) =>
  !(e.alt || e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.labels?.length)).length"""

# Contrast of what is written, by selector: WCAG's relative luminances of the colour and of the ground behind it.
CONTRAST = """() => {
  const luminance = (rgb) => rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (e) => {
    const c = parse(getComputedStyle(e).backgroundColor);
    return c[3] === 0 ? ground(e.parentElement) : c.slice(0, 3);
  };
  const names = ["h1", "#lead", ".eyebrow", "nav a", "#kept-share", ".command", "figcaption span", ".caption", ".cosine",
    ".badge", ".is-kept .badge", "summary", "thead th", ".note", "button", ".facts dt"];
  return Object.fromEntries(names.map((name) => {
    const e = document.querySelector(name);
    const colours = [parse(getComputedStyle(e).color).slice(0, 3), ground(e)];
    const [a, b] = colours.map(luminance).sort((x, y) => y - x);
    return [name, (a + 0.05) / (b + 0.05)];
  }));
}"""
