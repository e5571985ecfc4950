"""The report opens offline in a real browser: nothing missing, nothing fetched, nothing complained about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from portask_lab import report
from tests.lab import browser

pytestmark = pytest.mark.browser
LATEST = Path(__file__).parents[2] / "reports" / "latest" / report.PAGE
_PICTURES = """Promise.all(Array.from(document.images, image => image.decode().then(
    () => image.naturalWidth, error => `${image.alt}: ${error}`)))"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    binary = browser.find()
    if binary is None:
        pytest.skip(f"no Chromium on the path (looked for {', '.join(browser.NAMES)}): apt install chromium")
    with browser.running(binary, tmp_path_factory.mktemp("profile")) as running:
        yield running


def _check(chromium: browser.Browser, page: Path) -> None:
    chromium.open(page)
    widths = chromium.ask(_PICTURES)
    assert widths, "a finished run has pictures"
    assert all(isinstance(width, int) and width > 0 for width in widths), widths
    assert chromium.complaints() == []
    assert [url for url in chromium.requests() if not url.startswith(("file:", "data:"))] == []
    assert chromium.ask("document.querySelector('h1').textContent") == "Portask lab report"
    headings = chromium.ask("Array.from(document.querySelectorAll('h2'), heading => heading.textContent)")
    for expected in (
        "Verdicts",
        "Winners",
        "Noise",
        "Machine and corpora",
        "How to reproduce",
        "How this was measured",
    ):
        assert expected in headings
    assert chromium.ask("Array.from(document.images).every(image => image.alt.length > 20)")
    assert chromium.ask("document.querySelectorAll('th:not([scope])').length") == 0
    assert chromium.ask("Array.from(document.querySelectorAll('table')).every(table => table.caption)")


def test_a_full_report(chromium: browser.Browser, written: Path) -> None:
    _check(chromium, written)


def test_the_newest_report_of_this_checkout(chromium: browser.Browser) -> None:
    if not LATEST.exists():
        pytest.skip("no run in reports/ yet: make lab")
    _check(chromium, LATEST)


@pytest.mark.parametrize("width", [360, 1280])
def test_no_width_scrolls_sideways(chromium: browser.Browser, written: Path, width: int) -> None:
    chromium.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
    )
    chromium.open(written)
    chromium.ask("document.querySelectorAll('details').forEach(fold => { fold.open = true })")
    assert chromium.ask("document.documentElement.scrollWidth") <= width
    chromium.call("Emulation.clearDeviceMetricsOverride")


@pytest.mark.parametrize(("scheme", "darker"), [("light", False), ("dark", True)])
def test_both_colour_schemes(chromium: browser.Browser, written: Path, scheme: str, darker: bool) -> None:
    chromium.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    chromium.open(written)
    ground, ink = chromium.ask(
        """(style => [style.backgroundColor, style.color].map(colour => Number(colour.match(/\\d+/)[0])))(
        getComputedStyle(document.documentElement))"""
    )
    assert (ground < ink) == darker
    chromium.call("Emulation.setEmulatedMedia", features=[])


def test_what_is_wrong_is_seen(chromium: browser.Browser, tmp_path: Path) -> None:
    page = tmp_path / "wrong.html"
    page.write_text(
        '<img src="data:image/png;base64,AAAA"><img src="http://127.0.0.1:9/x.png"><script>nope()</script>'
    )
    chromium.open(page)
    assert not any(isinstance(width, int) for width in chromium.ask(_PICTURES))
    assert any("nope" in text or "Uncaught" in text for text in chromium.complaints())
    assert "http://127.0.0.1:9/x.png" in chromium.requests()
