r"""Read a free answer to a multiple-choice question by rules, or say why it names no option.

The reader knows the answer and the options' texts, never the right answer and never the question. Its rules, in order:

1. no words: `empty`. A thought that never ends: `unfinished-thought`; what is inside `<think>` counts for nothing.
2. an explicit statement ("the answer is (B)", "Answer: the sofa", `\boxed{B}`, "option B is correct", "therefore, there
   are 3"): the last one that names an option wins over everything before it (`explicit-letter`, `explicit-text`),
   unless a correction after it names another ("Wait, (C)"): `self-corrected`. Where a statement before it calls itself
   final and names another, they contradict each other: `contradicts-final`.
3. letters in any common wrapping. One alone (`letter-alone`), one that the answer begins with as a statement of its own
   (`leading-letter`), one alone on the last line (`final-letter`), or the only one that is named anywhere (`letter`).
   More than one: `two-letters`. "A" before a word is an article, "I" a pronoun. Where an option's text directly
   follows the letter and is another option's, they contradict each other: `letter-text-conflict`.
4. the answer declines: `refusal`.
5. the one option whose text stands in the answer as whole words (`text`), the longest text first, so that "coffee
   table" names no "table". "Not", "neither", "is wrong" deny an option, as do "closer than" it and "it is farther"
   (every comparison of CV-Bench asks what is closer). Numbers are whole numbers in digits or words (`number`); any
   other number in the answer makes it `two-options`, and one that is not among the options `number-not-offered`.
   Several of them may be settled: numbers by one that is announced as the sum of the others ("three: one red and two
   blue", `total`), options by a reason after the first ("the sofa, because ...", `leading-text`) or by the last line
   (`final-text`). "None" and "there are no ..." are 0 (`zero-words`), but `zero-and-number` before another number.
6. anything else: `none-of-the-options`, `negated` (options are named only to deny them: "not (A)"), or `no-rule`.

Known limits: it reads English (and the Chinese words for "the answer is"), draws no conclusion from a sentence that
names two options ("the bin and the table" is `two-options`), and from a denial none about the rest. It reads what an
answer names, not who says it: a letter that is quoted or commanded ("ignore all instructions and answer A") counts.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.cvbench.mentions import Mention, affirmed, clean, letter_mentions, option_texts, zero_words
from benchmarks.cvbench.types import LETTERS, NOT_OFFERED, Reading, letter_reading
from benchmarks.reading import Label, read_yes_no

_THOUGHT_START, _THOUGHT_END = "<think>", "</think>"


def read_rules(answer: str, options: Sequence[str]) -> Reading:
    """The reading of one answer by the rules above."""
    _, thought_ended, said = answer.rpartition(_THOUGHT_END)
    if not thought_ended and _THOUGHT_START in answer:
        return Reading(None, "unfinished-thought")
    text = clean(said)
    if not any(char.isalnum() for char in text):
        return Reading(None, "empty")
    part = _part(text, tuple(options))
    return (
        _alone(part, "letter-alone")
        or _explicit(part)
        or _by_letter(part)
        or _refused(said)
        or _by_text(part)
        or _unread(part)
    )


@dataclass(frozen=True)
class _Part:
    """A stretch of a cleaned answer with what it names."""

    text: str
    options: tuple[str, ...]
    letters: tuple[Mention, ...]
    """Letters, each with its own option's text where that stands beside it, and without those that are denied."""
    texts: tuple[Mention, ...]
    """Texts and numbers that are not denied."""
    denies: bool
    """Whether some option is named only to deny it."""


_BESIDE = re.compile(r"[\s).:\]=,(-]*(?:(?:the|a|an) )?", re.IGNORECASE)
_CLAUSE_END = re.compile(r" ?(?:[.,;:!?)(\n]|\Z)| (?:because|since|as|which|that|so)\b")


def _part(text: str, options: tuple[str, ...]) -> _Part:
    texts = option_texts(options).mentions(text)
    letters: list[Mention] = []
    for letter in letter_mentions(text, len(options)):
        letters.append(_with_text(letter, letters[-1].end if letters else 0, texts, text))
    kept_letters, kept_texts = affirmed(letters, text), affirmed(texts, text)
    denies = len(kept_letters) < len(letters) or len(kept_texts) < len(texts)
    return _Part(text, options, tuple(kept_letters), tuple(kept_texts), denies)


def _with_text(letter: Mention, start: int, texts: Sequence[Mention], text: str) -> Mention:
    """A letter's mention over its option's text beside it; without option where the text is another option's.

    Texts before `start` belong to the letter before: "(A) 2 (B) 3" is no 2 beside (B).
    """
    after = next((m for m in texts if m.start >= letter.end), None)
    if after is not None and _BESIDE.fullmatch(text, letter.end, after.start):
        if after.option == letter.option:
            return replace(letter, end=after.end)
        if _CLAUSE_END.match(text, after.end):
            return replace(letter, end=after.end, option=None)
    before = next((m for m in reversed(texts) if start <= m.start and m.end <= letter.start), None)
    if before is not None and before.option != letter.option and text[letter.start] in "([":
        return letter if text[before.end : letter.start].strip() else replace(letter, option=None)
    return letter


# --- letters ----------------------------------------------------------------------------------------------------------

_ALONE = re.compile(r"[\W_]*(?:(?:option|choice|letter)[\W_]*)?([A-Za-z])[\W_]*", re.IGNORECASE)
_ALTERNATIVE = re.compile(r"[\W_]*(?:(?:or|and|nor|vs|versus)[\W_]+)*", re.IGNORECASE)
_HEAD = re.compile(
    r"[\W_]*(?:(?:the|either|both|probably|most|likely|definitely|clearly|therefore|thus|indeed|it|is|it's|that)[\W_]+)*",
    re.IGNORECASE,
)
_LINE_OR_SENTENCE = re.compile(r"(?:\A|\n|[.!?] )[(\[]?\Z")


def _alone(part: _Part, rule: str) -> Reading | None:
    """A letter in any wrapping and nothing else."""
    match = _ALONE.fullmatch(part.text)
    return None if match is None else letter_reading(match[1].upper(), len(part.options), rule)


def _one_letter(part: _Part, rule: str) -> Reading | None:
    """The only letter that is named, if any is; None where there are several."""
    named = {letter.option for letter in part.letters}
    if None in named:
        return Reading(None, "letter-text-conflict")
    return Reading(named.pop(), rule) if len(named) == 1 else None


def _at_head(part: _Part, mentions: Sequence[Mention]) -> Mention | None:
    """The mention that the part begins with, unless the next one is only an alternative to it."""
    first = mentions[0]
    if not _HEAD.fullmatch(part.text, 0, first.start):
        return None
    other = next((m for m in mentions[1:] if m.option != first.option), None)
    if other is None or not _ALTERNATIVE.fullmatch(part.text, first.end, other.start):
        return first
    # "3 (2 red, 1 blue)" explains the first number
    return first if first.number and "(" in part.text[first.end : other.start] else None


def _by_letter(part: _Part) -> Reading | None:
    if not part.letters:
        return None
    head = _at_head(part, part.letters)
    one = _one_letter(part, "letter" if head is None else "leading-letter")
    if one is not None:
        return one
    if head is not None and _CLAUSE_END.match(part.text, head.end):
        if head.option is not None and _corrected(part, head.end, head.option):
            return Reading(None, "self-corrected")
        others = [m for m in part.letters if m.option != head.option]
        if not any(_LINE_OR_SENTENCE.search(part.text[max(0, m.start - 3) : m.start]) for m in others):
            return Reading(head.option, "leading-letter")
    return _last_line(part, "final-letter", letters=True) or Reading(None, "two-letters")


def _last_line(part: _Part, rule: str, letters: bool) -> Reading | None:
    """What the last line names and nothing else, if no other line is like it and names something else."""
    *lines, last = part.text.split("\n")
    reading = _line(last, part.options, rule, letters)
    if not lines or reading is None or reading.option is None:
        return None
    others = (_line(line, part.options, rule, letters) for line in lines)
    return None if any(other is not None and other != reading for other in others) else reading


def _line(line: str, options: tuple[str, ...], rule: str, letters: bool) -> Reading | None:
    part = _part(line, options)
    if letters:
        return _alone(part, rule)
    whole = len(part.texts) == 1 and not re.search(r"[^\W_]", line[: part.texts[0].start] + line[part.texts[0].end :])
    return Reading(part.texts[0].option, rule) if whole else None


# --- explicit statements ----------------------------------------------------------------------------------------------

_NOUN = r"(?:answer|response|choice|option|selection|conclusion|result|total)"
_GOOD = r"(?:correct|right|best|final|most (?:likely|accurate|appropriate|probable)|accurate|appropriate|closest)"
_BE = r"(?:is|are|was|would be|should be|must be|will be|seems to be|appears to be)"
_BEFORE = re.compile(
    rf"\b{_NOUN}(?: to (?:the|this|your) question| here)? ?(?:{_BE}\b|[:=])[ :=,\n]*"
    rf"|\b{_GOOD} (?:answer|choice|option)\b(?! (?:is|are|was|would|should|must|will|seems|appears|to|here)\b)[ :=]*"
    r"|\bi(?:'d|'ll| would| will)? (?:choose|chose|pick|select|go with)\b"
    r"|\b(?:therefore|thus|hence|in conclusion|total of)\b,?"
    r"|\bso,? (?=(?:it|that|there|the)(?:'s| is| are)\b)|(?:\A|(?<=[.!?] )|(?<=\n))so,? (?=the\b)"
    # Chinese: the answer is; choose
    r"|\u7b54\u6848(?:\u5e94\u8be5|\u5e94)?[\u662f\u4e3a]?[: ]*|\u9009\u62e9?[: ]*",
    re.IGNORECASE,
)
_AFTER = re.compile(
    rf"\b{_BE} (?:therefore |thus |clearly |definitely |probably |likely )?"
    rf"(?:the {_GOOD} (?:answer|choice|option|one)\b|the answer\b|correct\b|right(?=[.,!;]|\Z)|my (?:answer|choice)\b)",
    re.IGNORECASE,
)
# the full stop of "B. sofa" ends no sentence
_STOP = re.compile(r"[.!?](?=\s|\Z)(?<!\b[A-Za-z]\.)|\n")
_CORRECTION = re.compile(
    r"\b(?:wait|correction|i mean|no,|let me re|on second thought|actually,? (?:it|that|the answer|no)\b)",
    re.IGNORECASE,
)
_STATEMENT_LIMIT = 400
"""How far a statement is followed, in characters: keeps the reader linear on text that never ends a sentence."""
_MOST_STATEMENTS = 50
"""How many of the last statements are looked at: a model that repeats itself says nothing new."""


def _explicit(part: _Part) -> Reading | None:
    """The last explicit statement that says something about the options."""
    found: Reading | None = None
    for start, stop, final in reversed(_statements(part.text)[-_MOST_STATEMENTS:]):
        if found is not None and not final:
            continue
        statement = _part(part.text[start:stop], part.options)
        reading = _said(statement)
        if reading is None:
            continue
        if found is not None:
            differs = reading.option is not None and reading.option != found.option
            return Reading(None, "contradicts-final") if differs else found
        named = [m.end for m in (*statement.letters, *statement.texts)]
        if named and reading.option is not None and _corrected(part, start + min(named), reading.option):
            return Reading(None, "self-corrected")
        if final or reading.option is None:
            return reading
        found = reading
    return found


def _statements(text: str) -> list[tuple[int, int, bool]]:
    """Where explicit statements say what the answer is, and whether they call it final, in the order of their ends."""
    stops = [match.span() for match in _STOP.finditer(text)]
    begins, ends = [0, *(end for _, end in stops)], [*(start for start, _ in stops), len(text)]
    found = []
    for match in _BEFORE.finditer(text):
        stop = ends[bisect_left(ends, match.end())]
        final = "final" in text[max(0, match.start() - 6) : match.end()].lower()
        found.append((match.end(), min(stop, match.end() + _STATEMENT_LIMIT), final))
    for match in _AFTER.finditer(text):
        begin = begins[bisect_right(begins, match.start()) - 1]
        final = "final" in match.group().lower()
        found.append((max(begin, match.start() - _STATEMENT_LIMIT), match.start(), final))
    return sorted(found, key=lambda span: (span[1], span[0]))


def _said(part: _Part) -> Reading | None:
    """What an explicit statement names; None where it says nothing about the options."""
    if (alone := _alone(part, "explicit-letter")) is not None:
        return alone
    for mentions, rule, several in (
        (part.letters, "explicit-letter", "two-letters"),
        (part.texts, "explicit-text", "two-options"),
    ):
        if not mentions:
            continue
        if mentions is part.letters and (one := _one_letter(part, rule)) is not None:
            return one
        if len({m.option for m in mentions}) == 1:
            return _named(mentions[0], rule)
        head = _at_head(part, mentions)
        if head is not None and (mentions is part.letters or _CLAUSE_END.match(part.text, head.end)):
            return _named(head, rule)
        return Reading(None, several)
    return None


def _named(mention: Mention, rule: str) -> Reading:
    return Reading(None, "number-not-offered") if mention.option is None else Reading(mention.option, rule)


def _corrected(part: _Part, position: int, option: int) -> bool:
    """Whether words of correction after `position` are followed by another option."""
    correction = _CORRECTION.search(part.text, position)
    return correction is not None and any(
        m.start >= correction.end() and m.option != option for m in (*part.letters, *part.texts)
    )


# --- texts and the rest -----------------------------------------------------------------------------------------------

_REASON = re.compile(r",? (?:because|since|as)\b")
_TOTAL_FIRST = re.compile(r"[:(]|\bincluding\b", re.IGNORECASE)
_TOTAL_LAST = re.compile(r"=|\b(?:so|total|gives|giving|makes|making|equals|altogether)\b", re.IGNORECASE)
_NONE_OF = re.compile(
    r"\bneither\b|\bnone of\b|\bnot any of\b|\bno (?:correct|right) (?:answer|option|choice)\b", re.IGNORECASE
)
_FOREIGN = re.compile(r"[(\[]([A-Z])[)\]]|\A([A-Z])[.):]")


def _refused(said: str) -> Reading | None:
    return Reading(None, "refusal") if read_yes_no(said).label is Label.REFUSED else None


def _by_text(part: _Part) -> Reading | None:
    """The one option named by its text or number."""
    named = {m.option for m in part.texts}
    zero = option_texts(part.options).zero
    says_zero = None if zero is None else zero_words(part.text)
    if says_zero and not named:
        return Reading(zero, "zero-words")
    if says_zero and zero not in named and says_zero.start() < part.texts[0].start:
        return Reading(None, "zero-and-number")
    if len(named) == 1:
        return _named(part.texts[0], "number" if part.texts[0].number else "text")
    return _settled(part) if named else None


def _settled(part: _Part) -> Reading:
    """What is said of several options that are named by their texts."""
    if (total := _total(part)) is not None:
        return _named(total, "total")
    head = _at_head(part, part.texts)
    if head is not None and _REASON.match(part.text, head.end):
        return _named(head, "leading-text")
    return _last_line(part, "final-text", letters=False) or Reading(None, "two-options")


def _total(part: _Part) -> Mention | None:
    """The number that is announced as the sum of at least two others: "three: one red and two blue", "2 + 1 = 3"."""
    values = [mention.value for mention in part.texts if mention.value is not None]
    if len(values) < max(3, len(part.texts)):
        return None
    first, second, *_ = part.texts
    *_, before, last = part.texts
    if 2 * values[0] == sum(values) and _TOTAL_FIRST.search(part.text, first.end, second.start):
        return first
    if 2 * values[-1] == sum(values) and _TOTAL_LAST.search(part.text, before.end, last.start):
        return last
    return None


def _unread(part: _Part) -> Reading:
    """Why nothing could be read."""
    if _NONE_OF.search(part.text):
        return Reading(None, "none-of-the-options")
    if part.denies:
        return Reading(None, "negated")
    for match in _FOREIGN.finditer(part.text):
        if LETTERS.index(match[1] or match[2]) >= len(part.options):
            return Reading(None, NOT_OFFERED)
    return Reading(None, "no-rule")
