"""The published POPE evaluators in longhand: a whole list of (answer, label is yes) in, the printed scores out.

Each function restates one evaluator as it works on a whole file, with its own loops and its own string handling, and
shares nothing with the code under test. Scores are exact fractions; None where the evaluator would divide by zero,
and the key is absent where it prints no such score.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

Rows = list[tuple[str, bool]]
Scores = dict[str, Fraction | None]


def ratio(above: int, below: int) -> Fraction | None:
    return Fraction(above, below) if below else None


def harmonic(precision: Fraction | None, recall: Fraction | None) -> Fraction | None:
    if precision is None or recall is None or precision + recall == 0:
        return None
    return 2 * precision * recall / (precision + recall)


def from_predictions(predictions: list[int], labels: list[int]) -> Scores:
    pairs = list(zip(predictions, labels, strict=True))
    tp, fp = pairs.count((1, 1)), pairs.count((1, 0))
    tn, fn = pairs.count((0, 0)), pairs.count((0, 1))
    precision, recall = ratio(tp, tp + fp), ratio(tp, tp + fn)
    return {
        "accuracy": ratio(tp + tn, tp + tn + fp + fn),
        "precision": precision,
        "recall": recall,
        "f1": harmonic(precision, recall),
        "yes_ratio": ratio(predictions.count(1), len(predictions)),
    }


def official(rows: Rows) -> Scores:
    predictions = []
    for answer, _ in rows:
        if "." in answer:
            answer = answer[: answer.index(".")]
        tokens = "".join(c for c in answer if c != ",").split(" ")
        predictions.append(0 if "No" in tokens or "no" in tokens or "not" in tokens else 1)
    return from_predictions(predictions, [int(label) for _, label in rows])


def opera(rows: Rows) -> Scores:
    predictions = []
    for answer, _ in rows:
        tokens = "".join(c for c in answer if c not in ".,").split(" ")
        negative = [t for t in tokens if t in {"No", "no", "NO", "not"} or t[-3:] == "n't"]
        predictions.append(0 if negative else 1)
    return from_predictions(predictions, [int(label) for _, label in rows])


def lmms_eval(rows: Rows) -> Scores:
    cleaned = [(answer.lower().strip(), "yes" if label else "no") for answer, label in rows]
    tp = sum(given == wanted == "yes" for given, wanted in cleaned)
    fp = cleaned.count(("yes", "no"))
    fn = cleaned.count(("no", "yes"))
    precision, recall = ratio(tp, tp + fp), ratio(tp, tp + fn)
    return {
        "accuracy": ratio(sum(given == wanted for given, wanted in cleaned), len(cleaned)),
        "precision": precision,
        "recall": recall,
        "f1": harmonic(precision, recall),
    }


def vlmevalkit(rows: Rows) -> Scores:
    extracted = []
    for answer, _ in rows:
        lowered = answer.lower()
        cleaned = lowered
        squeeze = re.search(r"\d,\d", lowered) is not None
        for mark in (
            ";",
            "/",
            "[",
            "]",
            '"',
            "{",
            "}",
            "(",
            ")",
            "=",
            "+",
            "\\",
            "_",
            "-",
            ">",
            "<",
            "@",
            "`",
            ",",
            "?",
        ):
            touches = mark + " " in lowered or " " + mark in lowered
            cleaned = cleaned.replace(mark, "" if squeeze or touches else " ")
        cleaned = cleaned.replace("!", "" if squeeze or "! " in lowered or " !" in lowered else " ")
        words = re.sub(r"\.(?!\d)", "", cleaned, count=32).split()
        extracted.append({(True, False): "Yes", (False, True): "No"}.get(("yes" in words, "no" in words), "Unknown"))
    wanted = ["Yes" if label else "No" for _, label in rows]
    said = [int(e == "Yes") for e in extracted]
    scores = from_predictions(said, [int(label) for _, label in rows])
    scores["accuracy"] = ratio(sum(e == w for e, w in zip(extracted, wanted, strict=True)), len(rows))
    return scores


def vcd(rows: Rows) -> Scores:
    true_pos = true_neg = false_pos = false_neg = yes_answers = 0
    for answer, label in rows:
        answer = answer.lower().strip()
        if label and "yes" in answer:
            true_pos += 1
            yes_answers += 1
        elif label:
            false_neg += 1
        elif "no" in answer:
            true_neg += 1
        else:
            false_pos += 1
            yes_answers += 1
    precision, recall = ratio(true_pos, true_pos + false_pos), ratio(true_pos, true_pos + false_neg)
    return {
        "accuracy": ratio(true_pos + true_neg, len(rows)),
        "precision": precision,
        "recall": recall,
        "f1": harmonic(precision, recall),
        "yes_ratio": ratio(yes_answers, len(rows)),
    }


def repope(rows: Rows) -> Scores:
    predictions, labels = [], []
    for answer, label in rows:
        lowered = answer.lower()
        if "yes" in lowered or "no" in lowered or "not" in lowered:
            predictions.append(1 if "yes" in lowered else 0)
            labels.append(int(label))
    return from_predictions(predictions, labels)


def cambrian(rows: Rows) -> Scores:
    """Accuracy alone. An answer without a word crashes the published script; here it is wrong."""
    correct = 0
    for answer, label in rows:
        tokens = answer.lower().split()
        if tokens and tokens[0].rstrip(".:,") == ("yes" if label else "no"):
            correct += 1
    return {"accuracy": ratio(correct, len(rows))}


def strict(rows: Rows) -> Scores:
    """This suite's own: unlike an evaluator that flips, it says yes only where the answer does."""
    tp = fp = tn = fn = said_yes = 0
    for answer, label in rows:
        core = answer.strip()
        core = core[:-1] if core[-1:] == "." else core
        said_yes += core.lower() == "yes"
        if label:
            tp += core.lower() == "yes"
            fn += core.lower() != "yes"
        else:
            tn += core.lower() == "no"
            fp += core.lower() != "no"
    precision, recall = ratio(tp, tp + fp), ratio(tp, tp + fn)
    return {
        "accuracy": ratio(tp + tn, len(rows)),
        "precision": precision,
        "recall": recall,
        "f1": harmonic(precision, recall),
        "yes_ratio": ratio(said_yes, len(rows)),
    }


EVALUATORS: dict[str, Callable[[Rows], Scores]] = {
    "official": official,
    "llava": official,
    "lmms-eval": lmms_eval,
    "vlmevalkit": vlmevalkit,
    "vcd": vcd,
    "repope": repope,
    "opera": opera,
    "cambrian": cambrian,
    "strict": strict,
}
