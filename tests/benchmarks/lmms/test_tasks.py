"""What our task files call, against our own scoring; and that the files name what is there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.cvbench.score import official_mean
from benchmarks.lmms import cvbench_task, pope_task
from benchmarks.lmms.command import TASK_FILES
from benchmarks.pope.protocols import PROTOCOLS
from benchmarks.pope.rows import IMAGE, Answer, Answered
from benchmarks.pope.score import score
from benchmarks.pope.types import Question, QuestionSet
from benchmarks.prompts import DEFAULT, OFFICIAL

ANSWERS = ["Yes", "no", "No.", "Yes, there is", "I cannot tell", "", "There isn't a dog", "not sure"]
rows_of_answers = st.lists(
    st.tuples(st.sampled_from(ANSWERS), st.booleans(), st.integers(0, 3)), min_size=1, max_size=25
)


@settings(deadline=None)
@given(rows_of_answers)
def test_popes_metrics_are_those_of_our_own_table(rows):
    questions, answers, entries = [], {}, []
    for n, (text, gold, image) in enumerate(rows):
        questions.append(Question("random", str(n), f"{image}.jpg", "Is there a dog?", gold, "dog", f"{image}.jpg", ""))
        answers["random", str(n)] = Answer(text)
        doc = {"question_id": str(n), "answer": "yes" if gold else "no", "image_source": str(image)}
        entries.append(pope_task.process_results(doc, [text]))
    answered = Answered(QuestionSet("coco", "custom", "", tuple(questions)), {IMAGE: answers}, "default")
    table = score([answered], [PROTOCOLS["default"], PROTOCOLS["official"]], draws=100).rows
    found = {r.protocol: r for r in table if r.condition == IMAGE and r.split == "random"}
    for name in pope_task.SCORES:
        said = getattr(pope_task, name)([e[f"agevlm_pope_{name}"] for e in entries])
        assert said == pytest.approx(found["default"].scores[name].value, nan_ok=True)
    for name in ("accuracy", "f1"):
        said = getattr(pope_task, name)([e[f"agevlm_pope_{name}_official"] for e in entries])
        assert said == pytest.approx(found["official"].scores[name].value, nan_ok=True)
    unread = pope_task.unparsed([e["agevlm_pope_unparsed"] for e in entries])
    assert unread == pytest.approx(found["default"].counts["unparsed"] / len(rows))


def test_the_yes_ratio_is_of_the_answers_and_not_of_the_labels():
    docs = [{"question_id": n, "answer": "yes" if n % 2 else "no", "image_source": "x"} for n in range(6)]
    for text, ratio in (("Yes.", 1.0), ("No.", 0.0)):
        entries = [pope_task.process_results(doc, [text])["agevlm_pope_yes_ratio"] for doc in docs]
        assert pope_task.yes_ratio(entries) == ratio


def test_only_means_carry_a_score_for_lmms_evals_standard_errors():
    entries = pope_task.process_results({"question_id": 1, "answer": "yes", "image_source": "im"}, ["Yes"])
    scored = {name.removeprefix("agevlm_pope_") for name, entry in entries.items() if "score" in entry}
    assert scored == {"accuracy", "yes_ratio", "unparsed", "accuracy_official"}
    assert {entry[pope_task.IMAGE] for entry in entries.values()} == {"im"}


def test_popes_prompt_is_that_of_our_own_command():
    suffixed = {"question": "Is there a dog?\nAnswer the question using a single word or phrase."}
    assert pope_task.doc_to_text(suffixed) == DEFAULT.of("Is there a dog?")
    assert pope_task.doc_to_text(suffixed, {"prompt": "official"}) == OFFICIAL.of("Is there a dog?")


def test_a_label_that_is_neither_yes_nor_no_is_refused():
    with pytest.raises(ValueError, match="question 7 must be yes or no, not 'maybe'"):
        pope_task.process_results({"question_id": 7, "answer": "maybe"}, ["Yes"])


rows_of_sources = st.lists(st.tuples(st.sampled_from(["ADE20K", "COCO", "Omni3D"]), st.booleans()), max_size=20)


@settings(deadline=None)
@given(rows_of_sources)
def test_the_mean_of_both_cvbench_tasks_is_the_official_number(extra):
    rows = [("ADE20K", True), ("COCO", False), ("Omni3D", True), *extra]
    entries = [
        cvbench_task.process_results(
            {"answer": "(B)", "choices": ["a chair", "a table"], "source": source, "idx": n},
            ["(B)" if right else "(A)"],
        )["agevlm_cvbench_accuracy"]
        for n, (source, right) in enumerate(rows)
    ]
    flat = cvbench_task.mean_of_sources([e for e in entries if e["source"] != "Omni3D"])
    deep = cvbench_task.mean_of_sources([e for e in entries if e["source"] == "Omni3D"])
    assert (flat + deep) / 2 == pytest.approx(official_mean(rows))


def test_an_answer_that_names_no_option_is_wrong_and_counted():
    doc = {"answer": "(A)", "choices": ["2", "0"], "source": "COCO", "source_filename": "1.jpg"}
    entries = cvbench_task.process_results(doc, ["I cannot say."])
    assert [entries[k]["score"] for k in sorted(entries)] == [0, 0, 0, 1]
    assert entries["agevlm_cvbench_unparsed"][cvbench_task.IMAGE] == "COCO/1.jpg"


@pytest.mark.parametrize("answer", ["(C)", "", "A table", "()"])
def test_a_right_answer_that_is_no_option_is_refused(answer):
    with pytest.raises(ValueError, match="none of 2 options"):
        cvbench_task.right_option({"answer": answer, "choices": ["a", "b"], "idx": 3})


def loaded(path: Path) -> dict:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    return yaml.load(path.read_text(), Loader)


def test_every_function_and_member_that_the_files_name_is_there():
    files = {p.stem: loaded(p) for p in sorted(TASK_FILES.glob("*.yaml"))}
    assert set(files) == {
        "agevlm_pope", "agevlm_pope_random", "agevlm_pope_popular", "agevlm_pope_adversarial",
        "agevlm_cvbench", "agevlm_cvbench_2d", "agevlm_cvbench_3d",
    }  # fmt: skip
    for stem, content in files.items():
        assert content.get("group", content["task"]) == stem
        if "group" in content:
            assert set(content["task"]) <= set(files)
            continue
        common = loaded(TASK_FILES / content["include"])
        named = [v for v in common.values() if isinstance(v, str) and v.startswith("benchmarks.")]
        named += [m["aggregation"] for m in common["metric_list"]]
        for name in named:
            module, _, function = name.rpartition(".")
            assert callable(getattr(importlib.import_module(module), function))
        metrics = {m["metric"] for m in common["metric_list"]}
        task, doc = (
            (pope_task, {"answer": "yes", "question_id": 1})
            if "pope" in stem
            else (cvbench_task, {"answer": "(A)", "choices": ["a", "b"], "source": "COCO"})
        )
        assert metrics == set(task.process_results(doc, ["yes"]))
