"""How each published POPE evaluator reads an answer and what it counts: the same answers, scored by each one's rule.

Every protocol is two pure functions: `read` turns one answer into a reading, `count` turns the reading's label and the
question's official label into the answer's `Effect` on the counts. Summed effects and the formulas below give exactly
what the evaluator prints; `docs/protocols.md` describes each rule, its origin and its known faults.

    accuracy = correct / n               precision = tp / (tp + fp)       recall = tp / (tp + fn + missed)
    f1 = 2 tp / (2 tp + fp + fn + missed)                                 yes ratio = yes / n

An answer that is missing because the model failed (None) has no effect under any protocol: it is reported as missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from agevlm.errors import DataError
from benchmarks.pope.types import Question
from benchmarks.reading import NO_ANSWER, Label, Reading, read_yes_no


@dataclass(frozen=True)
class Effect:
    """What one answer adds to each count of a table."""

    n: int = 0
    """1 where the answer is in the denominator of accuracy and yes ratio."""
    correct: int = 0
    tp: int = 0
    fp: int = 0
    tn: int = 0
    fn: int = 0
    unparsed: int = 0
    """1 where the protocol cannot read a yes or no; it may still count it as one."""
    missed: int = 0
    """1 where a positive question is lost to an unreadable answer that is no "no" but counts against recall."""
    yes: int = 0
    """1 where the protocol counts the answer as a yes."""


Prompt = Literal["default", "official"]
"""default: the question and "Answer the question using a single word or phrase."; official: the question alone."""
Aggregate = Literal["per split", "mean of F1", "pooled"]


@dataclass(frozen=True)
class Protocol:
    """One evaluator's rule, where it comes from, and what its published numbers were made with."""

    name: str
    summary: str
    source: str
    """Public repository, commit and file of the rule."""
    prompt: Prompt | None
    """The prompt that its published numbers are made with; None where that is neither of ours or not stated."""
    aggregate: Aggregate
    """How its headline number combines the three splits."""
    data: str
    """The data version that its published numbers are on."""
    read: Callable[[str | None, bool], Reading]
    """The reading of an answer; the second argument is the official label (True: yes)."""
    count: Callable[[Label, bool], Effect]
    """The effect of a label on the counts, given the official label."""
    sees_label: bool = False
    """Whether `read` depends on the official label, which makes it no reading of the answer alone."""
    read_question: Callable[[Question, str], Reading] | None = None
    """In place of `read`, where the reading of an answer takes its question too (a judge's)."""


# --- counting ---------------------------------------------------------------------------------------------------------

NOTHING = Effect()


def _read_effect(yes: bool, gold: bool, unparsed: int = 0) -> Effect:
    """The effect of an answer that is counted as yes or no in every formula."""
    return Effect(
        n=1,
        correct=int(yes == gold),
        tp=int(yes and gold),
        fp=int(yes and not gold),
        tn=int(not yes and not gold),
        fn=int(not yes and gold),
        unparsed=unparsed,
        yes=int(yes),
    )


def _counting(unreadable: Callable[[bool], Effect]) -> Callable[[Label, bool], Effect]:
    """A `count` that takes readable answers at their word and leaves the unreadable ones to `unreadable`."""

    def count(label: Label, gold: bool) -> Effect:
        if label in (Label.ERROR, Label.UNDECIDED):
            return NOTHING
        if label in (Label.YES, Label.NO):
            return _read_effect(label is Label.YES, gold)
        return unreadable(gold)

    return count


def _missed(gold: bool) -> Effect:
    """Wrong; a lost positive where the label is yes, and neither a false positive nor a true negative otherwise."""
    return Effect(n=1, unparsed=1, missed=int(gold))


def _wrong_and_absent(_gold: bool) -> Effect:
    """Wrong for accuracy, and in neither precision nor recall."""
    return Effect(n=1, unparsed=1)


def _wrong_but_no(gold: bool) -> Effect:
    """Wrong for accuracy, and a "no" for precision, recall and F1."""
    return Effect(n=1, tn=int(not gold), fn=int(gold), unparsed=1)


def _wrong_class(gold: bool) -> Effect:
    """The opposite of the label everywhere except in the yes ratio: nobody said yes."""
    return Effect(n=1, fp=int(not gold), fn=int(gold), unparsed=1)


def _dropped(_gold: bool) -> Effect:
    """In no count and no denominator."""
    return Effect(unparsed=1)


def bounds_effects(label: Label, gold: bool) -> tuple[Effect, Effect]:
    """The effects of an answer in the lower and the upper bound of the default protocol's scores.

    An answer that was read counts the same in both; an unreadable one counts as wrong in the lower bound and as right
    in the upper one. Whatever the unreadable answers meant, accuracy, precision, recall and F1 lie between the scores
    of the two sums (the yes ratio need not). Unlike in the default protocol, an unreadable answer is then both in
    `unparsed` and in one of tp, fp, tn and fn.
    """
    if label is Label.ERROR:
        return NOTHING, NOTHING
    if label in (Label.YES, Label.NO):
        effect = _read_effect(label is Label.YES, gold)
        return effect, effect
    return _read_effect(not gold, gold, unparsed=1), _read_effect(gold, gold, unparsed=1)


def undecided_bounds(count: Callable[[Label, bool], Effect], label: Label, gold: bool) -> tuple[Effect, Effect]:
    """The effects of an answer if every undecided one were wrong, and if it were right."""
    if label is Label.UNDECIDED:
        return _read_effect(not gold, gold), _read_effect(gold, gold)
    return count(label, gold), count(label, gold)


# --- reading ----------------------------------------------------------------------------------------------------------


def _reading(rule: Callable[[str], Reading]) -> Callable[[str | None, bool], Reading]:
    """A `read` that looks at the answer alone."""

    def read(answer: str | None, _gold: bool) -> Reading:
        return NO_ANSWER if answer is None else rule(answer)

    return read


def _label(yes: bool) -> Label:
    return Label.YES if yes else Label.NO


_NOT_SPACE = re.compile("[^ ]+")


def _first_negative(text: str, dropped: str, negative: Callable[[str], bool]) -> tuple[int, int] | None:
    """The first negative among the words between space characters (no other white space), without dropped ones."""
    table = str.maketrans("", "", dropped)
    for match in _NOT_SPACE.finditer(text):
        if negative(match.group().translate(table)):
            return match.span()
    return None


def _no_word_or_yes(span: tuple[int, int] | None) -> Reading:
    return Reading(Label.YES, "otherwise-yes") if span is None else Reading(Label.NO, "negative-word", span)


def _read_official(answer: str) -> Reading:
    first_sentence = answer.split(".", 1)[0]
    return _no_word_or_yes(_first_negative(first_sentence, ",", lambda word: word in ("No", "no", "not")))


def _read_opera(answer: str) -> Reading:
    def negative(word: str) -> bool:
        return word in ("No", "not", "no", "NO") or word.endswith("n't")

    return _no_word_or_yes(_first_negative(answer, ".,", negative))


def _whole(answer: str, core: str, rule: str) -> Reading:
    """Yes or no where `core`, a stretch of the answer, is that word in any case."""
    word = core.lower()
    if word not in ("yes", "no"):
        return Reading(Label.UNPARSED, f"not-{rule}")
    start = answer.index(core)
    return Reading(_label(word == "yes"), rule, (start, start + len(core)))


def _read_lmms_eval(answer: str) -> Reading:
    return _whole(answer, answer.strip(), "exact")


def _read_strict(answer: str) -> Reading:
    return _whole(answer, answer.strip().removesuffix("."), "exact-or-full-stop")


def _read_cambrian(answer: str) -> Reading:
    words = answer.split(maxsplit=1)
    return _whole(answer, words[0].rstrip(".:,") if words else "", "first-word")


# only the ASCII letters lower to letters of these words, so this equals a substring test on the lower-cased answer
_YES_INSIDE = re.compile("[Yy][Ee][Ss]")
_NO_INSIDE = re.compile("[Nn][Oo]")


def _read_repope(answer: str) -> Reading:
    if yes := _YES_INSIDE.search(answer):
        return Reading(Label.YES, "yes-inside", yes.span())
    if no := _NO_INSIDE.search(answer):
        return Reading(Label.NO, "no-inside", no.span())
    return Reading(Label.UNPARSED, "neither-inside")


def _read_vcd(answer: str | None, gold: bool) -> Reading:
    """The label's own word anywhere in the answer makes it right; its absence makes it the opposite."""
    if answer is None:
        return NO_ANSWER
    match = (_YES_INSIDE if gold else _NO_INSIDE).search(answer)
    if match:
        return Reading(_label(gold), "label-inside", match.span())
    return Reading(_label(not gold), "label-absent")


_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_MOST_FULL_STOPS = 32
"""VLMEvalKit passes re.UNICODE (32) where the number of replacements belongs: later full stops stay."""


_FULL_STOP = re.compile(r"\.(?!\d)")


def _vlmevalkit_text(answer: str) -> str:
    """The lower-cased answer after the punctuation rule.

    A punctuation mark that touches a space somewhere in the answer is deleted everywhere, and so is every mark where
    a comma separates two digits; otherwise it becomes a space. A full stop is deleted unless a digit follows.
    """
    delete_all = _DIGIT_COMMA_DIGIT.search(answer) is not None
    table = {
        ord(mark): None if delete_all or f"{mark} " in answer or f" {mark}" in answer else " "
        for mark in _PUNCTUATION
        if mark in answer
    }
    return _FULL_STOP.sub("", answer.translate(table).lower(), count=_MOST_FULL_STOPS)


def _read_vlmevalkit(answer: str) -> Reading:
    found = {"yes", "no"}.intersection(_vlmevalkit_text(answer).split())
    if len(found) != 1:
        return Reading(Label.UNPARSED, "both-words" if found else "neither-word")
    return Reading(_label("yes" in found), "one-word")


# --- the protocols ----------------------------------------------------------------------------------------------------

_OFFICIAL_RULE = _reading(_read_official)
_CURRENT_DATA = "pope-coco@3df3ba1, 3 x 3,000 rows"

_ALL = (
    Protocol(
        name="default",
        summary="our reader; an unreadable answer is wrong, and a lost positive where the label is yes",
        source="this suite, benchmarks/reading.py",
        prompt="default",
        aggregate="per split",
        data=_CURRENT_DATA,
        read=_reading(read_yes_no),
        count=_counting(_missed),
    ),
    Protocol(
        name="official",
        summary="no if a word of the first sentence is exactly No, no or not; everything else is yes",
        source="RUCAIBox/POPE@3df3ba1b110ecce25696989577fad583b67d4239 evaluate.py",
        prompt="official",
        aggregate="per split",
        data=_CURRENT_DATA,
        read=_OFFICIAL_RULE,
        count=_counting(_missed),
    ),
    Protocol(
        name="llava",
        summary="the official rule on the older data, reported as the mean of the three F1s",
        source="haotian-liu/LLaVA@4241f08c6368f1c5bb28dc7c8be6cb19713e324a llava/eval/eval_pope.py",
        prompt="default",
        aggregate="mean of F1",
        data="pope-coco@e3e3926, random split with 2,910 rows",
        read=_OFFICIAL_RULE,
        count=_counting(_missed),
    ),
    Protocol(
        name="lmms-eval",
        summary="the whole answer must be yes or no; others are wrong for accuracy, absent from precision and recall",
        source="lmms-eval 0.7.3 (PyPI) lmms_eval/tasks/pope/utils.py",
        prompt="default",
        aggregate="pooled",
        data="lmms-lab-encoder/POPE test split, the three splits in one",
        read=_reading(_read_lmms_eval),
        count=_counting(_wrong_and_absent),
    ),
    Protocol(
        name="vlmevalkit",
        summary="yes xor no among the words; others are wrong for accuracy and a no for precision, recall and F1",
        source=(
            "open-compass/VLMEvalKit@0c7163c9c71cff1758ff1c101385e8ce80d8713a vlmeval/dataset/utils/yorn.py, "
            "@06d45c58a8e5662587da75a7dc35b8eb4c58b035 vlmeval/smp/misc.py, "
            "@145bdaf15ea0e0f2e19adbf5879b15f9c8f9be85 vlmeval/dataset/image_yorn.py"
        ),
        prompt=None,
        aggregate="pooled",
        data="its own POPE.tsv: identical questions merged, then expanded to one row per split",
        read=_reading(_read_vlmevalkit),
        count=_counting(_wrong_but_no),
    ),
    Protocol(
        name="vcd",
        summary="right if the label's own word is anywhere in the answer: the reading depends on the label",
        source="DAMO-NLP-SG/VCD@d6568ff81b8fd306a49e630df44f2db5c2300191 experiments/eval/eval_pope.py",
        prompt=None,
        aggregate="per split",
        data="the copy in its repository, 3 x 3,000 rows",
        read=_read_vcd,
        count=_counting(_missed),
        sees_label=True,
    ),
    Protocol(
        name="repope",
        summary="yes if yes is anywhere in the answer, else no if no is; others are dropped from every count",
        source="YanNeu/RePOPE@bcf22e5690d587cce34e1728af3efdcfaf747d29 src/eval_utils.py",
        prompt="official",
        aggregate="per split",
        data="RePOPE labels on pope-coco@3df3ba1: 2,774 / 2,727 / 2,684 rows",
        read=_reading(_read_repope),
        count=_counting(_dropped),
    ),
    Protocol(
        name="opera",
        summary="no if any word is No, no, NO or not or ends in n't; everything else is yes",
        source="shikiw/OPERA@2a0a23444573a5d0fbbfffdd830b50dcac810c89 pope_eval.py",
        prompt="official",
        aggregate="per split",
        data="three COCO files that its repository does not contain",
        read=_reading(_read_opera),
        count=_counting(_missed),
    ),
    Protocol(
        name="cambrian",
        summary="the first word, without trailing . : , must be yes or no; it reports accuracy alone",
        source="cambrian-mllm/cambrian@a220b3f549fb2948cd331227f0269313b5773ddb eval/eval/pope/pope_test.py",
        prompt="default",
        aggregate="pooled",
        data="lmms-lab/POPE test split, the three splits in one",
        read=_reading(_read_cambrian),
        count=_counting(_missed),
    ),
    Protocol(
        name="strict",
        summary="the whole answer but for one final full stop must be yes or no; others count as the wrong class",
        source="this suite, benchmarks/pope/protocols.py",
        prompt="default",
        aggregate="per split",
        data=_CURRENT_DATA,
        read=_reading(_read_strict),
        count=_counting(_wrong_class),
    ),
)

PROTOCOLS: dict[str, Protocol] = {entry.name: entry for entry in _ALL}
"""Every protocol by name, `default` first, in the order tables print them."""


def protocol(name: str) -> Protocol:
    """The protocol of that name; a DataError lists the names where there is none."""
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise DataError(f"there is no POPE protocol {name!r}; choose one of {', '.join(PROTOCOLS)}") from None


def chosen_protocols(names: Sequence[str]) -> tuple[Protocol, ...]:
    """The protocols of these names in their order, each once; all where none (or "all") is named. Raises DataError."""
    chosen = tuple(protocol(name) for name in dict.fromkeys(names) if name != "all")
    return chosen or tuple(PROTOCOLS.values())
