"""Whole stages on data that are not all good: counts of each source, skipped.jsonl, limits, resuming, processes."""

import errno
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from agevlm.errors import DataError, TrainError
from tests.train.processes import failing, trained
from tests.train.toys import Recorder, Stop, Toys, checkpoint, stage, stopping_after
from train import state
from train.data.feed import build_order
from train.data.samples import BadSample, Message, Sample
from train.data.sources import open_source
from train.loop import run_stage
from train.mixture import SKIPPED, told
from train.spec import Regions, SourceSpec


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("base") / "model")


LONG = Sample("long", (Message("user", "hm"), Message("assistant", "Yes, there is. " * 600)))
MUTE = Sample("mute", (Message("user", "hm"),))
GONE = BadSample("gone.jpg: no such file", "image", "gone")
BROKEN = {2: GONE, 3: LONG, 11: MUTE, 20: GONE}
TWO = (SourceSpec("a", 3.0), SourceSpec("b", 1.0))


def mixed():
    return [Toys(23, broken=BROKEN), Toys(5, "others", text_only=0)]


def skipped(out):
    return [json.loads(line) for line in (out / SKIPPED).read_text().splitlines()]


def test_counts_of_each_source_and_the_log_of_skipped_samples(base, tmp_path):
    recorder = Recorder()
    spec = stage(base, tmp_path / "run", sources=TWO, steps=6, regions=Regions(share=0.5, batch_share=0.25))
    sources = mixed()
    result = run_stage(spec, sources, trackers=[recorder])
    # What the order says, counted longhand.
    order = build_order(spec, mixed())
    drawn = [one for step in range(6) for one in order.step(step)]
    bad = [(step + 1, slot, one) for step in range(6) for slot, one in enumerate(order.step(step))]
    bad = [(step, slot, one) for step, slot, one in bad if one.source == 0 and one.index in BROKEN]
    assert len(bad) > 4
    found = skipped(tmp_path / "run")
    assert [(row["step"], row["slot"], row["index"], row["epoch"]) for row in found] == [
        (step, slot, one.index, one.epoch) for step, slot, one in bad
    ]
    assert {(row["index"], row["source"], row["id"], row["reason"]) for row in found} <= {
        (2, "toys", "toys/gone", "image"),
        (3, "toys", "toys/long", "length"),
        (11, "toys", "toys/mute", "silent"),
        (20, "toys", "toys/gone", "image"),
    }
    assert all(row["says"] and row["by"].startswith("toys/toys-") for row in found)
    counts = {name: sum(one.source == i for one in drawn) for i, name in enumerate(("toys", "others"))}
    assert counts["others"] > 4
    guided = {name: sum(one.source == i and one.guided for one in drawn) for i, name in enumerate(counts)}
    reasons = dict(sorted(Counter(row["reason"] for row in found).items()))
    expected = {
        "toys": {"samples": counts["toys"], "size": 23, "epochs": counts["toys"] / 23, "guided": guided["toys"]},
        "others": {"samples": counts["others"], "size": 5, "epochs": counts["others"] / 5, "guided": guided["others"]},
    }
    expected["toys"]["skipped"], expected["others"]["skipped"] = reasons, {}
    assert result.sources == expected
    assert json.loads((result.model / "training.json").read_text())["sources"] == expected
    row = recorder.rows[6]
    assert row["source/toys/skipped"] == len(found)
    assert row["source/others/epochs"] == counts["others"] / 5
    assert row["source/toys/samples"] + row["source/others/samples"] == row["samples"] == 48
    assert recorder.rows[2]["source/toys/samples"] < row["source/toys/samples"]
    lines = told(result.sources)
    assert (
        f"source toys: {counts['toys']} samples, {counts['toys'] / 23:.2f} times its 23; {guided['toys']}" in lines[0]
    )
    assert all(f"{number} {reason}" in lines[0] for reason, number in reasons.items())
    assert "skipped" not in lines[1]
    # A finished stage says the same again.
    assert run_stage(spec, mixed(), resume=True).sources == expected
    assert skipped(tmp_path / "run") == found


@pytest.mark.parametrize("stopped", [1, 5])
def test_a_resumed_run_skips_and_counts_as_one_that_was_not_interrupted(base, tmp_path, stopped):
    settings = {"sources": TWO, "steps": 6, "save_every": 2, "log_every": 1}
    whole, parts = Recorder(), Recorder()
    expected = run_stage(stage(base, tmp_path / "whole", **settings), mixed(), trackers=[whole])
    spec = stage(base, tmp_path / "parts", **settings)
    with pytest.raises(Stop):
        run_stage(spec, mixed(), trackers=[parts], progress=stopping_after(stopped))
    # A line that a kill left unfinished.
    with (tmp_path / "parts" / SKIPPED).open("a") as log:
        log.write('{"step": 1, "slo')
    result = run_stage(spec, mixed(), trackers=[parts], resume=True)
    assert (tmp_path / "parts" / SKIPPED).read_bytes() == (tmp_path / "whole" / SKIPPED).read_bytes()
    assert skipped(tmp_path / "parts")
    assert (result.sources, parts.rows) == (expected.sources, whole.rows)
    records = [json.loads((tmp_path / run / "model/training.json").read_text()) for run in ("whole", "parts")]
    assert records[0] == records[1]


def test_a_run_that_begins_anew_begins_a_new_log(base, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / SKIPPED).write_text('{"step": 1, "says": "of a run that failed at once"}\n')
    run_stage(stage(base, tmp_path / "run", steps=1), [Toys()])
    assert (tmp_path / "run" / SKIPPED).read_text() == ""


def test_two_processes_skip_what_one_does(base, tmp_path):
    one = Recorder()
    run_stage(stage(base, tmp_path / "one", sources=TWO, log_every=1), mixed(), trackers=[one])
    rows = trained(stage(base, tmp_path / "two", sources=TWO, log_every=1), mixed())
    assert (tmp_path / "two" / SKIPPED).read_bytes() == (tmp_path / "one" / SKIPPED).read_bytes()
    assert len(skipped(tmp_path / "two")) > 2
    for step, row in one.rows.items():
        given = {name: value for name, value in row.items() if name.startswith("source/")}
        assert len(given) == 8
        assert {name: rows[step][name] for name in given} == given


def test_too_many_bad_samples_stop_the_run(base, tmp_path):
    toys = {i: BadSample(f"{i}.jpg: no such file", "image", f"id-{i}") for i in range(0, 40, 2)} | {1: MUTE}
    spec = stage(base, tmp_path / "run", steps=12, save_every=1)
    with pytest.raises(TrainError) as caught:
        run_stage(spec, [Toys(40, broken=toys)])
    said = str(caught.value)
    bad = skipped(tmp_path / "run")
    assert len(bad) > 20
    done = max(row["step"] for row in bad)
    reasons = Counter(row["reason"] for row in bad)
    told = f"source toys: {len(bad)} of {8 * done} samples that were drawn cannot be used ({reasons['image']} image, "
    assert said.startswith(told)
    assert all(f"{row['id']} ({row['says']})" in said for row in bad[:5])
    assert bad[5]["says"] not in said
    assert "max_bad_samples 0.001 allows" in said
    assert str(tmp_path / "run" / SKIPPED) in said
    assert state.latest(tmp_path / "run").name == f"step-{done - 1:08d}"
    # Borne where that is said; then the run ends as one that bore it from the beginning.
    bearing = replace(spec, max_bad_samples=0.9)
    result = run_stage(bearing, [Toys(40, broken=toys)], resume=True)
    whole = run_stage(replace(bearing, out=str(tmp_path / "whole")), [Toys(40, broken=toys)])
    assert (tmp_path / "run" / SKIPPED).read_bytes() == (tmp_path / "whole" / SKIPPED).read_bytes()
    assert result.sources == whole.sources


def test_too_many_bad_samples_stop_both_processes(base, tmp_path):
    broken = dict.fromkeys(range(0, 40, 2), GONE)
    errors = failing(lambda _: run_stage(stage(base, tmp_path / "run", steps=12), [Toys(40, broken=broken)]))
    assert all("TrainError: source toys: " in error and "cannot be used" in error for error in errors), errors


def test_a_full_disk_stops_the_run_and_leaves_its_checkpoint(base, tmp_path):
    spec = stage(base, tmp_path / "run", steps=6, save_every=1)
    log = tmp_path / "run" / SKIPPED

    def fill(done, total):
        if done == 2:
            log.unlink(missing_ok=True)
            log.symlink_to("/dev/full")

    broken = dict.fromkeys(range(0, 23, 3), GONE)
    with pytest.raises(OSError, match=SKIPPED) as caught:
        run_stage(spec, [Toys(23, broken=broken)], progress=fill)
    assert caught.value.errno == errno.ENOSPC
    assert state.latest(tmp_path / "run").name == "step-00000002"
    log.unlink()
    assert run_stage(spec, [Toys(23, broken=broken)], resume=True).steps == 6


def test_two_sources_of_one_name_are_refused_at_once(base, tmp_path):
    with pytest.raises(DataError, match=r"two sources of the stage are called 'toys'"):
        run_stage(stage(base, tmp_path / "run", sources=TWO), [Toys(), Toys()])


def turns(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


@pytest.fixture
def llava(tmp_path):
    """A LLaVA file of 24 records with images, 2 of them unusable, and its source."""
    (tmp_path / "images").mkdir()
    records = []
    for i in range(24):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{i}.png")
        box = [5, 5, 30, 5, 30, 25, 5, 25]
        phrases = [{"message": 0, "start": 19, "end": 22, "segmentation": [box]}]
        records.append(
            json.dumps(
                {
                    "id": f"r{i}",
                    "image": f"{i}.png",
                    "conversations": turns("<image>\nIs there a dog?", "Yes"),
                    "phrases": phrases,
                }
            )
        )
    records[5] = records[5][:30]
    records[6] = records[6].replace('"segmentation": [[', '"segmentation": [{"size": [3, 3], "counts": "09"}, [')
    (tmp_path / "data.jsonl").write_text("\n".join(records) + "\n")
    options = {"path": str(tmp_path / "data.jsonl"), "images": str(tmp_path / "images")}
    return SourceSpec("llava", 1.0, options)


def test_a_folder_of_images_that_disappears_during_the_run(base, tmp_path, llava):
    settings = {"sources": (llava,), "steps": 9, "save_every": 2}
    whole = run_stage(stage(base, tmp_path / "whole", **settings), [open_source(llava)])
    assert whole.sources["data"]["skipped"].keys() == {"record", "region"}
    spec = stage(base, tmp_path / "run", **settings)

    def take_away(done, total):
        if done == 3:
            (tmp_path / "images").rename(tmp_path / "elsewhere")

    with pytest.raises(DataError, match=rf"the folder of images {tmp_path}/images is gone or empty; bring it back"):
        run_stage(spec, [open_source(llava)], progress=take_away)
    assert state.latest(tmp_path / "run").name == "step-00000002"
    with pytest.raises(DataError, match="no such folder"):
        open_source(llava)
    (tmp_path / "elsewhere").rename(tmp_path / "images")
    assert run_stage(spec, [open_source(llava)], resume=True).sources == whole.sources
    assert (tmp_path / "run" / SKIPPED).read_bytes() == (tmp_path / "whole" / SKIPPED).read_bytes()


def test_two_files_with_the_same_ids(base, tmp_path, llava):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/data.jsonl").write_text((tmp_path / "data.jsonl").read_text())
    other = replace(llava, options={**llava.options, "path": str(tmp_path / "more/data.jsonl")})
    spec = stage(base, tmp_path / "run", sources=(llava, other), steps=12)
    with pytest.raises(DataError, match=r"called 'data'.*options\.name"):
        run_stage(spec, [open_source(llava), open_source(other)])
    named = replace(other, options={**other.options, "name": "more"})
    result = run_stage(replace(spec, sources=(llava, named)), [open_source(llava), open_source(named)])
    assert {name: given["samples"] for name, given in result.sources.items()} == {"data": 48, "more": 48}
    ids = {row["id"] for row in skipped(tmp_path / "run")}
    assert ids == {"data/5", "data/r6", "more/5", "more/r6"}


def test_science_qa_whose_images_are_absent(base, shared, tmp_path):
    path = shared / "llava/scienceqa_200.json"
    records = json.loads(path.read_text())
    alone = [r for r in records if "image" not in r]
    assert (len(records), len(alone)) == (200, 50)
    settings = {"guidance": None, "max_length": 4096, "steps": 4}
    folder = tmp_path / "images"
    folder.mkdir()
    source = SourceSpec("llava", 1.0, {"path": str(path), "images": str(folder)})
    spec = stage(base, tmp_path / "run", sources=(source,), **settings)
    # No image at all: the folder is empty.
    with pytest.raises(DataError, match=f"the folder of images {folder} is gone or empty"):
        run_stage(spec, [open_source(source)])
    # The folder of something else.
    Image.new("RGB", (30, 30)).save(folder / "other.png")
    with pytest.raises(TrainError, match=r"cannot be used|none can be used") as caught:
        run_stage(replace(spec, steps=20), [open_source(source)])
    assert "image.png: no such file" in str(caught.value)
    # Text alone trains, with every image row replaced by the next row that has none.
    result = run_stage(replace(spec, max_bad_samples=1.0, steps=8), [open_source(source)])
    given = result.sources["scienceqa_200"]
    assert given["samples"] == 64
    assert set(given["skipped"]) == {"image"}
    found = skipped(tmp_path / "run")
    assert 30 < len(found) == given["skipped"]["image"] < 64
    for row in found:
        after = [records[(row["index"] + i) % 200] for i in range(1, 200)]
        expected = next(r["id"] for r in after if "image" not in r)
        assert (row["id"], row["by"]) == (
            f"scienceqa_200/{records[row['index']]['id']}",
            f"scienceqa_200/{expected}",
        )
    # And the 50 rows of text alone train without any being skipped.
    (tmp_path / "text.json").write_text(json.dumps(alone))
    text = SourceSpec("llava", 1.0, {"path": str(tmp_path / "text.json")})
    result = run_stage(stage(base, tmp_path / "text", sources=(text,), **settings), [open_source(text)])
    assert result.sources["text"]["skipped"] == {}
    assert result.metrics["tokens"] > 0
