"""The page as text: nothing from outside, nothing that a text could do, and its size."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from reports.document import Gallery, Item, ItemKind, Overlay, Picture, Report
from reports.writing.fitting import fitted
from reports.writing.order import shuffled, worst_first
from reports.writing.page import MOST_BYTES, page
from reports.writing.payload import band
from tests.reports.writing.conftest import NASTY, items, report, tables


class Elements(HTMLParser):
    """All start tags with their attributes, and the text within scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, dict[str, str | None], str]] = []
        self.comments: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and self.inside:
            tag, attrs, text = self.inside[-1]
            self.inside[-1] = (tag, attrs, text + data)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}", {}))

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


@pytest.fixture(scope="module")
def text(written: Path) -> str:
    return (written / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def elements(text: str) -> Elements:
    return Elements(text)


def test_nothing_is_loaded_from_anywhere(elements: Elements) -> None:
    loads = {"src", "srcset", "href", "xlink:href", "data", "action", "poster", "background", "formaction", "ping"}
    seen = 0
    for tag, attributes in elements.tags:
        for name in loads & set(attributes):
            value = attributes[name] or ""
            if tag == "a" and value.startswith(("https://", "http://")):
                assert attributes["rel"] == "noreferrer"
            else:
                assert value.startswith(("data:image/", "#")), (tag, name, value)
            seen += 1
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
    assert seen > 5
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in elements.tags}
    for tag, _, content in elements.inside:
        if tag == "style":
            assert not re.search(r"url\(|@import|https?:", content)
        assert not re.search(
            r"\bfetch\(|XMLHttpRequest|innerHTML|outerHTML|insertAdjacentHTML|eval\(|import\(", content
        )


def test_the_policy_allows_these_scripts_and_no_others(elements: Elements) -> None:
    policy = next(a["content"] for t, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in policy

    def hashes(tag: str) -> set[str]:
        found = [text for name, attributes, text in elements.inside if name == tag and "type" not in attributes]
        return {f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in found}

    assert set(rules["script-src"].split()) == hashes("script")
    assert len(hashes("script")) == 3
    assert set(rules["style-src"].split()) == hashes("style")
    # It stands before all that it governs.
    names = [tag for tag, attributes in elements.tags if tag in ("style", "script") or "http-equiv" in attributes]
    assert names[0] == "meta"


def test_what_was_written_by_others_makes_no_element(elements: Elements) -> None:
    images = [attributes for tag, attributes in elements.tags if tag == "img"]
    assert [one["alt"] for one in images] == ["a \" alt ' <"]
    assert elements.comments == []
    types = [attributes.get("type") for tag, attributes, _ in elements.inside if tag == "script"]
    assert types == [None, "application/json", "application/json", "application/json", None, None]


def test_the_json_is_that_of_the_gallery(elements: Elements, text: str) -> None:
    found = {attributes["id"]: content for tag, attributes, content in elements.inside if "type" in attributes}
    for content in found.values():
        assert not re.search("[<>&\u2028\u2029]", content)
    data = json.loads(found["gallery_items"])
    assert data["count"] == len(items())
    questions = [data["texts"][place] for place in data["columns"]["question"]]
    assert questions == [item.question for item in items()]
    answers = [None if place < 0 else data["texts"][place] for place in data["columns"]["answer"]]
    assert [one is None for one in answers] == [item.answer is None for item in items()]
    assert "<script>alert(1)</script>" in answers
    texts = json.loads(found["table_texts"])
    assert list(texts) == [table.id for table in tables()]


def test_copies_are_the_written_files(elements: Elements, written: Path) -> None:
    texts = json.loads(next(c for _, a, c in elements.inside if a.get("id") == "table_texts"))
    for name, forms in texts.items():
        for kind, content in forms.items():
            assert (written / f"tables/{name}.{kind}").read_text(encoding="utf-8") == content


def test_warnings_come_first(text: str) -> None:
    assert text.index('role="alert"') < text.index("<nav") < text.index("<main")
    assert 'role="alert"' not in page(replace(report(), warnings=()))[0]


def test_folded_tables_are_folded_and_others_are_not(elements: Elements) -> None:
    folded = {one.id for one in tables() if one.folded}
    found = {attrs["id"].removeprefix("table-"): tag for tag, attrs in elements.tags if attrs.get("class") == "table"}
    assert folded == {"long"}
    assert found == {one.id: "details" if one.id in folded else "div" for one in tables()}


def test_without_scripts_the_worst_are_listed(text: str) -> None:
    listed = re.search(r"(?s)<noscript>(.*?)</noscript>", text)
    assert listed
    assert listed[1].count("<li>") == 20
    worst = items()[worst_first(items())[0]]
    assert listed[1].index(worst.question) < 400


def test_worst_first() -> None:
    found = [items()[place] for place in worst_first(items())]
    wrong = ("missed", "false yes", "unparsed", "wrong answer")
    ranks = [0 if one.kind in wrong else 2 if one.kind == "right" else 1 for one in found]
    assert ranks == sorted(ranks)
    assert set(ranks) == {0, 1, 2}
    for rank in (0, 1, 2):
        margins = [one.margin for one, place in zip(found, ranks, strict=True) if place == rank]
        known = [one for one in margins if one is not None]
        assert margins == sorted(known, reverse=True) + [None] * (len(margins) - len(known))
        assert len(known) < len(margins)


def test_the_random_order_is_the_seed_s() -> None:
    assert shuffled(50, 1) == shuffled(50, 1) != shuffled(50, 2)
    assert sorted(shuffled(50, 1)) == list(range(50))


@pytest.mark.parametrize(
    ("size", "name"),
    [
        (None, "unknown"),
        (float("nan"), "unknown"),
        (0, "small"),
        (0.0099, "small"),
        (0.01, "medium"),
        (0.1, "medium"),
        (0.11, "large"),
    ],
)
def test_bands(size: float | None, name: str) -> None:
    assert band(size) == name


def noisy(count: int, bytes_each: int) -> Report:
    """With pictures that are only bytes."""
    pictures = [Picture(f"{k}.jpg", bytes([k % 251]) * bytes_each, "jpeg", 4, 3) for k in range(count)]
    first = items(count)
    questions: list[Item] = [replace(one, picture=k, overlay=None) for k, one in enumerate(first)]
    return replace(report(), gallery=Gallery(questions, pictures))


def test_a_page_that_would_be_too_large_says_which_pictures_it_leaves_out() -> None:
    whole, said = page(noisy(50, 10_000))
    assert said == []
    most = len(whole.encode()) - 200_000
    text, said = page(noisy(50, 10_000), most)
    assert most - 20_000 < len(text.encode()) <= most
    assert len(said) == 1
    assert said[0] in text
    kept = json.loads(re.search(r'id="gallery_pictures">(.*?)</script>', text)[1])["pictures"]  # type: ignore[index]
    left_out = 50 - len(kept)
    assert f"{left_out} of 50 pictures" in said[0]
    data = json.loads(re.search(r'id="gallery_items">(.*?)</script>', text)[1])  # type: ignore[index]
    places = data["columns"]["picture"]
    # Those of the worst stay.
    assert [places[item] >= 0 for item in data["orders"]["worst"]] == [True] * len(kept) + [False] * left_out
    for item, place in enumerate(places):
        if place >= 0:
            assert base64.b64decode(kept[place][3]) == bytes([item % 251]) * 10_000


def test_wrong_answers_keep_pictures_then_overlays_before_the_others() -> None:
    """One picture and one overlay for each of 20 questions, of 300 bytes: 403 and 403 + 3 in base64, and 40 around."""
    kinds: tuple[ItemKind, ...] = ("right", "missed", "not answered", "unparsed")
    asked = [replace(items()[0], kind=kinds[k % 4], margin=float(k), picture=k, overlay=k) for k in range(20)]
    pictures = [Picture(f"{k}.jpg", bytes([k]) * 300, "jpeg", 4, 3) for k in range(20)]
    gallery = Gallery(asked, pictures, [Overlay(bytes([k]) * 300, None, "") for k in range(20)], ("first",))
    wrong = [19, 17, 15, 13, 11, 9, 7, 5, 3, 1]
    others = [18, 14, 10, 6, 2, 16, 12, 8, 4, 0]
    wanted = [(what, k) for group in (wrong, others) for what in ("picture", "overlay") for k in group]
    before = -1
    for room in range(0, 20_000, 900):
        fewer, said = fitted(gallery, room)
        kept = [("picture", one.data[0]) for one in fewer.pictures] + [
            ("overlay", one.attention[0]) for one in fewer.overlays
        ]
        assert set(kept) == set(wanted[: len(kept)])
        assert sum(400 for _ in kept) <= room
        assert fewer.notes == ("first", *said)
        assert len(said) == (len(fewer.pictures) < 20) + (len(fewer.overlays) < 20)
        assert len(kept) >= max(before, room // 460 if room < 18_000 else 40)
        before = len(kept)
        # Each shows what it showed.
        for k, item in enumerate(fewer.items):
            assert item.picture is None or fewer.pictures[item.picture].data[0] == k
            assert item.overlay is None or fewer.overlays[item.overlay].attention[0] == k
    assert (fewer, said) == (gallery, [])


def test_a_page_that_is_too_large_without_pictures_says_so_at_the_top() -> None:
    text, said = page(report(), 50_000)
    assert "MB" in said[-1]
    assert said[-1] in text[: text.index("<main")]


def test_nine_thousand_questions_take_little() -> None:
    """Each text once: what is left for pictures is most of the page."""
    text, _ = page(replace(report(), gallery=Gallery(items(9000))))
    assert len(text.encode()) < MOST_BYTES / 10


def test_an_answer_without_end_does_not_fill_the_page() -> None:
    one, *others = items()
    gallery = Gallery(
        [replace(one, kind="false yes", margin=99.0, answer="<x>\ud800" * 1_000_000, category="c" * 100_000), *others]
    )
    text, said = page(replace(report(), gallery=gallery))
    assert said == []
    assert len(text) < 1_000_000
    assert text.count("(cut: 4,000,000 characters)") == 2, "the gallery's, and the list's for where scripts do not run"
    assert "(cut: 100,000 characters)" in text


def test_all_that_is_nasty_is_there(text: str) -> None:
    assert len(NASTY) > 15
    assert "{{ 7 * 7 }} {% raw %}" in text
    assert "alert(1)" in text
