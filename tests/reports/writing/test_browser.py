"""The page in a browser: filters, search, keys, what stays inert, and that no request leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import pytest

from reports.document import Gallery, Item
from reports.writing.files import write_report
from reports.writing.order import worst_first
from tests.reports.writing.browser import Browser
from tests.reports.writing.conftest import NASTY, SCRIPT, items, report, tables

COUNT = "document.getElementById('gallery_count').textContent"
CARDS = "document.querySelectorAll('#gallery_cards > li').length"
PLACE = "document.activeElement.dataset.place ?? null"


@pytest.fixture
def opened(tab: Browser, written: Path) -> Callable[..., Browser]:
    def open_(**state: str) -> Browser:
        tab.open(written / "report.html", f"#gallery:{urlencode(state)}" if state else "")
        return tab

    return open_


def quiet(tab: Browser, page: Path) -> None:
    tab.js("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert tab.console == []
    assert tab.dialogs == []
    assert {url for url in tab.requests if not url.startswith("data:image/")} == {page.as_uri()}


def test_nothing_is_complained_of_and_no_request_leaves(opened: Callable[..., Browser], written: Path) -> None:
    tab = opened()
    quiet(tab, written / "report.html")
    tab.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for _ in range(4):
        tab.js("document.getElementById('more_button').click()")
    assert tab.js(CARDS) == 90
    assert tab.js("[...document.images].filter((one) => one.complete && !one.naturalWidth).length") == 0
    quiet(tab, written / "report.html")


def test_the_watch_would_see_a_script_a_request_and_an_error(tab: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<img src='http://example.invalid/x.png'><script>alert(1); throw new Error('seen')</script>")
    tab.call("Page.navigate", url="about:blank")
    tab.console.clear()
    # A dialog holds the page until it is answered.
    tab.call("Page.navigate", url=path.as_uri())
    while not tab.dialogs:
        tab.call("Target.getTargets")
    tab.call("Page.handleJavaScriptDialog", accept=True)
    tab.until("document.readyState === 'complete'")
    assert tab.dialogs == ["1"]
    assert any("seen" in line for line in tab.console)
    assert any(url.startswith("http://example.invalid") for url in tab.requests)
    tab.dialogs.clear()


def test_the_policy_stops_a_script_that_got_in(tab: Browser, written: Path, tmp_path: Path) -> None:
    text = (written / "report.html").read_text(encoding="utf-8")
    path = tmp_path / "forged.html"
    forged = {
        "inline script": "<script>document.title = 'broken'</script>",
        "inline event handler": "<svg onload=\"document.title = 'broken'\"></svg>",
        "Loading the image": "<img src='http://example.invalid/i'>",
        "Loading the stylesheet": "<link rel='stylesheet' href='http://example.invalid/s'>",
        "Loading the script": "<script src='http://example.invalid/j'></script>",
        "Framing": "<iframe src='http://example.invalid/f'></iframe>",
        "inline style": "<style>body { background: url(http://example.invalid/b) }</style>",
    }
    path.write_text(text.replace("<main", f"{''.join(forged.values())}<main", 1), encoding="utf-8")
    tab.open(path)
    assert tab.js("document.title") != "broken"
    stopped = [line for line in tab.console if "Content Security Policy" in line]
    assert len(stopped) == len(tab.console) == len(forged)
    for what in forged:
        assert any(what in line for line in stopped), what
    tab.console.clear()


def test_a_path_with_odd_characters(tab: Browser, written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a b #1? %41 'é\""
    folder.mkdir()
    path = Path(shutil.copy(written / "report.html", folder / "re port#?.html"))
    tab.open(path, "#gallery:kind=missed")
    tab.until("document.querySelectorAll('#gallery_cards > li').length > 0")
    counted = tab.js("document.getElementById('gallery_count').textContent")
    tab.js("document.getElementById('clear_button').click()")
    tab.until(f"document.getElementById('gallery_count').textContent !== {json.dumps(counted)}")
    assert [one for one in tab.requests if not one.startswith("data:")] == [path.as_uri()]
    assert tab.console == []


def test_texts_are_texts(opened: Callable[..., Browser]) -> None:
    tab = opened(q="<script>alert(1)")
    strange = "#gallery_cards script, #gallery_cards b, main img:not(.paper):not(.box img)"
    assert tab.js(f"document.querySelectorAll('{strange}').length") == 0
    answers = tab.js("[...document.querySelectorAll('#gallery_cards .answer')].map((one) => one.textContent)")
    assert answers
    assert set(answers) == {SCRIPT}


def state_of(item: Item) -> dict[str, str]:
    size = item.size
    return {
        "run": item.run,
        "split": item.split,
        "kind": item.kind,
        "category": item.category,
        "size": "unknown" if size is None else "small" if size < 0.01 else "medium" if size <= 0.1 else "large",
    }


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"run": "A <b>"},
        {"split": "adversarial"},
        {"kind": "false yes"},
        {"category": "dog"},
        {"category": "hot dog", "run": "B & C"},
        {"size": "small"},
        {"size": "unknown", "kind": "right"},
        {"run": "A <b>", "split": "random", "kind": "missed", "category": "fork", "size": "large"},
        {"kind": "no such"},
    ],
    ids=str,
)
def test_a_link_opens_what_a_longhand_filter_finds(opened: Callable[..., Browser], state: dict[str, str]) -> None:
    tab = opened(**state)
    wanted = [place for place in worst_first(items()) if state.items() <= state_of(items()[place]).items()]
    assert tab.js(COUNT) == f"{len(wanted)} of 90"
    while tab.js("!document.getElementById('more_button').hidden"):
        tab.js("document.getElementById('more_button').click()")
    numbers = tab.js(
        "[...document.querySelectorAll('#gallery_cards > li')].map((one) => one.textContent.match(/no\\. (\\d+)/)[1])"
    )
    assert numbers == [items()[place].number for place in wanted]
    if len(state) == 1 and "no such" not in state.values():
        assert 0 < len(wanted) < 90


@pytest.mark.parametrize("words", ["thing 7", "ALERT(1)", "a\"b'c 2", "模型", "no such words"])
def test_search_by_typing(opened: Callable[..., Browser], words: str) -> None:
    tab = opened()
    tab.key("/")
    assert tab.js("document.activeElement.name") == "q"
    tab.type(words)
    fits = [
        one
        for one in items()
        if any(words.lower() in (text or "").lower() for text in (one.question, one.answer, one.image))
    ]
    tab.until(f"{COUNT} === '{len(fits)} of 90'")
    assert json.loads(tab.js("JSON.stringify(Object.fromEntries(new URLSearchParams(location.hash.slice(9))))")) == {
        "q": words
    }


def test_a_part_of_a_category_finds_all_that_hold_it(opened: Callable[..., Browser]) -> None:
    tab = opened(category="do")
    assert tab.js(COUNT) == f"{sum('do' in one.category for one in items())} of 90"


def test_back_goes_to_the_filter_before(opened: Callable[..., Browser]) -> None:
    tab = opened()
    for name, value in (("split", "random"), ("kind", "right")):
        tab.js(
            f"(() => {{ const box = document.querySelector('[name={name}]'); box.value = '{value}';"
            "box.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
        tab.until(f"location.hash.includes('{value}')")
    both = sum(one.split == "random" and one.kind == "right" for one in items())
    tab.until(f"{COUNT} === '{both} of 90'")
    tab.js("history.back()")
    tab.until(f"{COUNT} === '{sum(one.split == 'random' for one in items())} of 90'")
    assert tab.js("document.querySelector('[name=kind]').value") == ""
    tab.js("history.forward()")
    tab.until(f"{COUNT} === '{both} of 90'")
    tab.click("#clear_button")
    tab.until(f"{COUNT} === '90 of 90'")


def test_keys(opened: Callable[..., Browser], written: Path) -> None:
    tab = opened()
    tab.key("j")
    assert tab.js(PLACE) == "0"
    tab.key("j")
    tab.key("ArrowRight")
    tab.key("k")
    assert tab.js(PLACE) == "1"
    for _ in range(30):
        tab.key("j")
    assert tab.js(PLACE) == "31"
    tab.key("o")
    at = "document.querySelector('#card_dialog[open] .at')?.textContent ?? null"
    assert tab.js(at) == "32 of 90"
    tab.key("ArrowRight")
    tab.key("j")
    assert tab.js(at) == "34 of 90"
    tab.key("Escape")
    tab.until(f"({at}) === null")
    tab.until(f"({PLACE}) === '33'")
    tab.key("Enter")
    assert tab.js(at) == "34 of 90"
    tab.key("Escape")
    tab.until(f"({at}) === null && ({PLACE}) === '33'")
    shown = "getComputedStyle(document.querySelector('.box .{0}')).display !== 'none'"
    for key, layer in (("a", "attention"), ("m", "mask")):
        assert tab.js(shown.format(layer)) is True
        tab.key(key)
        assert tab.js(shown.format(layer)) is False
        tab.key(key)
        assert tab.js(shown.format(layer)) is True
    tab.key("?")
    assert tab.js("document.getElementById('help_dialog').open") is True
    tab.key("Escape")
    tab.until("!document.getElementById('help_dialog').open")
    # None of it while one types.
    tab.key("/")
    before = tab.js("document.documentElement.dataset.theme ?? null")
    for key in "jomad?/":
        tab.key(key)
    assert tab.js("document.querySelector('[name=q]').value") == "jomad?/"
    assert tab.js("document.documentElement.dataset.theme ?? null") == before
    assert tab.js("document.querySelector('dialog[open]') === null") is True
    quiet(tab, written / "report.html")


def test_the_theme_follows_the_system_and_a_choice_is_remembered(opened: Callable[..., Browser], written: Path) -> None:
    tab = opened()
    ground = "getComputedStyle(document.body).backgroundColor"
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    light = tab.js(ground)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    dark = tab.js(ground)
    assert light != dark
    tab.click("#theme_button")
    assert tab.js(ground) == light
    tab.open(written / "report.html")
    assert tab.js(ground) == light
    tab.key("d")
    assert tab.js(ground) == dark
    tab.js("localStorage.clear()")
    tab.call("Emulation.setEmulatedMedia", features=[])


def test_a_click_on_a_picture_opens_it(opened: Callable[..., Browser]) -> None:
    tab = opened(category="dog")
    tab.click("#gallery_cards .frame .photo")
    assert tab.js("document.getElementById('card_dialog').open") is True
    box = tab.js(
        """(() => {
          const inside = document.querySelector('#gallery_cards .box:has(.attention)');
          const [a, b] = ['.photo', '.attention'].map((name) => inside.querySelector(name).getBoundingClientRect());
          return [a.x - b.x, a.y - b.y, a.width - b.width, a.height - b.height];
        })()"""
    )
    assert box == [0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["tex", "md", "csv"])
def test_copies_hold_the_very_text_of_the_file(opened: Callable[..., Browser], written: Path, kind: str) -> None:
    tab = opened()
    origin = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    tab.call("Browser.grantPermissions", **origin)
    selector = f"button[data-copy={kind}][data-table=nasty]"
    tab.click(selector)
    tab.until(f"document.querySelector('{selector}').textContent === 'copied'")
    assert tab.js("navigator.clipboard.readText()") == (written / f"tables/nasty.{kind}").read_text(encoding="utf-8")


def test_without_pictures_nothing_is_said_of_them(tab: Browser, tmp_path: Path) -> None:
    bare = [replace(one, picture=None, overlay=None) for one in items()]
    tab.open(write_report(replace(report(), gallery=Gallery(bare)), tmp_path / "bare"))
    assert tab.js("document.querySelectorAll('.frame').length") == 0
    assert tab.js("document.getElementById('attention_box').checkVisibility()") is False
    tab.click("#gallery_cards .question")
    assert tab.js("document.getElementById('card_dialog').open") is True


def test_without_scripts_tables_figures_and_the_worst_questions_are_there(tab: Browser, written: Path) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.call("Page.navigate", url="about:blank")
        tab.open(written / "report.html")
        seen = "[...document.querySelectorAll('{0}')].filter((one) => one.checkVisibility()).length"
        assert tab.js(seen.format(".static li")) == 20
        assert tab.js(seen.format("table")) == len([one for one in tables() if not one.folded])
        tab.click("details.table > summary")
        tab.until(f"{seen.format('table')} === {len(tables())}")
        assert tab.js(seen.format("button, #gallery_app")) == 0
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)


def test_on_paper_what_is_folded_is_open(opened: Callable[..., Browser]) -> None:
    tab = opened()
    tab.js("window.seen = []; addEventListener('beforeprint', () => seen.push(document.querySelector('details').open))")
    tab.call("Page.printToPDF")
    tab.until("!document.querySelector('details').open")
    assert tab.js("seen") == [True]


def test_a_link_to_questions_ends_at_the_questions(opened: Callable[..., Browser]) -> None:
    tab = opened(kind="missed")
    tab.js("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert abs(tab.js("document.getElementById('gallery_part').getBoundingClientRect().top")) < 40
    assert tab.js("[...document.querySelectorAll('img.paper')].every((one) => one.width && one.height)")


def test_no_question_that_fits_is_said(opened: Callable[..., Browser]) -> None:
    tab = opened(q="nothing holds these letters")
    said = "getComputedStyle(document.getElementById('gallery_cards'), '::after').content"
    assert "No question" in tab.js(said)
    assert tab.js("document.getElementById('clear_button').checkVisibility()") is True
    tab.click("#clear_button")
    tab.until(f"{CARDS} > 0")
    assert tab.js(said) == "none"


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_itself_never_scrolls_sideways(opened: Callable[..., Browser], width: int) -> None:
    tab = opened()
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    try:
        assert tab.js("document.documentElement.scrollWidth <= innerWidth") is True
        assert tab.js("innerWidth") == width
    finally:
        tab.call("Emulation.clearDeviceMetricsOverride")


def contrast(first: str, second: str) -> float:
    """WCAG 2.1, of two colours `rgb(r, g, b)`."""

    def luminance(colour: str) -> float:
        parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_has_the_contrast_of_wcag_aa(opened: Callable[..., Browser], theme: str) -> None:
    tab = opened()
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    pairs = tab.js(
        """[...new Set([...document.querySelectorAll('body *')].filter((one) => one.checkVisibility()
        && [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())).map((one) => {
          let ground = one;
          while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
          return getComputedStyle(one).color + '|' + getComputedStyle(ground).backgroundColor;
        }))]"""
    )
    tab.call("Emulation.setEmulatedMedia", features=[])
    assert len(pairs) > 8
    assert {pair: contrast(*pair.split("|")) for pair in pairs if contrast(*pair.split("|")) < 4.5} == {}


def test_the_nasty_texts_were_all_shown(opened: Callable[..., Browser]) -> None:
    shown = opened().js("document.querySelector('table[data-id=nasty]').innerText")
    assert sum(text.split()[0] in shown for text in NASTY if text.split()) > 15
