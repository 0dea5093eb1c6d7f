"""`agevlm-eval compare` as it is called: refusals, exit codes, what is printed and written."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys

import pytest

from reports.compare import commands
from reports.compare.comparison import compare, leads
from reports.compare.page import page
from reports.compare.sides import ASPECTS, NOUNS, open_sides, unlike
from tests.benchmarks.runs.launch import ROOT, command_here, environment
from tests.reports.compare.conftest import questions_of, remake, rewrite

DRAWS = ["--draws", "100"]


def run(*arguments: object):
    return command_here("compare", *map(str, arguments), *DRAWS)


def test_what_is_printed(made):
    done = run(made / "pope-a", made / "pope-b", "--full", "--flips", 2)
    assert done.returncode == 0, done.stderr
    # Which way round is in every title.
    assert done.stdout.count("POPE, B (stub (pope-b)) less A (stub (pope-a))") == 5
    assert "each run less A (stub (pope-a))" in done.stdout
    assert "higher, established" in done.stdout
    assert "protocol default" in done.stdout
    assert re.search(r"right in B, wrong in A: 2 of \d+", done.stdout)
    none = run(made / "pope-a", made / "pope-b", "--full", "--flips", 0)
    assert "wrong in A" not in none.stdout


def test_json_holds_everything(made, tmp_path):
    done = run(made / "pope-a", made / "pope-b", "--json", "-")
    (found,) = json.loads(done.stdout)
    assert found["difference"] == "other - base"
    assert found["base"]["label"] == "stub (pope-a)"
    assert found["shared"] == 360
    assert found["headline"]["difference"] == pytest.approx(found["headline"]["other"] - found["headline"]["base"])
    assert {one["name"] for one in found["groups"]} == {"random", "popular", "adversarial", "pooled"}
    pooled = next(one for one in found["groups"] if one["name"] == "pooled")
    assert len(found["flips"]) == pooled["only_base_right"] + pooled["only_other_right"] > 0
    assert {"image", "base_answer", "other_logprobs", "sure"} <= found["flips"][0].keys()
    # The same numbers, and the same file, whatever else is printed.
    assert run(made / "pope-a", made / "pope-b", "--json", tmp_path / "all.json").returncode == 0
    assert json.loads((tmp_path / "all.json").read_text()) == [found]


def test_three_runs_are_adjusted_for_one_another(made, copy):
    third = copy("pope-b", "third")
    done = run(made / "pope-a", made / "pope-b", third, "--json", "-")
    one, two = json.loads(done.stdout)
    assert (one["other"]["letter"], two["other"]["letter"]) == ("B", "C")
    assert one["base"]["label"] == two["base"]["label"]
    assert one["headline"]["p_holm"] == pytest.approx(2 * one["headline"]["p"])
    assert "Holm over 2" in run(made / "pope-a", made / "pope-b", third, "--full").stdout


# --- refusals ---------------------------------------------------------------------------------------------------------

OTHERS = {
    "data": {"data": [{"name": "coco", "data_version": "custom:other", "content_sha256": "other"}]},
    "prompt": {"prompt": {"name": "official", "template": "{question}"}},
    "decoding": {"decoding": {"greedy": True, "max_new_tokens": 7}},
}


def changed(copy, aspect):
    """pope-b, different from pope-a in this aspect as well."""
    folder = copy("pope-b", f"pope-{aspect}")
    if aspect == "limit":
        manifest = json.loads((folder / "run.json").read_text())
        data = manifest["data"]
        data[0]["data_version"] += " limit 20 seed 0"
        return remake(folder, data=data)
    if aspect == "protocol":
        scores = json.loads((folder / "scores.json").read_text())
        scores["settings"]["protocols"] = ["strict"]
        (folder / "scores.json").write_text(json.dumps(scores))
        return folder
    if aspect == "data":
        data = json.loads((folder / "run.json").read_text())["data"]
        return remake(folder, data=[data[0] | {"data_version": "custom:other", "content_sha256": "other"}])
    return remake(folder, **OTHERS[aspect])


@pytest.mark.parametrize("aspect", ["data", "limit", "prompt", "decoding", "protocol"])
def test_runs_that_differ_in_more_than_the_model_are_refused_unless_told(made, copy, aspect):
    other = changed(copy, aspect)
    refused = run(made / "pope-a", other)
    assert refused.returncode == 2
    assert f"different {NOUNS[aspect]}: A " in refused.stderr
    assert f"--allow {aspect}" in refused.stderr
    assert (aspect == "protocol") == ("--protocol NAME" in refused.stderr)
    allowed = run(made / "pope-a", other, "--allow", aspect)
    assert allowed.returncode == 0, allowed.stderr
    said = re.search(rf"different {NOUNS[aspect]}: A (.+?), B (.+?)(;|\.|$|:)", refused.stderr)
    assert said is not None
    for printed, count in ((allowed, 2), (run(made / "pope-a", other, "--allow", aspect, "--full"), 6)):
        titles = [line for line in printed.stdout.splitlines() if re.match(r" *POPE[,:]", line)]
        assert len(titles) == count
        assert " ".join(printed.stdout.split()).count(f"different {NOUNS[aspect]}: A {said[1]}") >= count
    # Another one is not allowed by it.
    wrong = "prompt" if aspect != "prompt" else "data"
    assert run(made / "pope-a", other, "--allow", wrong).returncode == 2


def test_both_are_named_where_two_things_differ(made, copy):
    other = remake(changed(copy, "prompt"), **OTHERS["decoding"])
    refused = run(made / "pope-a", other)
    assert "prompts: A default, B official" in refused.stderr
    assert '"max_new_tokens": 7' in refused.stderr
    assert "--allow prompt --allow decoding" in refused.stderr
    assert run(made / "pope-a", other, "--allow", "prompt", "--allow", "decoding").returncode == 0


def test_one_name_for_two_prompts_is_seen(made, copy):
    other = remake(copy("pope-b"), prompt={"name": "default", "template": "{question} Now!"})
    assert "Now!" in run(made / "pope-a", other).stderr


def test_controls_of_other_seeds_are_refused(made, copy):
    other = remake(copy("pope-b"), seed=5)
    assert run(made / "pope-a", other).returncode == 0
    refused = run(made / "pope-a", other, "--condition", "shuffled")
    assert "seeds of the control: A 0, B 5" in refused.stderr
    alike = run(made / "pope-a", made / "pope-b", "--condition", "shuffled")
    assert alike.returncode == 0
    titles = [line for line in alike.stdout.splitlines() if line.startswith("POPE")]
    assert len(titles) == 2
    assert all(title.startswith("POPE (shuffled)") for title in titles)
    missing = run(made / "pope-a", made / "pope-b", "--condition", "blind")
    assert missing.returncode == 2
    assert f"--condition blind: {made / 'pope-a'} has image, shuffled" in missing.stderr


def test_judges_are_told_apart(made, copy):
    """Only where a judge reads the answers."""
    sides = []
    for name, judge in (("cv-a", "openai:http://here#one"), ("cv-b", "openai:http://here#two")):
        folder = copy(name)
        (folder / "judge.json").write_text(json.dumps({"judge": judge}))
        rewrite(
            folder / "readings.jsonl", lambda r: r | {"readings": r["readings"] | {"judged": r["readings"]["rules"]}}
        )
        sides.append(folder)
    refused = run(*sides, "--reading", "judged")
    assert "judges: A openai:http://here#one, B openai:http://here#two" in refused.stderr
    assert run(*sides, "--reading", "judged", "--allow", "judge").returncode == 0
    assert run(*sides).returncode == 0


def test_a_question_that_changed_under_its_id_is_another_data_version(made, copy):
    other = copy("pope-b")
    first = questions_of(other)[0]["question"]

    def change(row):
        if row["question"] == first:
            row["question"] = row["question"] | {"label": not first["label"]}
        return row

    rewrite(other / "questions.jsonl", change)
    refused = run(made / "pope-a", other)
    assert refused.returncode == 2
    assert "random 1 is not the same" in refused.stderr
    assert "--allow data" in refused.stderr
    allowed = run(made / "pope-a", other, "--allow", "data", "--json", "-")
    (found,) = json.loads(allowed.stdout)
    assert (found["changed"], found["shared"], found["only_base"], found["only_other"]) == (1, 359, 0, 0)


def test_what_cannot_be_compared(made, copy, tmp_path):
    assert "given twice" in run(made / "pope-a", made / "pope-a").stderr
    assert "2 to 26 run folders" in run(made / "pope-a").stderr
    assert "different benchmarks" in run(made / "pope-a", made / "cv-a").stderr
    analysis = remake(copy("pope-a", "analysis"), benchmark="grounding")
    assert "pope runs or of cvbench runs" in run(made / "pope-a", analysis).stderr
    newer = remake(copy("pope-a", "newer"), schema=99)
    assert "newer version" in run(made / "pope-a", newer).stderr
    assert "not a run folder" in run(made / "pope-a", tmp_path / "nothing").stderr
    assert "no F1" in run(made / "cv-a", made / "cv-b", "--metric", "f1").stderr
    assert "--reading rules" in run(made / "pope-a", made / "pope-b", "--reading", "rules").stderr
    assert "judged" in run(made / "pope-a", made / "pope-b", "--protocol", "judged").stderr
    empty = copy("pope-b", "empty")
    (empty / "answers-00000.jsonl").write_text("")
    assert "share no question" in run(made / "pope-a", empty).stderr
    for failed in (run(made / "pope-a"), run(made / "pope-a", empty), run(made / "pope-a", newer)):
        assert failed.returncode == 2


def test_damaged_lines_are_named_and_the_rest_is_used(made, copy):
    other = copy("pope-b")
    path = other / "questions.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:4], "{nonsense\n", *lines[5:]]))
    done = run(made / "pope-a", other, "--json", "-")
    assert done.returncode == 0
    assert "questions.jsonl:5: damaged" in done.stderr
    (found,) = json.loads(done.stdout)
    assert (found["shared"], found["only_base"]) == (359, 1)
    assert "questions.jsonl:5" in found["other"]["remarks"][0]


def test_one_model_under_two_prompts_is_allowed_and_said(made, copy):
    other = remake(copy("pope-a", "again"), **OTHERS["prompt"])
    done = run(made / "pope-a", other, "--allow", "prompt")
    assert done.returncode == 0
    assert "A and B are of one model, to the last byte" in done.stdout
    assert "one model" not in run(made / "pope-a", made / "pope-b").stdout


# --- exit codes -------------------------------------------------------------------------------------------------------


def test_a_limit_decides_the_exit_code(made):
    better, worse = (made / "pope-a", made / "pope-b"), (made / "pope-b", made / "pope-a")
    assert run(*better, "--fail-below", "0").returncode == 0
    assert run(*better, "--fail-below", "-0.01", "--established").returncode == 0
    failed = run(*worse, "--fail-below", "-0.01")
    assert failed.returncode == commands.BELOW == 5
    assert re.search(r"--fail-below: B \(stub \(pope-a\)\): accuracy, mean of splits: -\d+\.\d\d points", failed.stderr)
    assert run(*worse, "--fail-below", "-0.01", "--established").returncode == 5
    # A limit inside the interval: below it by the number itself, not with certainty.
    (found,) = json.loads(run(*worse, "--json", "-").stdout)
    head = found["headline"]
    inside = (head["difference"] + head["high"]) / 2
    assert head["difference"] < inside < head["high"]
    assert run(*worse, "--fail-below", inside).returncode == 5
    assert run(*worse, "--fail-below", inside, "--established").returncode == 0
    # What is exactly at the limit holds.
    assert run(*worse, "--fail-below", head["difference"]).returncode == 0
    assert run(*worse, "--fail-below", "-0.9", "--metric", "f1").returncode == 0
    assert run(*worse, "--fail-below", "-0.01", "--metric", "f1").returncode == 5


def test_any_run_below_the_limit_fails(made, copy):
    same = copy("pope-b", "same")
    done = run(made / "pope-b", same, made / "pope-a", "--fail-below", "-0.01")
    assert done.returncode == 5
    assert done.stderr.count("--fail-below:") == 1
    assert "C (stub (pope-a))" in done.stderr


def test_an_undefined_difference_fails(made, copy):
    """No question with a yes, and no answer yes: F1 is undefined."""
    folders = [copy(name) for name in ("pope-a", "pope-b")]
    for folder in folders:
        rewrite(folder / "questions.jsonl", lambda r: r if not r["question"]["label"] else None)
        rewrite(folder / "answers-00000.jsonl", lambda r: r | {"text": "No", "commit": [0, 1]})
    done = run(*folders, "--metric", "f1", "--fail-below", "-0.5")
    assert done.returncode == 5
    assert "undefined" in done.stderr
    assert run(*folders, "--metric", "f1").returncode == 0


def test_wrong_limits_are_wrong_usage(made):
    assert run(made / "pope-a", made / "pope-b", "--fail-below", "-5").returncode == 2
    assert run(made / "pope-a", made / "pope-b", "--established").returncode == 2
    assert run(made / "pope-a", made / "pope-b", "--fail-below", "x").returncode == 2


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_has_the_tables_and_the_flips(made, tmp_path):
    out = tmp_path / "out"
    done = run(made / "pope-a", made / "pope-b", "--out", out, "--json", "-")
    assert done.returncode == 0, done.stderr
    assert str(out / "report.html") in done.stderr
    tables = {path.stem for path in (out / "tables").iterdir()}
    assert tables == {
        "compared",
        *(f"b-less-a-{name}" for name in ("scores", "tests", "categories", "right-in-a", "right-in-b")),
    }
    for path in (out / "tables").glob("*.csv"):
        heads = next(csv.reader(io.StringIO(path.read_text())))
        assert len(set(heads)) == len(heads), path
    (found,) = json.loads(done.stdout)
    row = next(csv.DictReader(io.StringIO((out / "tables" / "compared.csv").read_text())))
    assert row["run less A"] == f"{100 * found['headline']['difference']:+.1f}"
    assert row["run less A low"] == f"{100 * found['headline']['low']:+.1f}"
    text = (out / "report.html").read_text()
    assert "higher, established" in text
    assert "http://" not in text.replace("http://www.w3.org/", "")


@pytest.mark.parametrize("condition", ["image", "shuffled"])
def test_the_gallery_has_the_flips_as_they_were_read(made, condition):
    base, other = open_sides([made / "pope-a", made / "pope-b"], "vcd", None, condition)
    report = page(leads([compare(base, other, draws=100)], "f1"), None)
    flips = compare(base, other, draws=100).flips
    assert len(flips) > 5
    want = {(side.label, f.base.split, f.base.number) for f in flips for side in (base, other)}
    gallery = report.gallery
    assert {(one.run, one.split, one.number) for one in gallery.items} == want
    assert len(gallery.items) == len(want)
    answers = {(side.label, q.split, q.number): q for side in (base, other) for q in side.opened.questions}
    for one in gallery.items:
        read = answers[one.run, one.split, one.number].read
        assert one.read == f"{read.label} ({read.rule})"
        assert (one.kind == "right") == (read.verdict == "right")
        assert one.picture is not None
    assert any("control shuffled" in note for note in gallery.notes) == (condition == "shuffled")
    assert len(gallery.pictures) == len({one.image for one in gallery.items})


def test_runs_that_never_part_have_no_gallery(made, copy):
    same = copy("pope-a", "same")
    base, other = open_sides([made / "pope-a", same], None, None, "image")
    assert page(leads([compare(base, other, draws=100)], "accuracy"), None).gallery is None


def test_every_aspect_can_be_allowed_and_has_a_noun(made):
    assert tuple(ASPECTS) == commands.ALLOW
    assert ASPECTS.keys() == NOUNS.keys()
    first, second = open_sides([made / "pope-a", made / "pope-b"], None, None, "image")
    assert unlike(first, second) == []


def test_a_single_shared_question_has_no_interval_and_is_a_tie(made, copy):
    """Nothing is known from one image; nothing is claimed, and nothing breaks."""
    for kind in ("pope", "cv"):
        folders = [copy(f"{kind}-{name}") for name in "ab"]
        for folder in folders:
            first = (folder / "questions.jsonl").read_text().splitlines(keepends=True)[0]
            (folder / "questions.jsonl").write_text(first)
        rewrite(folders[0] / "answers-00000.jsonl", lambda r: r | {"text": "nothing", "commit": [0, 1]})
        done = run(*folders, "--json", "-", "--fail-below", "-1", "--established")
        (found,) = json.loads(done.stdout)
        assert found["shared"] == found["images"] == 1
        assert found["headline"]["verdict"] == "a tie"
        assert found["headline"]["minimum_detectable_effect"] is None
        assert done.returncode in (0, commands.BELOW)
        assert run(*folders).returncode == 0


def test_no_model_is_loaded(made):
    code = (
        "import sys; from agevlm.cli import eval_main\n"
        f"sys.argv = ['agevlm-eval', 'compare', {str(made / 'pope-a')!r}, {str(made / 'pope-b')!r}, '--draws', '100']\n"
        "eval_main()\n"
        "assert 'numpy' in sys.modules\n"
        "found = {'torch', 'transformers', 'matplotlib'} & sys.modules.keys()\n"
        "sys.exit(f'loaded: {found}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_an_image_that_changed_under_its_name_is_another_data_version(made, copy):
    other = copy("pope-b")
    first = questions_of(other)[0]
    key = first["keys"]["image"]
    rewrite(
        other / "answers-00000.jsonl",
        lambda row: row | {"shown": "0" * 64, "commit": [0, 1]} if row["key"] == key else row | {"commit": [0, 1]},
    )
    refused = run(made / "pope-a", other)
    assert refused.returncode == 2
    assert "is not the same" in refused.stderr
    assert "000000000000" in refused.stderr
    assert "--allow data" in refused.stderr
    (found,) = json.loads(run(made / "pope-a", other, "--allow", "data", "--json", "-").stdout)
    assert found["changed"] == 360 - found["shared"] > 0
    # A control shows something else of its own making.
    assert run(made / "pope-a", other, "--condition", "shuffled").returncode == 0


def test_json_is_strict_whatever_the_log_probabilities(made, copy):
    other = copy("pope-b")
    odd = [float("-inf"), float("nan"), float("inf")]
    rewrite(
        other / "answers-00000.jsonl",
        lambda row: row | {"commit": [0, 1], "logprobs": {"yes": odd[len(row["prompt"]) % 3], "no": -0.5}},
    )
    done = run(made / "pope-a", other, "--json", "-")

    def refuse(constant):
        raise AssertionError(constant)

    (found,) = json.loads(done.stdout, parse_constant=refuse)
    assert None in [flip["other_logprobs"]["yes"] for flip in found["flips"]]
    assert run(made / "pope-a", other).returncode == 0
