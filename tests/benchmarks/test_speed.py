import json
import tempfile
from dataclasses import replace
from functools import cache

import pytest
from click.testing import CliRunner

from agevlm.vlm.hf.session import HfVlm
from benchmarks.pope.protocols import PROTOCOLS
from benchmarks.speed import __main__ as command
from benchmarks.speed import overhead, scoring
from benchmarks.speed.models import FUSIONS, KINDS, Random, load_model
from benchmarks.speed.questions import question_rows
from benchmarks.speed.scoring import synthetic_answers
from benchmarks.speed.sides import PLAIN, SIDES, Said, session

POPE_DISTINCT = 10.25


def run(*arguments, size="tiny"):
    return CliRunner().invoke(command.main, ["--size", size, *map(str, arguments)])


@pytest.fixture(scope="module", autouse=True)
def _models_built_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "load_model", cache(command.load_model))
        yield


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of two images and one scoring, as figures and as text."""
    file = tmp_path_factory.mktemp("speed") / "speed.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "SCORING_KINDS", {"yes/no": "Yes and No alone"})
        result = run("--images", 2, "--scoring-repeats", 1, "--json", file)
    assert result.exit_code == 0, result.output
    return json.loads(file.read_text()), result.stdout


def test_questions_repeat_as_popes_do():
    rows = [question_rows(i) for i in range(40)]
    assert {len(r) for r in rows} == {18}
    assert sum(len(set(r)) for r in rows) / len(rows) == pytest.approx(POPE_DISTINCT)
    for row in rows:
        splits = [row[i : i + 6] for i in (0, 6, 12)]
        assert splits[0][:3] == splits[1][:3] == splits[2][:3]
        assert all(len(set(s)) == 6 for s in splits)
        assert not {q for s in splits for q in s[3:]} & set(splits[0][:3])


def test_work_per_question(report):
    sides = report[0]["sides"]
    plain, image, batched, prefix, distinct = sides.values()
    assert plain["vision_calls_per_question"] == 1
    for side in (image, batched, prefix, distinct):
        assert side["vision_calls_per_question"] == pytest.approx(1 / 18)
    assert image["language_positions_per_question"] == plain["language_positions_per_question"]
    # 16 visual tokens of 43 positions: hardly a prefix, and still the suffixes alone remain
    assert prefix["language_positions_per_question"] <= 23
    assert distinct["language_positions_per_question"] <= 14


def test_positions_with_a_usual_number_of_visual_tokens(tmp_path):
    file = tmp_path / "speed.json"
    arguments = ("--hidden", 256, "--layers", 2, "--images", 1, "--scoring-repeats", 0, "--json", file)
    assert run(*arguments, size="small").exit_code == 0
    plain, _, batched, prefix, distinct = json.loads(file.read_text())["sides"].values()
    assert plain["language_positions_per_question"] > 576
    # The batch pads suffixes to the longest.
    assert prefix["language_positions_per_question"] < batched["language_positions_per_question"] <= 55
    assert distinct["language_positions_per_question"] <= 46


@pytest.fixture(scope="module", params=list(FUSIONS))
def age_vlm(request, tmp_path_factory):
    """An AGE-VLM's kind and the report of one image."""
    file = tmp_path_factory.mktemp("speed") / "speed.json"
    result = run("--model", request.param, "--images", 1, "--scoring-repeats", 0, "--json", file)
    assert result.exit_code == 0, result.output
    return request.param, json.loads(file.read_text()), result.stdout


def test_work_per_question_of_age_vlm(age_vlm):
    kind, report, _ = age_vlm
    plain, image, batched, prefix, distinct = report["sides"].values()
    assert plain["vision_calls_per_question"] == 1
    for side in (image, batched, prefix, distinct):
        assert side["vision_calls_per_question"] == pytest.approx(1 / 18)
    assert image["language_positions_per_question"] == plain["language_positions_per_question"]
    # The 16 visual tokens are among the positions only where they are part of the text.
    lowest, highest = {"age-vlm": (20, 30), "age-vlm-concat": (36, 46)}[kind]
    assert lowest < plain["language_positions_per_question"] < highest
    assert prefix["language_positions_per_question"] < min(23, plain["language_positions_per_question"])
    assert distinct["language_positions_per_question"] <= 14


def test_sides_of_age_vlm_agree_on_both_answers(age_vlm):
    kind, report, text = age_vlm
    answers = report["answers"]
    assert set(answers["differing"].values()) == {0}
    assert min(answers["yes"], answers["no"]) > 0
    assert report["model"] == f"random {kind}, tiny size"
    assert report["shape"]["fusion"] == FUSIONS[kind]
    assert report["model"] in text.replace("\n", "")


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("size", ["small", "medium", "paper"])
def test_age_vlms_have_as_many_visual_tokens_as_the_papers(kind, size):
    from agevlm.model import AgeVlmVisionConfig

    shape = Random(kind, size).shape()
    vision = AgeVlmVisionConfig.from_timm(
        shape.architecture, image_size=shape.image_size, num_stages=shape.num_stages, model_args=shape.model_args
    )
    assert (vision.stride, vision.num_visual_tokens) == (32, 576)
    assert shape.fusion == FUSIONS[kind]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "paper"), "give --model age-vlm or age-vlm-concat"),
        (("--size", "paper", "--model", "age-vlm", "--layers", 4), "paper has its own layers and width"),
        (("--size", "tiny", "--hidden", 512), "tiny has its own layers and width"),
        (("--size", "small", "--hidden", 300), "must be a multiple of 256"),
    ],
)
def test_sizes_that_do_not_exist(arguments, message):
    result = run("--scoring-repeats", 0, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_load_leaves_no_folder(kind, tmp_path, monkeypatch):
    built = []

    def interrupted(folder, **_):
        built.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(HfVlm, "load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_model(Random(kind, "tiny"), "float32", "cpu")
    assert built[0].parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_what_a_run_spends_beside_the_model(tmp_path, monkeypatch):
    file = tmp_path / "overhead.json"
    monkeypatch.setattr(overhead, "PLANNED", 90)
    result = run("--overhead", "--images", 2, "--json", file)
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    assert (found["planned_questions"], found["asked_questions"], found["images"]) == (90, 36, 2)
    for clock in ("wall", "cpu"):
        parts = found[clock]["seconds_per_question"]
        assert set(parts) == set(found[clock]["shares"])
        assert {"prompts and tokens", "records on disk", "reading and planning"} < set(parts)
        assert min(parts.values()) > 0
        assert found[clock]["share"] == pytest.approx(sum(parts.values()) / found[clock]["model_seconds_per_question"])
    assert 0 < found["seconds_from_load_to_first_image"] < found["seconds_from_load_to_first_question"]
    assert "records on disk" in result.stdout
    # The measured model is as it was: other runs use it too.
    assert run("--images", 1, "--scoring-repeats", 0).exit_code == 0


def test_peak_memory_of_runs(monkeypatch):
    monkeypatch.setattr(command, "ROWS", (180, 360))
    result = run("--memory", "--json", "-")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [r["rows"] for r in found["runs"]] == [180, 360]
    for one in found["runs"]:
        distinct = sum(len(set(question_rows(i))) for i in range(one["rows"] // 18))
        assert one["asks"] == distinct
        assert 0 < one["before"] < one["peak"]
    further = (found["runs"][1]["peak"] - found["runs"][0]["peak"]) / 180
    assert found["bytes_per_further_row"] == pytest.approx(further)
    assert "bytes for each further question" in result.stderr


def test_one_thing_is_measured_at_a_time():
    result = run("--memory", "--overhead")
    assert result.exit_code == 2
    assert "one at a time" in result.stderr


def test_report(report):
    figures, text = report
    assert figures["images"] == 2
    assert figures["answers"]["questions"] == 36
    assert figures["answers"]["yes"] + figures["answers"]["no"] == 36
    assert min(figures["answers"]["yes"], figures["answers"]["no"]) > 0
    assert set(figures["answers"]["differing"].values()) == {0}
    assert not figures["answers"]["flips"]
    for side in figures["sides"].values():
        assert side["questions_per_second"] > 0
        assert side["ratio"]["low"] <= side["ratio"]["median"] <= side["ratio"]["high"]
        assert len(side["wall_seconds"]) == len(side["cpu_seconds"]) == 2
    assert {"cpu", "cores", "device", "threads", "dtype", "parameters", "python", "packages"} <= figures[
        "machine"
    ].keys()
    (scored,) = figures["scoring"].values()
    assert (scored["answers"], scored["draws"], scored["protocols"]) == (9000, 2000, len(PROTOCOLS))
    assert scored["wall"] > 0
    assert scored["cpu"] > 0
    for words in (*SIDES, "questions/s", "wall ratio", "Scoring 9000 answers", "torch"):
        assert words in text


@pytest.mark.parametrize("side", [s for s in SIDES if s != PLAIN])
def test_a_wrong_answer_fails_the_run(side, monkeypatch):
    honest = SIDES[side]

    def wrong(*arguments):
        said = honest(*arguments)
        return [*said[:-1], replace(said[-1], ids=(*said[-1].ids, 0))]

    monkeypatch.setitem(SIDES, side, wrong)
    result = run("--images", 1, "--scoring-repeats", 0)
    assert result.exit_code == 1
    assert f"FAILED: 1 answers of {side!r} differ" in result.stderr


def test_in_half_precision_a_difference_is_a_flip_with_its_margin(monkeypatch, tmp_path):
    side = "image and prefix reuse"

    def wrong(vlm, *arguments):
        said = session(vlm, *arguments)
        other = "No" if "Yes" in said[-1].text else "Yes"
        token = vlm.tokenizer.encode(f" {other}", add_special_tokens=False)[0]
        return [*said[:-1], Said((token, *said[-1].ids[1:]), other)]

    monkeypatch.setitem(SIDES, side, wrong)
    file = tmp_path / "speed.json"
    result = run("--images", 1, "--scoring-repeats", 0, "--dtype", "bfloat16", "--json", file)
    assert result.exit_code == 0, result.output
    flips = [f for f in json.loads(file.read_text())["answers"]["flips"] if f["side"] == side]
    assert {f["question"] for f in flips} >= {question_rows(0)[-1]}
    assert all(f["margin"] >= 0 and f["ours"] != f["plain"] for f in flips)
    assert "flip: image and prefix reuse" in result.stdout


def test_empty_answers_fail_the_run(monkeypatch):
    def silent(vlm, jpeg, prompts, limit):
        return [Said((vlm.tokenizer.eos_token_id,), "") for _ in prompts]

    for side in SIDES:
        monkeypatch.setitem(SIDES, side, silent)
    result = run("--images", 1, "--scoring-repeats", 0)
    assert result.exit_code == 1
    assert "18 answers of plain generate are empty" in result.stderr


@pytest.mark.parametrize(("kind", "fewest", "most"), [("yes/no", 2, 2), ("messy", 100, 1000), ("distinct", 9000, 9000)])
def test_synthetic_answers(kind, fewest, most):
    answered = synthetic_answers(kind)
    given = answered.answers["image"]
    assert len(given) == len(answered.questions.questions) == 9000
    assert len({q.cluster for q in answered.questions.questions}) == 500
    assert fewest <= len({a.text for a in given.values()}) <= most
    assert any(a.text is None for a in given.values()) == (kind == "messy")


def test_a_missing_checkpoint_is_one_line():
    result = run("--ckpt", "/nowhere", "--scoring-repeats", 0)
    assert result.exit_code != 0
    assert "/nowhere" in result.stderr
    assert "Traceback" not in result.output
