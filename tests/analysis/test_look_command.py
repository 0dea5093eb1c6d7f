"""The command from an image file to a picture: what it writes and prints, and what it says of bad input."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from agevlm.vlm import Ask, ProbeSpec
from agevlm.vlm.hf.session import HfVlm

QUESTION = "Is there a dining table in the image?"


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(path)
    return path


def look(checkpoint, photo, out, *extra, question=QUESTION):
    given = ["--ckpt", checkpoint, "--image", photo, "--question", question, "--max-new-tokens", 4]
    return ["look", *given, *([] if out is None else ["--out", out]), *extra]


def check_picture(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(10**6) or range(10**6)) > 1000, "more than text on white"


@pytest.mark.parametrize("kind", ["age_vlm", "llava", "llava_next"])
def test_it_draws_and_says_what_it_found(here, checkpoint, photo, tmp_path, kind):
    out = tmp_path / "deep" / "look.png"
    done = here(*look(checkpoint(kind), photo, out))
    assert done.code == 0, done.err
    check_picture(out)
    assert [p.name for p in out.parent.iterdir()] == ["look.png"]
    lines = done.out.splitlines()
    assert lines[0] == QUESTION
    assert lines[1].startswith("→ ")
    assert "p(yes) 0." in done.out
    for word in ("dining", "table", "→ ", "all tokens (control)"):
        assert any(line.lstrip("│ ").startswith(word) for line in lines[2:]), word
    assert ("elsewhere %" in done.out) == (kind == "llava_next")
    assert done.err == f"picture: {out}\n"


@pytest.mark.parametrize("suffix", ["pdf", "svg", "PNG", "PDF"])
def test_other_formats(here, checkpoint, photo, tmp_path, suffix):
    out = tmp_path / f"look.{suffix}"
    assert here(*look(checkpoint("age_vlm"), photo, out)).code == 0
    if suffix == "svg":
        root = ET.parse(out).getroot()
        assert root.tag.endswith("svg")
        assert len(list(root.iter("{http://www.w3.org/2000/svg}image"))) > 12
    elif suffix == "PNG":
        check_picture(out)
    else:
        data = out.read_bytes()
        assert data.startswith(b"%PDF-")
        assert data.rstrip().endswith(b"%%EOF")
        assert len(data) > 10_000


def test_the_picture_has_a_default_name(here, checkpoint, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = here(*look(checkpoint("age_vlm"), photo, None))
    assert done.code == 0
    (found,) = (tmp_path / "runs").iterdir()
    assert found.name.startswith("look-age_vlm.")
    assert found.name.endswith("-photo.png")
    assert done.err == f"picture: {Path('runs') / found.name}\n"


def as_json(here, *arguments):
    done = here(*arguments, "--json", "-")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)
    return row


@pytest.mark.parametrize("kind", ["age_vlm", "llava"])
def test_json_is_one_array_and_nothing_else_and_holds_the_models_own_attention(here, checkpoint, photo, tmp_path, kind):
    folder, out = checkpoint(kind), tmp_path / "look.png"
    row = as_json(here, *look(folder, photo, out))
    check_picture(out)
    vlm = HfVlm.load(folder, device="cpu")
    encoded = vlm.encode([Image.open(photo).convert("RGB")])
    ask = Ask(QUESTION, 0, 4)
    reply = vlm.answer(encoded, [ask])[0]
    probe = vlm.probe(encoded, [ask], [reply.token_ids], ProbeSpec())[0]
    assert row["answer"] == reply.text
    assert row["probabilities"] == pytest.approx({k: float(np.exp(v)) for k, v in reply.logprobs.items()})
    assert row["grid"] == [4, 4]
    assert (row["image"], row["question"], row["picture"]) == (str(photo), QUESTION, str(out))
    assert row["model"]["model_type"] == kind
    words = [p["word"] for p in row["panels"]]
    assert list(dict.fromkeys(words))[:2] == ["dining", "table"]
    assert [p["layer"] for p in row["panels"]] == [*probe.layers, None] * 4
    last = next(i for i, t in enumerate(probe.tokens) if t.part == "prompt" and t.text.endswith("table"))
    for panel in row["panels"]:
        if panel["word"] == "table":
            layers = slice(None) if panel["layer"] is None else [probe.layers.index(panel["layer"])]
            expected = probe.attention[layers, last].mean(0)
            np.testing.assert_allclose(panel["map"], expected, atol=1e-7)
            covered = float((expected * probe.geometry.coverage()).sum())
            assert panel["on_image"] == pytest.approx(covered, rel=1e-5)
        total = np.sum(panel["map"])
        assert panel["on_image"] + panel["on_padding"] == pytest.approx(total, abs=1e-5)
        assert total == pytest.approx(1, abs=1e-5) if kind == "age_vlm" else total < 1


def test_json_to_a_file_leaves_the_table_on_stdout(here, checkpoint, photo, tmp_path):
    target = tmp_path / "look.json"
    done = here(*look(checkpoint("age_vlm"), photo, tmp_path / "a.png", "--json", target))
    assert done.code == 0
    assert len(json.loads(target.read_text())) == 1
    assert "all tokens (control)" in done.out


def test_layers_and_words_are_those_asked_for(here, checkpoint, photo, tmp_path):
    out, folder = tmp_path / "a.png", checkpoint("age_vlm")
    extra = ["--layer", 4, "--layer", 4, "--word", "there a", "--word", "Image", "--word", "image", "--word", "Image"]
    row = as_json(here, *look(folder, photo, out, *extra))
    words = ["there a", "Image", "image", f"→ {' '.join(row['answer'].split())[:24]}", "all tokens (control)"]
    assert [p["layer"] for p in row["panels"]] == [4, None] * 5
    assert [p["word"] for p in row["panels"]] == [w for w in words for _ in range(2)]
    assert row["panels"][2]["map"] == row["panels"][4]["map"] != row["panels"][0]["map"]


def test_a_word_of_the_answer(here, checkpoint, photo, tmp_path):
    out = tmp_path / "a.png"
    # Words that the model really says: found by asking first.
    for question in (QUESTION, "dog?", "Is there a cat on the chair?", "What is it?", "Yes or no?"):
        said = as_json(here, *look(checkpoint("llava"), photo, out, question=question))["answer"]
        words = [w for w in said.split() if w.isalpha() and w.lower() not in question.lower()]
        if words:
            row = as_json(here, *look(checkpoint("llava"), photo, out, "--word", words[0], question=question))
            assert row["panels"][0]["word"] == words[0]
            return
    pytest.fail("the model says no word of its own")


def test_smooth_changes_the_picture_and_no_number(here, checkpoint, photo, tmp_path):
    plain, smooth = tmp_path / "plain.png", tmp_path / "smooth.png"
    rows = [as_json(here, *look(checkpoint("age_vlm"), photo, plain))]
    rows.append(as_json(here, *look(checkpoint("age_vlm"), photo, smooth, "--smooth")))
    assert rows[0]["panels"] == rows[1]["panels"]
    one, other = (np.asarray(Image.open(p).convert("RGB"), float) for p in (plain, smooth))
    assert one.shape == other.shape
    assert np.abs(one - other).max() > 50


@pytest.mark.parametrize(
    "question",
    [
        r"Does [/red]it[bold] cost $5 or $6?",
        r"Does it cost $\frac{6$ now?",
        "Is there\ta dog\n\nor a [link=x]cat[/link]?",
        "猫は見えますか 😀?",
        "dog " * 300,
        "x" * 900,
        "-- --json",
    ],
)
def test_any_text_can_be_drawn_and_printed(here, checkpoint, photo, tmp_path, question):
    out = tmp_path / "a.png"
    word = question.split()[1 if " " in question.strip() else 0]
    done = here(*look(checkpoint("age_vlm"), photo, out, f"--word={word}", question=question))
    assert done.code == 0, done.err
    check_picture(out)
    assert question.split()[0] in done.out
    assert any(line.lstrip("│ ").startswith(word[:100]) for line in done.out.splitlines()[1:])
    assert done.err == f"picture: {out}\n", "no warning about fonts"


def break_images(folder):
    good = np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(good).save(folder / "whole.png")
    data = (folder / "whole.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    (folder / "folder.png").mkdir()
    Image.new("RGB", (50, 1)).save(folder / "line.png")
    Image.new("RGB", (2, 900)).save(folder / "strip.png")
    Image.new("I", (20, 20)).save(folder / "deep.tiff")


BAD = {
    "missing image": ({"image": "nothing.png"}, "image nothing.png: no such file"),
    "damaged image": ({"image": "cut.png"}, "damaged or truncated"),
    "empty image": ({"image": "empty.jpg"}, "is empty (0 bytes)"),
    "text for an image": ({"image": "text.jpg"}, "not an image file"),
    "folder for an image": ({"image": "folder.png"}, "cannot read folder.png"),
    "32-bit image": ({"image": "deep.tiff"}, "32-bit pixels"),
    "line of an image": ({"image": "line.png"}, "line.png: image of 50 x 1 pixels"),
    "strip of an image": ({"image": "strip.png"}, "one side is over 200 times the other"),
    "empty question": ({"question": ""}, "--question is empty"),
    "blank question": ({"question": " \n "}, "--question is empty"),
    "image token": ({"question": "What is <image> for?"}, "2 image placeholders '<image>'"),
    "endless question": ({"question": "dog " * 5000}, "shorten it"),
    "unknown layer": ({"extra": ["--layer", "1", "--layer", "77"]}, "--layer 77 does not look at the image"),
    "unknown word": ({"extra": ["--word", "dining", "--word", "zebra"]}, "--word 'zebra' stands neither"),
    "empty word": ({"extra": ["--word", ""]}, "--word is empty"),
    "wrong suffix": ({"out": "look.jpg"}, "give a name that ends in .png, .pdf, .svg"),
    "no suffix": ({"out": "look"}, "give a name that ends in .png, .pdf, .svg"),
    "folder is a file": ({"out": "whole.png/look.png"}, "cannot make the folder"),
    "name is a folder": ({"out": "folder.png"}, "is a folder"),
    "no checkpoint": ({"ckpt": "nowhere"}, "nowhere"),
    "no such device": ({"extra": ["--device", "abacus"]}, "device abacus"),
}


@pytest.mark.parametrize("kind", ["age_vlm", "llava"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(here, checkpoint, tmp_path, monkeypatch, case, kind):
    given, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    break_images(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    folder = given.get("ckpt", checkpoint(kind))
    done = here(
        *look(folder, given.get("image", "whole.png"), given.get("out", "look.png"), *given.get("extra", [])),
        *(["--question", given["question"]] if "question" in given else []),
    )
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert len(done.err) < 400
    assert sorted(tmp_path.rglob("*")) == before, "nothing was written"


def test_a_layer_of_words_alone_names_those_that_look(here, checkpoint, photo, tmp_path):
    done = here(*look(checkpoint("age_vlm"), photo, tmp_path / "a.png", "--layer", 0))
    assert (done.code, done.err) == (2, "error: --layer 0 does not look at the image; those that do: 1, 4\n")


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_a_picture_that_cannot_be_finished_leaves_no_part_of_it(here, checkpoint, photo, tmp_path, monkeypatch, suffix):
    out = tmp_path / f"look.{suffix}"
    out.write_text("the one before")

    def full(self, target, **kwargs):
        Path(target).write_bytes(b"half")
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Figure, "savefig", full)
    done = here(*look(checkpoint("age_vlm"), photo, out))
    assert done.code == 2
    assert done.err == f"error: --out {out}: cannot write: Input/output error\n"
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
    assert out.read_text() == "the one before"


def test_an_interrupted_picture_leaves_no_part_of_it(here, checkpoint, photo, tmp_path, monkeypatch):
    def interrupted(self, target, **kwargs):
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", interrupted)
    assert here(*look(checkpoint("age_vlm"), photo, tmp_path / "a.png")).code == 130
    assert list(tmp_path.iterdir()) == []


def test_a_large_photo_is_drawn_small(here, checkpoint, tmp_path):
    photo, out = tmp_path / "large.jpg", tmp_path / "large.pdf"
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((4000, 3000)).save(photo)
    assert here(*look(checkpoint("age_vlm"), photo, out)).code == 0
    assert out.stat().st_size < 6_000_000


@pytest.mark.slow
def test_the_installed_command(checkpoint, photo, tmp_path):
    code = "from agevlm.cli import eval_main; eval_main()"
    call = [sys.executable, "-c", code, *map(str, look(checkpoint("age_vlm"), photo, "a.png", "--json", "-"))]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, env=None)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 1
    assert done.stderr == ""
    check_picture(tmp_path / "a.png")
    call[call.index(str(photo))] = "missing.png"
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: image missing.png: no such file missing.png\n"
