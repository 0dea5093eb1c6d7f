"""The command from captions to tables and figures: planted models, resumed runs, bad input."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from agevlm.vlm.contract import Compared, ProbedToken
from agevlm.vlm.hf.session import HfVlm
from tests.analysis.similarity.conftest import CAPTIONS, write_captions, write_rows


def similarity(out, *extra, ckpt=("scenes/age-vlm",), draws=100):
    named = [word for one in ckpt for word in ("--ckpt", one)]
    return ["similarity", *named, "--out", out, "--draws", draws, *extra]


def of_photos(photos):
    return "--annotations", photos.parent / "captions.json", "--images", photos


def cells_of(out, **wanted):
    cells = json.loads((out / "scores.json").read_text())["cells"]
    return [cell for cell in cells if all(cell[k] == v for k, v in wanted.items())]


class Planted(HfVlm):
    """Says of each text how alike it is to its image, as `cosine(text)` has it."""

    @staticmethod
    def cosine(text):
        raise NotImplementedError

    def tokens(self, encoded, asks, answers):
        return [(ProbedToken("<s>", "template", 0, 3), ProbedToken(a.prompt, "prompt", 0, len(a.prompt))) for a in asks]

    def similarities(self, encoded, asks, wanted, spec):
        assert all(own == [1] for own in wanted), "the caption's tokens alone"
        found = []
        for ask in asks:
            raw = np.full((3, 3), self.cosine(ask.prompt), np.float32)
            mean = np.zeros((3, 1, 4), np.float32)
            centred = raw if "hidden" in spec.centres else None
            found.append({"hidden": Compared(("embeddings", "0", "norm"), raw, centred, mean, mean)})
        return found


@pytest.fixture
def planted(monkeypatch):
    def plant(cosine):
        monkeypatch.setattr(Planted, "cosine", staticmethod(cosine))
        for name in ("tokens", "similarities"):
            monkeypatch.setattr(HfVlm, name, getattr(Planted, name))
        monkeypatch.setattr(HfVlm, "cosine", staticmethod(cosine), raising=False)

    return plant


def spread(text):
    return (sum(map(ord, text)) % 97) / 1000


def test_a_planted_difference_is_found_where_it_is(here, planted, photos, tmp_path):
    matching = {text for own in CAPTIONS.values() for text in own}
    # Other images' captions match their own images: only a swap or a shuffle is told from what matches.
    planted(lambda text: (0.5 if text in matching else 0.0) + spread(text))
    done = here(*similarity(tmp_path / "out", *of_photos(photos)))
    assert done.code == 0, done.err
    for kind, low, high in (("hard", 1, 1), ("word-order", 1, 1), ("other", 0.2, 0.8)):
        found = cells_of(tmp_path / "out", kind=kind)
        assert {cell["images"] for cell in found} == {4}
        assert all(low <= cell["auroc"]["value"] <= high for cell in found), kind
    headline = cells_of(tmp_path / "out", headline=True, kind="hard", pooling="mean", form="raw")
    assert [cell["layer"] for cell in headline] == ["0"]
    assert headline[0]["paired"] == {"value": 1.0, "low": pytest.approx(1 - 0.6024, abs=1e-3), "high": 1.0}
    assert headline[0]["d"]["value"] > 5
    assert headline[0]["overlap"]["value"] < 0.05
    # The image plays no part: the text alone is told from its changed form just as well.
    assert headline[0]["auroc_of_text_alone"]["value"] == 1
    assert headline[0]["auroc_above_text_alone"]["value"] == 0
    assert headline[0]["overlap_of_chance"] > 0.3


def test_what_the_image_adds_is_told_from_what_the_text_does(here, planted, photos, tmp_path, monkeypatch):
    planted(lambda text: spread(text))
    plain, shown = HfVlm.similarities, []

    def encode(self, images):
        shown[:] = [images[0]]
        return [None]

    def seen(self, encoded, asks, wanted, spec):
        names = {np.asarray(Image.open(photos / name)).tobytes(): name for name in CAPTIONS}
        matching = CAPTIONS[names[np.asarray(shown[0]).tobytes()]]
        found = plain(self, encoded, asks, wanted, spec)
        for ask, one in zip(asks, found, strict=True):
            one["hidden"].raw[:] += 0.5 * (ask.prompt in matching)
        return found

    monkeypatch.setattr(HfVlm, "encode", encode)
    monkeypatch.setattr(HfVlm, "similarities", seen)
    done = here(*similarity(tmp_path / "out", *of_photos(photos)))
    assert done.code == 0, done.err
    for cell in cells_of(tmp_path / "out", headline=True, pooling="mean", form="raw"):
        assert cell["auroc"]["value"] == 1
        if cell["kind"] == "other":
            assert cell["auroc_of_text_alone"] is None
        else:
            assert 0.2 < cell["auroc_of_text_alone"]["value"] < 0.8
            assert cell["auroc_above_text_alone"]["value"] > 0.2


def test_a_model_that_sees_no_difference_gets_chance(here, planted, photos, tmp_path):
    planted(lambda text: 0.25)
    assert here(*similarity(tmp_path / "out", *of_photos(photos))).code == 0
    for cell in cells_of(tmp_path / "out"):
        assert (cell["auroc"]["value"], cell["paired"]["value"]) == (0.5, 0.5)
        assert cell["overlap"] == cell["d"] == {"value": None, "low": None, "high": None}


def test_cosines_that_are_no_numbers_are_counted(here, planted, photos, tmp_path):
    planted(lambda text: float("nan") if "dog" in text.lower() else spread(text))
    done = here(*similarity(tmp_path / "out", *of_photos(photos), "--kind", "word-order"))
    assert done.code == 0, done.err
    assert {(c["pairs"], c["undefined"], c["images"]) for c in cells_of(tmp_path / "out")} == {(6, 2, 3)}
    assert "6 (+2 undefined)" in done.out


@pytest.mark.parametrize("kind", ["age_vlm", "llava"])
def test_it_writes_all_that_it_says(here, checkpoint, photos, tmp_path, kind):
    out = tmp_path / "out"
    done = here(*similarity(out, *of_photos(photos), ckpt=[checkpoint(kind)]))
    assert done.code == 0, done.err
    files = {path.name for path in out.iterdir()}
    figures = {f"similarity-{name}.{end}" for name in ("raw", "centred", "by-layer") for end in ("png", "svg")}
    assert files == {"run.json", "scores.json", "probes", "lock", *figures}
    for name in figures:
        if name.endswith("png"):
            with Image.open(out / name) as picture:
                assert len(picture.convert("RGB").getcolors(10**6)) > 100
    manifest = json.loads((out / "run.json").read_text())
    assert manifest["prompt"] == "{text}"
    assert "does not say" in manifest["choices"]["paper"]
    scores = json.loads((out / "scores.json").read_text())
    assert scores["images"] == 4
    assert list(scores["centres_from"].values()) == [{"texts": 8, "images": 4}]
    spaces = {cell["space"] for cell in scores["cells"]}
    assert spaces == ({"hidden", "cross_output", "query_key"} if kind == "age_vlm" else {"hidden", "query_key"})
    # Every place has its raw and centred cell for every kind.
    layers = {(c["space"], c["layer"]) for c in scores["cells"]}
    assert len(scores["cells"]) == len(layers) * 3 * 3 * 2
    assert all(c["undefined"] == 0 for c in scores["cells"])
    # Pooled embeddings do not know the order of words.
    at = {"space": "hidden", "layer": "embeddings", "kind": "word-order", "pooling": "mean", "form": "raw"}
    if kind == "age_vlm":
        assert cells_of(out, **at)[0]["mean_match"] == pytest.approx(cells_of(out, **at)[0]["mean_other"], abs=0.05)
    for words in ("AUROC", "paired accuracy", "overlap of chance", "The paper does not say", "100 bootstrap draws"):
        assert words in done.out


@pytest.mark.slow
def test_scores_come_from_the_records_alone_and_a_broken_run_goes_on(here, checkpoint, photos, tmp_path, monkeypatch):
    args = [*of_photos(photos), "--seed", 3]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert here(*similarity(whole, *args, ckpt=[checkpoint("age_vlm")])).code == 0
    measure, calls = HfVlm.similarities, []

    def interrupted(self, encoded, asks, wanted, spec):
        calls.append(bool(spec.centres))
        if sum(calls) == 3:
            raise KeyboardInterrupt
        return measure(self, encoded, asks, wanted, spec)

    monkeypatch.setattr(HfVlm, "similarities", interrupted)
    first = here(*similarity(broken, *args, ckpt=[checkpoint("age_vlm")]))
    assert first.code == 130
    assert calls == [False] * 4 + [True] * 3
    assert "safe in" in first.err
    assert not (broken / "scores.json").exists()
    calls.clear()
    assert here(*similarity(broken, *args, ckpt=[checkpoint("age_vlm")])).code == 0
    assert calls == [True] * 2, "two images were kept, and the centres"
    assert (broken / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()
    # Once more: nothing is asked, no model is loaded, and the figures come out the same.
    monkeypatch.setattr(HfVlm, "load", None)
    pictures = {path.name: path.read_bytes() for path in broken.glob("*.svg")}
    assert here(*similarity(broken, *args, ckpt=[checkpoint("age_vlm")])).code == 0
    assert {path.name: path.read_bytes() for path in broken.glob("*.svg")} == pictures
    assert (broken / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()


def test_records_say_what_was_compared(here, checkpoint, photos, tmp_path):
    out = tmp_path / "out"
    assert here(*similarity(out, *of_photos(photos), "--kind", "hard", ckpt=[checkpoint("age_vlm")])).code == 0
    (file,) = [path for path in (out / "probes").iterdir() if "centres" not in path.name]
    rows = pq.read_table(file).to_pylist()
    assert {row["kind"] for row in rows} == {"match", "hard"}
    assert {row["text"] for row in rows if row["kind"] == "match"} == {t for own in CAPTIONS.values() for t in own}
    for row in rows:
        assert row["hidden_layers"][0] == "embeddings"
        assert len(row["hidden_raw"]) == 3 * len(row["hidden_layers"]) == len(row["hidden_centred"])
        assert all(-1.0001 <= cosine <= 1.0001 for cosine in row["hidden_raw"])
        assert row["tokens"] >= len(row["text"].split())


@pytest.mark.slow
def test_the_caption_alone_is_compared_whatever_carries_it(here, checkpoint, photos, tmp_path):
    found = {}
    for prompt in ("{text}", "Is this right? {text} Say yes or no."):
        out = tmp_path / str(len(found))
        extra = ("--kind", "hard", "--prompt", prompt)
        assert here(*similarity(out, *of_photos(photos), *extra, ckpt=[checkpoint("age_vlm")])).code == 0
        (file,) = [path for path in (out / "probes").iterdir() if "centres" not in path.name]
        found[prompt] = pq.read_table(file).to_pylist()
    for one, other in zip(*found.values(), strict=True):
        assert abs(one["tokens"] - other["tokens"]) <= 1
        assert one["hidden_raw"] != other["hidden_raw"]


@pytest.mark.slow
def test_checkpoints_are_compared_over_the_same_images(here, checkpoint, photos, tmp_path):
    out, rows = tmp_path / "out", tmp_path / "rows.json"
    ckpts = [checkpoint("age_vlm"), checkpoint("llava")]
    done = here(*similarity(out, *of_photos(photos), "--json", rows, ckpt=ckpts))
    assert done.code == 0, done.err
    scores = json.loads((out / "scores.json").read_text())
    assert json.loads(rows.read_text()) == scores["cells"]
    one = next(d for d in scores["differences"] if (d["space"], d["pooling"], d["form"]) == ("hidden", "mean", "raw"))
    at = {"space": "hidden", "pooling": "mean", "form": "raw", "kind": one["kind"], "headline": True}
    first, second = (cells_of(out, model=str(name), **at)[0] for name in ckpts)
    assert one["auroc"]["value"] == pytest.approx(first["auroc"]["value"] - second["auroc"]["value"])
    assert one["auroc"]["low"] <= one["auroc"]["value"] <= one["auroc"]["high"]
    assert "difference" in done.out
    # A space that the first of them lacks has its name all the same.
    assert here(*similarity(out, *of_photos(photos), ckpt=ckpts[::-1])).code == 0
    drawn = (out / "similarity-by-layer.svg").read_text()
    assert "no cross-attention output" in drawn
    assert ">cross-attention output<" in drawn


def test_an_image_that_cannot_be_used_is_named_and_the_rest_goes_on(here, checkpoint, photos, tmp_path):
    (photos / "b.png").write_bytes((photos / "b.png").read_bytes()[:100])
    captions = {**CAPTIONS, "c.png": ["dog " * 5000, "a car"]}
    more = {"e.png": ["a cat sleeps"], "f.png": ["a bus on a road"]}
    write_captions(tmp_path / "captions.json", {**captions, **more})
    Image.new("RGB", (30, 30)).save(photos / "e.png")
    (photos / "f.png").touch()
    done = here(*similarity(tmp_path / "out", *of_photos(photos), "--kind", "word-order", ckpt=[checkpoint("llava")]))
    assert done.code == 0, done.err
    assert "image b.png: damaged or truncated" in done.err
    assert "image f.png: " in done.err
    assert re.search(r"image c\.png: .*shorten it", done.err), done.err
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (scores["images"], scores["images_not_with_every_model"]) == (3, 3)
    assert "3 images (3 could not be looked at with every model" in done.out
    assert "less the mean state of 3 images" in done.out
    assert len(json.loads((tmp_path / "out" / "run.json").read_text())["models"].popitem()[1]["errors"]) == 3


def failing(when, error):
    """Passes, of which some fail: `when(prompts, whether states are centred)`."""
    measure = HfVlm.similarities

    def similarities(self, encoded, asks, wanted, spec):
        if when([ask.prompt for ask in asks], bool(spec.centres)):
            raise error
        return measure(self, encoded, asks, wanted, spec)

    return similarities


def test_an_image_that_does_not_fit_takes_no_other_with_it(here, checkpoint, photos, tmp_path, monkeypatch):
    hit = failing(lambda prompts, _: CAPTIONS["b.png"][0] == prompts[0], MemoryError("b does not fit"))
    monkeypatch.setattr(HfVlm, "similarities", hit)
    done = here(*similarity(tmp_path / "out", *of_photos(photos), "--kind", "hard", ckpt=[checkpoint("age_vlm")]))
    assert done.code == 0, done.err
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["images"] == 3
    assert [own["images"] for own in scores["centres_from"].values()] == [3]
    assert len({cell["form"] for cell in scores["cells"]}) == 2


def test_without_centres_nothing_is_compared_and_the_reason_is_named(here, checkpoint, photos, tmp_path, monkeypatch):
    args = similarity(tmp_path / "out", *of_photos(photos), "--kind", "hard", ckpt=[checkpoint("age_vlm")])
    with monkeypatch.context() as patch:
        for error in (RuntimeError("a bad kernel"), MemoryError("no room")):
            patch.setattr(HfVlm, "similarities", failing(lambda _, centred: not centred, error))
            done = here(*args)
            assert done.code == 2
            assert str(error) in done.err.splitlines()[-1]
            assert (
                str(error)
                in json.loads((tmp_path / "out" / "run.json").read_text())["models"].popitem()[1]["errors"][0]
            )
            patch.undo()
    done = here(*args)
    assert done.code == 0, done.err
    assert "1 to go" in done.err, "the centres were asked for again"


def test_what_a_first_pass_left_out_stays_named(here, checkpoint, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.similarity.measuring.CHUNK", 2)
    hit = failing(lambda prompts, centred: not centred and prompts[0] == CAPTIONS["a.png"][0], RuntimeError("unlucky"))
    monkeypatch.setattr(HfVlm, "similarities", hit)
    done = here(*similarity(tmp_path / "out", *of_photos(photos), "--kind", "hard", ckpt=[checkpoint("age_vlm")]))
    assert done.code == 0, done.err
    (model,) = json.loads((tmp_path / "out" / "run.json").read_text())["models"].values()
    assert model["errors"] == ["RuntimeError: unlucky"]
    assert "less the mean state of 2 images" in done.out


def test_a_slip_in_the_last_model_s_name_costs_nothing(here, checkpoint, photos, tmp_path):
    ckpts = [checkpoint("age_vlm"), tmp_path / "no such model"]
    done = here(*similarity(tmp_path / "out", *of_photos(photos), ckpt=ckpts))
    assert (done.code, done.out) == (2, "")
    assert "no such model" in done.err
    assert not (tmp_path / "out").exists()


BAD = {
    "served": (["--ckpt", "openai:http://localhost:1#m"], "neither attention nor hidden states"),
    "twice": (["--ckpt", "scenes/age-vlm", "--ckpt", "scenes/age-vlm"], "given twice"),
    "no source": (["--ckpt", "somewhere"], "give --annotations captions.json --images DIR, or --pairs"),
    "two sources": (["--pairs", "scenes", "--annotations", "c.json"], "not both"),
    "no folder": (["--annotations", "captions.json"], "give the folder of its images"),
    "instances alone": (["--instances", "i.json"], "give both"),
    "no such file": (["--annotations", "none.json", "--images", "photos"], "no such file"),
    "no such pairs": (["--pairs", "none.jsonl"], "none.jsonl: no such file"),
    "prompt": (["--prompt", "Describe it."], "must hold {text} once"),
    "one scene": (["--pairs", "scenes:1"], "2 to 100,000 images"),
    "kind": (["--pairs", "scenes:2", "--kind", "given"], "neither `negatives`"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(here, photos, tmp_path, monkeypatch, case):
    extra, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = here("similarity", *extra)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith("error: ")
    assert message in done.err
    assert sorted(tmp_path.rglob("*")) == before, "nothing was written"


def test_a_layer_that_a_model_lacks_is_named_and_nothing_is_lost(here, checkpoint, photos, tmp_path):
    args = similarity(tmp_path / "out", *of_photos(photos), ckpt=[checkpoint("age_vlm")])
    done = here(*args, "--layer", "77")
    assert done.code == 2
    assert "--layer 77" in done.err
    assert "embeddings, 0, 1" in done.err
    again = here(*args, "--layer", "norm", "--pooling", "max")
    assert again.code == 0
    assert "4 looked at before, 0 to go" in again.err
    assert {c["layer"] for c in cells_of(tmp_path / "out", headline=True)} == {"norm"}
    # The picture names the layer that it shows.
    drawn = (tmp_path / "out" / "similarity-raw.svg").read_text()
    assert "layer norm" in drawn
    assert not re.search(r"layer \d", drawn)
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (manifest["layer"], manifest["pooling"]) == ("norm", "max")


def test_images_beside_a_file_of_pairs(here, checkpoint, photos, tmp_path):
    rows = [{"image": name, "text": own[0], "negatives": ["no such thing"]} for name, own in CAPTIONS.items()]
    pairs = write_rows(photos / "pairs.jsonl", rows)
    done = here(*similarity(tmp_path / "out", "--pairs", pairs, "--kind", "given", ckpt=[checkpoint("age_vlm")]))
    assert done.code == 0, done.err
    assert {c["kind"] for c in cells_of(tmp_path / "out")} == {"given"}
