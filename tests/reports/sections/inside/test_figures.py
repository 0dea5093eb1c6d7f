"""The figures: the same bytes again, and what is drawn where records are gone, others, or names are odd."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

from analysis.figures import COLUMN, DPI
from analysis.parts import recorded
from analysis.similarity.measuring import schema
from reports.document import Figure, Listing, Section
from tests.reports.sections.inside.conftest import KINDS, MODELS, scores_of, section_of, write

EXPECTED = {
    "similarity": {
        *(f"similarity-histograms-{kind}-{form}" for kind in ("other", "hard") for form in ("raw", "centred")),
        *(f"similarity-layers-{space}" for space in ("hidden", "cross-output", "query-key")),
    },
    "grounding": {
        "grounding-scores",
        "grounding-layers-1-scenes-age-vlm",
        "grounding-layers-2-scenes-concat",
    },
    "padding": {"padding-layers-object", "padding-layers-last"},
    "linkage": {
        *(f"linkage-auroc-{name}" for name in ("hallucinated", "missed", "error", "false-yes", "false-no")),
        *(f"linkage-hiding-{name}" for name in ("1-looks", "2-random")),
    },
    "failure-signs": {"failure-signs-values"},
}


def figures_of(section: Section) -> dict[str, Figure]:
    found = [item for item in section.items if isinstance(item, Figure)]
    assert len({one.id for one in found}) == len(found)
    return {one.id: one for one in found}


@pytest.fixture(scope="module")
def drawn(made) -> dict[str, Section]:
    return {kind: section_of(made / kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_figures_are_there_at_column_width_in_type_that_can_be_read(drawn, kind):
    found = figures_of(drawn[kind])
    assert set(found) == EXPECTED[kind]
    for one in found.values():
        with Image.open(io.BytesIO(one.png)) as picture:
            # One target of linkage needs room for the signals' names.
            assert picture.width <= (4.7 if "auroc" in one.id else COLUMN) * DPI + 1
            shown = 3.3 * DPI / picture.width
            assert len(picture.convert("RGB").getcolors(10**6)) > 50
        sizes = {
            float(part.split("px")[0].split()[-1])
            for text in ElementTree.fromstring(one.svg).iter("{http://www.w3.org/2000/svg}text")
            for part in text.get("style", "").split(";")
            if "px" in part
        }
        assert min(sizes) * shown >= 6.99, one.id
        assert one.alt
        assert one.title


@pytest.mark.slow
def test_two_builds_are_the_same_to_the_byte(made, drawn):
    for kind in KINDS:
        assert section_of(made / kind) == drawn[kind]


def test_histograms_are_of_the_records(copy, drawn):
    folder = copy("similarity")
    for path in folder.glob("similarity-*"):
        path.unlink()
    assert figures_of(section_of(folder)) == figures_of(drawn["similarity"]), "not the run's own drawings"


def test_without_records_the_runs_own_drawings_are_shown_and_that_is_said(copy):
    folder = copy("similarity")
    for path in (folder / "probes").iterdir():
        path.unlink()
    found = figures_of(section_of(folder))
    for form in ("raw", "centred"):
        one = found[f"similarity-histograms-{form}"]
        assert one.png == (folder / f"similarity-{form}.png").read_bytes()
        assert one.svg == (folder / f"similarity-{form}.svg").read_bytes()
        assert "no more" in one.note
    assert "similarity-layers-hidden" in found, "that needs none"
    (folder / "similarity-raw.svg").unlink()
    (folder / "similarity-centred.png").unlink()
    section = section_of(folder)
    assert set(figures_of(section)) == {f"similarity-layers-{s}" for s in ("hidden", "cross-output", "query-key")}
    (listing,) = [item for item in section.items if isinstance(item, Listing)]
    assert "no more" in listing.text


def test_damaged_records_are_named(copy):
    folder = copy("similarity")
    path = next(path for path in sorted((folder / "probes").iterdir()) if "centres" not in path.name)
    path.write_bytes(path.read_bytes()[:50])
    note = figures_of(section_of(folder))["similarity-histograms-raw"].note
    assert f"{path}: damaged" in note


def test_records_of_other_settings_are_not_drawn_as_if_they_had_been_scored(copy):
    folder = copy("similarity")
    digest = json.loads((folder / "run.json").read_text())["models"][MODELS[0]]["fingerprint"]
    parts = recorded(folder, digest, schema())
    # As another launch with other settings adds them: the same images in groups of their own.
    parts.append({"another": parts.read().drop_columns("group").to_pylist()[:3]})
    note = figures_of(section_of(folder))["similarity-histograms-raw"].note
    assert "other records than those that were scored" in note


@pytest.mark.slow
def test_names_are_text_whatever_is_in_them(copy, monkeypatch):
    # Pixels take most of the time, and have no names in them.
    monkeypatch.setattr("analysis.figures.FORMATS", ("svg", "svg"))
    odd = "a$\\frac$b_{x} <script>alert(1)</script> \"q\" & 'r'"
    for kind in KINDS:
        folder = copy(kind)
        name = "looks" if kind == "linkage" else MODELS[0]
        for file in ("scores.json", "run.json"):
            content = json.loads((folder / file).read_text().replace(json.dumps(name)[1:-1], json.dumps(odd)[1:-1]))
            write(folder, content, file)
        for one in figures_of(section_of(folder)).values():
            root = ElementTree.fromstring(one.svg)
            assert not [part for part in root.iter() if part.tag.endswith("script")]


def test_several_runs_have_figures_of_their_own(copy):
    first, second = copy("padding", "a/run"), copy("padding", "b/run")
    found = figures_of(section_of(first, second))
    assert set(found) == {f"padding-{n}-layers-{query}" for n in (1, 2) for query in ("object", "last")}
    assert found["padding-2-layers-last"].title.startswith("run (b/run): ")
    assert found["padding-1-layers-last"].png == found["padding-2-layers-last"].png


def test_a_run_that_saw_no_padding_has_no_figure(copy):
    folder: Path = copy("padding")
    content = scores_of(folder)
    content["attention"] = []
    write(folder, content)
    assert figures_of(section_of(folder)) == {}
