"""Whether all sides give the same answers, token for token."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.speed.measuring import Measured
from benchmarks.speed.questions import picture, question_rows
from benchmarks.speed.sides import PLAIN, SIDES, decode_jpeg

if TYPE_CHECKING:
    from agevlm.vlm.hf.session import HfVlm


@dataclass(frozen=True)
class Comparison:
    """Whether the sides said the same, token for token."""

    questions: int
    distinct_questions: int
    yes: int
    """Plain answers that begin with yes: with all answers alike, being equal would mean nothing."""
    no: int
    empty: int
    """Plain answers without text; their time would be that of a model that does not answer."""
    differing: dict[str, int]
    """Per side, answers whose tokens differ from the plain ones."""
    flips: list[dict[str, Any]]
    """Each distinct differing question with both answers and the margin between plain's two largest logits there."""

    def problems(self, exact: bool) -> list[str]:
        """What makes the run a failure; differing answers do so only where arithmetic is `exact` enough."""
        found = [f"{n} answers of {s!r} differ from plain generate's" for s, n in self.differing.items() if n and exact]
        if self.empty:
            found.append(f"{self.empty} answers of plain generate are empty")
        return found


def compare(vlm: HfVlm, results: dict[str, Measured], limit: int) -> Comparison:
    """Compare every side's answers with the plain ones; margins come from `reference.find_flips`, outside any timer."""
    from agevlm.vlm.contract import Ask, Reply
    from agevlm.vlm.hf.reference import find_flips
    from benchmarks.prompts import load_prompt

    prompt = load_prompt("default")
    reference = results[PLAIN].answers
    texts = [said.text.strip().lower() for answers in reference for said in answers]
    differing = dict.fromkeys((n for n in SIDES if n != PLAIN), 0)
    flips = []
    for index, plain_answers in enumerate(reference):
        image, questions = decode_jpeg(picture(index)), question_rows(index)
        for side in differing:
            found = {}
            for question, ours, theirs in zip(questions, results[side].answers[index], plain_answers, strict=True):
                if ours.ids != theirs.ids:
                    differing[side] += 1
                    found[question] = ours
            for question, ours in found.items():
                reply = Reply(ours.text, "eos", token_ids=ours.ids)
                for flip in find_flips(vlm, image, [Ask(prompt.of(question), 0, limit)], [reply]):
                    flips.append({"side": side, "image": index, "question": question, **_without_prompt(asdict(flip))})
    return Comparison(
        questions=len(texts),
        distinct_questions=sum(len(set(question_rows(i))) for i in range(len(reference))),
        yes=sum(t.startswith("yes") for t in texts),
        no=sum(t.startswith("no") for t in texts),
        empty=sum(not t for t in texts),
        differing=differing,
        flips=flips,
    )


def _without_prompt(flip: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in flip.items() if k != "prompt"}
