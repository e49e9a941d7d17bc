"""The labelling page in a real browser: keys, progress that stays, an export that `fit` reads, hostile captions as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page

from pipeline.calibration.labelling import labelling_page
from pipeline.calibration.labels import read_labels
from pipeline.config import StorageConfig
from tests.browser import chromium
from tests.calibration.test_labelling import table

CAPTIONS = [
    "a red bicycle",
    "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">",
    "قطة نائمة على أريكة",
    'line one\nline two, with a "quote"',
]
KEYS = ["plain", 'with "quotes", and commas', " spaces ", "ключ"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(accept_downloads=True, viewport={"width": 900, "height": 700}) as context:
        yield context


class Opened:
    """The page, and all that it complained of or asked the network for."""

    def __init__(self, context: BrowserContext, file: Path) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def text(self, name: str) -> str:
        return self.page.locator(f"#{name}").inner_text()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    sink = io.BytesIO()
    Image.new("RGB", (300, 200), "teal").save(sink, "JPEG")
    rows = table(caption=CAPTIONS, key=KEYS, image=[sink.getvalue()] * 4, stratum=[0, 1, 0, 1], stratum_rows=[40, 60, 40, 60])
    path = tmp_path / "label.html"
    path.write_text(labelling_page(rows, "4 captions to label"), encoding="utf-8")
    return path


def test_keys_progress_and_an_export_that_fit_reads(context: BrowserContext, file: Path, tmp_path: Path) -> None:
    opened = Opened(context, file)
    assert opened.text("caption") == CAPTIONS[0]
    assert opened.page.locator("#frame img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 300
    opened.press("y")
    assert opened.text("caption") == CAPTIONS[1], "markup is shown, not run"
    opened.press("n", "u")
    assert opened.text("caption") == CAPTIONS[1]
    opened.press("Backspace")
    assert opened.text("count") == "0 of 4"
    opened.press("Y", "n", "s", "Control+y")
    assert opened.text("count") == "3 of 4"
    opened.page.reload()
    assert opened.text("count") == "3 of 4", "progress is kept"
    opened.page.get_by_role("button", name="Good").click()
    assert opened.page.locator("#done").is_visible()
    assert opened.page.get_by_role("button", name="Bad").is_disabled()
    with opened.page.expect_download() as download:
        opened.page.get_by_role("button", name="Export").click()
    download.value.save_as(tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open(newline="", encoding="utf-8") as exported:
        rows = list(csv.DictReader(exported))
    assert [(row["key"], row["label"]) for row in rows] == list(zip(KEYS, ("good", "bad", "skip", "good"), strict=True))
    labels = read_labels(str(tmp_path / "labels.csv"), StorageConfig())
    assert [(entry.key, entry.good, entry.stratum, entry.stratum_rows) for entry in labels.labels] == [
        (KEYS[0], True, "0", 40),
        (KEYS[1], False, "1", 60),
        (KEYS[3], True, "1", 60),
    ]
    assert labels.accounts.skipped == 1
    assert opened.page.title() == "4 captions to label"
    assert opened.complaints == []
    assert {url.partition(":")[0] for url in opened.requests} <= {"file", "data", "blob"}, "nothing is asked of the network"


def test_letters_can_be_turned_off_and_buttons_have_names(context: BrowserContext, file: Path) -> None:
    opened = Opened(context, file)
    opened.page.get_by_label("letters work as keys").uncheck()
    opened.press("y", "n")
    assert opened.text("count") == "0 of 4"
    for name in ("Good", "Skip", "Undo"):
        opened.page.get_by_role("button", name=name).click()
    assert opened.text("count") == "1 of 4"
    assert opened.page.get_by_role("status").inner_text().startswith("Row 2 again")
    assert opened.complaints == []


def test_the_policy_stops_what_should_never_be_there(context: BrowserContext, file: Path) -> None:
    opened = Opened(context, file)
    opened.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'run'";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", "<img src='data:,' onerror=\\"document.title = 'run'\\">");
        }"""
    )
    opened.page.wait_for_timeout(200)
    assert opened.page.title() == "4 captions to label"
    assert any("Content Security Policy" in complaint for complaint in opened.complaints)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_cut_off(browser: Browser, file: Path, tmp_path: Path, scheme: str) -> None:
    with browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme) as context:  # type: ignore[arg-type]
        opened = Opened(context, file)
        opened.press("y", "n")
        page = opened.page
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for name in ("good", "bad", "skip", "undo"):
            box = page.locator(f"#{name}").bounding_box()
            assert box is not None
            assert box["height"] >= 44, "a thumb's size"
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
            assert box["y"] + box["height"] <= 740, "without scrolling"
        assert page.locator("#caption").evaluate("node => getComputedStyle(node).direction") == "rtl"
        colours = page.evaluate("(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))")
        brightness = [sum(map(int, colour[4:-1].split(","))) for colour in colours]
        assert (brightness[0] < brightness[1]) == (scheme == "light")
        (tmp_path / f"{scheme}.png").write_bytes(page.screenshot())


def test_endless_texts_move_no_button(browser: Browser, tmp_path: Path) -> None:
    rows = table(caption=["a", "word " * 3_000, "x" * 9_000], url=["https://a.invalid/" + "y" * 9_000] * 3)
    (tmp_path / "label.html").write_text(labelling_page(rows, "title"), encoding="utf-8")
    with browser.new_context(viewport={"width": 360, "height": 740}, offline=True) as context:
        opened = Opened(context, tmp_path / "label.html")
        for key in ("y", "y"):
            opened.press(key)
            assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
            box = opened.page.locator("#undo").bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= 740, "without scrolling"


def test_an_image_that_cannot_be_loaded_says_so(context: BrowserContext, tmp_path: Path) -> None:
    broken = table(caption=["a", "b"], url=["s3://bucket/a.jpg", None], image=[b"no image", None])
    (tmp_path / "label.html").write_text(labelling_page(broken, "title"), encoding="utf-8")
    opened = Opened(context, tmp_path / "label.html")
    opened.page.get_by_text("The image cannot be loaded").wait_for()
    opened.press("s")
    assert "no web address" in opened.text("frame")


def test_progress_that_somebody_tampered_with_is_forgotten(context: BrowserContext, file: Path) -> None:
    for kept in ('["good", "<b>"]', "[1, 2]", "{", '["good","good","good","good","good"]', '{"length": 1}'):
        opened = Opened(context, file)
        opened.page.evaluate("kept => localStorage.setItem('capsieve-labels-' + data.sample, kept)", kept)
        opened.page.reload()
        assert opened.text("count") == "0 of 4"
        opened.page.close()
