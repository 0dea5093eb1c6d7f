r"""Read a free answer to a yes/no question about an object, and say which characters decided.

The reader knows the answer alone, never the label and never the object that was asked about. Its rules, in order:

1. no answer at all (None): `error`. Nothing but white space, punctuation, symbols or special tokens: `empty`.
2. an explicit final answer ("Answer: no", "the answer is yes", `\boxed{no}`, `<answer>no</answer>`, JSON
   `{"answer": "no"}`): the last one wins over everything before it.
3. a leading answer word, in any case and wrapping. What follows cannot flip it, except the opposite word as an
   alternative ("yes or no", "Yes. No.") or a short self-correction at the very end ("No... wait, yes."): unparsed.
   Taken as yes: yes, yeah, yep, yup; and, only where a clause ends after them, affirmative, correct, true, indeed,
   definitely, absolutely, certainly, of course, y. Taken as no: no, nope, nah; and likewise none, negative,
   incorrect, false, n, "certainly not", "not really", "not that I can see".
4. sentences: an answer word that ends a clause ("I would say no."), an existence that is affirmed ("There is a dog") or
   denied ("I don't see a dog"), a refusal, or a hedge. A refusal or hedge decides where it comes first; otherwise the
   claims do, and claims that contradict each other leave the answer unparsed.
5. anything else: unparsed.

Known limits: the reader trusts a leading word over a contradicting sentence ("Yes, there is no dog" is yes), cannot
tell a sentence about another object from one about the asked object, and reads English only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Label(StrEnum):
    """What an answer says, or why it says nothing."""

    YES = "yes"
    NO = "no"
    UNPARSED = "unparsed"
    """Words, but neither a yes nor a no: a hedge, a contradiction, another subject."""
    REFUSED = "refused"
    """The model declines, or says that it has no image."""
    EMPTY = "empty"
    """Nothing but white space, punctuation, symbols or special tokens."""
    ERROR = "error"
    """There is no answer, because the model failed: never an answer and never counted as one."""
    UNDECIDED = "undecided"
    """A judge was to read the answer and came to no verdict: in no count. The reader never says so."""


@dataclass(frozen=True)
class Reading:
    """What an answer was read as, by which rule, and from which characters of the original answer."""

    label: Label
    rule: str
    span: tuple[int, int] | None = None
    """Start and end in the answer as given; None where no stretch of it decided."""


NO_ANSWER = Reading(Label.ERROR, "no-answer")
"""The reading of a missing answer, the same for every protocol."""


def read_yes_no(answer: str | None) -> Reading:
    """The reading of one answer by the rules above; total and linear in the answer's length."""
    if answer is None:
        return NO_ANSWER
    text = _normalise(answer)
    start = text.chars.rfind(_THOUGHT_END)
    start = 0 if start < 0 else start + len(_THOUGHT_END)
    if start == 0 and _THOUGHT_START in text.chars:
        return Reading(Label.UNPARSED, "unfinished-thought")
    text = _without_tags(text, start)
    if not any(char.isalnum() for char in text.chars):
        return Reading(Label.EMPTY, "no-words")
    return (
        _explicit(text)
        or _leading(text)
        or _sentences(_without_idioms(text))
        or Reading(Label.UNPARSED, "no-rule", text.span(0, len(text.chars)))
    )


@dataclass(frozen=True)
class _Text:
    """A lower-case, plain-ASCII-punctuation copy of an answer that remembers where its characters came from."""

    chars: str
    origin: Sequence[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        return self.origin[start], self.origin[end - 1] + 1


_THOUGHT_START, _THOUGHT_END = "<think>", "</think>"
_APOSTROPHES = frozenset("\u2018\u2019\u02bc\u00b4\u2032\uff07")
_LINE_BREAKS = frozenset("\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)


def _plain(char: str) -> str:
    """One character's plain form: at most one character, "" for one that prints nothing."""
    if char in _LINE_BREAKS:
        return "\n"
    if char.isspace():
        return " "
    if ord(char) < 128:
        return char.lower() if char.isprintable() else " "
    if char in _APOSTROPHES:
        return "'"
    if unicodedata.category(char) == "Cf" or ord(char) in _VARIATION_SELECTORS:
        return ""
    # only one-character forms: the numero sign would otherwise become the word "No"
    folded = unicodedata.normalize("NFKC", char).lower()
    if len(folded) != 1:
        return char
    return " " if folded.isspace() else folded


def _normalise(answer: str) -> _Text:
    """The plain form of an answer with each run of white space as one character."""
    if answer.isascii() and answer.isprintable() and "  " not in answer:
        return _Text(answer.lower(), range(len(answer)))
    chars: list[str] = []
    origin: list[int] = []
    for position, char in enumerate(answer):
        plain = _plain(char)
        if not plain:
            continue
        if plain in " \n" and chars and chars[-1] in " \n":
            if plain == "\n":
                chars[-1] = "\n"
            continue
        chars.append(plain)
        origin.append(position)
    return _Text("".join(chars), origin)


_TAG = re.compile(r"<\|[^<>]{0,40}\|>|\[/?(?:inst|pad|unk|cls|sep|image)\]|<(/?)([a-z][a-z0-9_-]{0,30}) ?/?>")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf) ?\{")


def _without_tags(text: _Text, start: int) -> _Text:
    """The text from `start` on; answer marks become the words "answer:", other tags and special tokens blanks."""

    def blank(match: re.Match[str]) -> str:
        if match.group(2) == "answer" and not match.group(1):
            return "answer:".ljust(len(match.group()))
        return " " * len(match.group())

    chars = _TAG.sub(blank, text.chars[start:])
    chars = chars.replace("\\boxed{", "answer:")
    chars = _LATEX_TEXT.sub(lambda match: " " * len(match.group()), chars)
    return _Text(chars, text.origin[start:])


# --- words ------------------------------------------------------------------------------------------------------------

# "_" counts as a word character for regular expressions but wraps words in Markdown
_EDGE = r"(?<![^\W_])"
_END = r"(?![^\W_])"
_GAP = r"[\W_]"
_YES_WORDS = frozenset({"yes", "yeah", "yep", "yup"})
_NO_WORDS = frozenset({"no", "nope", "nah"})
_WORD = rf"(?:yes|yeah|yep|yup|no|nope|nah){_END}"
_CLAUSE_YES = "affirmative|correct|true|indeed|definitely|absolutely|certainly|of course|y"
_CLAUSE_NO = (
    "none|negative|incorrect|false|n|(?:definitely|absolutely|certainly|of course) not"
    "|not (?:really|at all|present|visible|there|seen|in (?:the|this) (?:image|picture|photo|scene)"
    "|that i (?:can|could) (?:see|tell))"
)
_IDIOM = r"no (?:doubt|question|problem|idea|clue|comment|way (?:to|of)|information)" + _END
_NO_IMAGE = (
    r"no (?:image|picture|photo) (?:(?:is|was|has been|were|seems to be|appears to be) )?"
    r"(?:provided|attached|uploaded|given|shared|available|included)" + _END
)
_OPEN_WORD = rf"(?!{_IDIOM}|{_NO_IMAGE}){_WORD}"
_CLAUSE_END = r"(?=[_*\"'`)\]}]{0,4} ?(?:[.,;:!\n]|$))"

_ALTERNATIVE = rf"{_GAP}{{0,3}}(?:or|and/or|/|\|){_GAP}{{0,3}}{_WORD}"
_BOTH = re.compile(rf"{_EDGE}(?:either )?{_WORD}{_ALTERNATIVE}|{_EDGE}{_WORD} (?:and|&) {_WORD}")

_EXPLICIT = re.compile(
    rf"{_EDGE}(?:(?:answer|response|conclusion|verdict|output){_GAP}{{0,6}}"
    rf"(?:to (?:the|this|your) question{_GAP}{{0,4}})?(?:(?<=[:=-])|is|would be|should be|must be)|a ?:)"
    rf"{_GAP}{{0,12}}(?:(?:definitely|clearly|simply|therefore|thus|still) )?"
    rf"(?P<word>(?!{_IDIOM}|{_NO_IMAGE})(?:{_WORD}|(?:true|false|affirmative|negative){_END}))(?!{_ALTERNATIVE})"
    rf"(?! and {_WORD})"
)
_LEADING = re.compile(
    rf"(?:{_GAP}*)(?:(?:{_EDGE}(?:answer|response|output|assistant|well|so|oh|ok|okay|sorry|a){_END}){_GAP}+)*"
    rf"(?:(?P<word>{_OPEN_WORD})|(?P<yes>{_CLAUSE_YES}){_CLAUSE_END}|(?P<no>{_CLAUSE_NO}){_CLAUSE_END})"
)
_OPPOSED = re.compile(rf"{_GAP}{{0,4}}(?:(?:and|but|but also) ?{_GAP}{{0,3}})?(?P<word>{_WORD}){_CLAUSE_END}")
_ALTERNATIVE_TO = re.compile(_ALTERNATIVE)
_CORRECTION = re.compile(
    rf"{_EDGE}(?:actually|wait|correction|sorry|rather|i mean){_GAP}{{1,4}}(?:it's |it is |that's |that is )?"
    rf"(?P<word>{_WORD}){_GAP}{{0,4}}\Z"
)


def _word_label(word: str) -> Label:
    yes = word in _YES_WORDS or word in ("true", "affirmative")
    return Label.YES if yes else Label.NO


def _explicit(text: _Text) -> Reading | None:
    """The last explicit final answer, if there is one."""
    last = None
    for last in _EXPLICIT.finditer(text.chars):  # noqa: B007 - only the last match is wanted
        pass
    if last is None:
        return None
    label = _word_label(last["word"])
    return Reading(label, f"explicit-{label}", text.span(*last.span("word")))


def _leading(text: _Text) -> Reading | None:
    """The answer word that the text begins with, if nothing directly takes it back."""
    match = _LEADING.match(text.chars)
    if match is None:
        return None
    group = match.lastgroup or "word"
    label = _word_label(match["word"]) if group == "word" else Label(group)
    both = _ALTERNATIVE_TO.match(text.chars, match.end())
    opposed = _OPPOSED.match(text.chars, match.end())
    if both is None and opposed is not None and _word_label(opposed["word"]) is not label:
        both = opposed
    if both is not None:
        return Reading(Label.UNPARSED, "both-words", text.span(match.start(group), both.end()))
    correction = _CORRECTION.search(text.chars, match.end())
    if correction is not None and _word_label(correction["word"]) is not label:
        return Reading(Label.UNPARSED, "self-corrected", text.span(*correction.span()))
    return Reading(label, f"leading-{label}", text.span(*match.span(group)))


# --- sentences --------------------------------------------------------------------------------------------------------

_NOT = r"(?: not|n'?t)"
_BE = r"(?:is|are|was|were)"
_CANNOT = r"(?:cannot|can ?not|can'?t|could not|couldn'?t)"
_UNABLE = r"(?:(?:am|'m|are|was) )?(?:unable|not able) to"
_PICTURE = r"(?:image|picture|photo|photograph|attachment|scene)s?"
_ADVERB = (
    r"(?:(?:actually|really|clearly|definitely|currently|also|still|certainly|indeed|in fact|just|simply|absolutely) )"
)
_DOUBT = r"(?:possibly|perhaps|maybe|probably|likely|some(?:thing)? that|no|not|none|nothing|neither|zero|insufficient)"
_SEEN = (
    r"(?:present|visible|seen|shown|depicted|pictured|featured|displayed|included|found|detected"
    rf"|in (?:the|this) {_PICTURE})"
)

_THE_PICTURE = (
    r"(?:(?:the|this|that|any|an|a|your|access to) )?(?:(?:the|this|any|your) )?(?:actual |attached |provided )?"
    rf"{_PICTURE}{_END}(?! of)"
)

_REFUSAL = re.compile(
    rf"{_EDGE}(?:"
    rf"(?:{_CANNOT}|{_UNABLE}|(?:do|did){_NOT}) (?:actually |directly )?"
    rf"(?:see|view|access|open|process|analy[sz]e|interpret|display|have|receive)"
    rf" {_THE_PICTURE}"
    rf"|(?:{_CANNOT}|{_UNABLE}|won'?t|will not) (?:help|assist|answer|comply|provide|fulfil|do that|engage)"
    rf"|as an ai{_END}[^.\n]{{0,60}}(?:{_CANNOT}|unable|not able|(?:do|does)(?:{_NOT}) have)"
    rf"|(?:do|does){_NOT} have (?:access|the (?:ability|capability))"
    rf"|please (?:provide|upload|share|attach) (?:the|an|a|your) {_PICTURE}"
    rf"|{_NO_IMAGE}"
    rf")"
)
_HEDGE = re.compile(
    rf"{_EDGE}(?:maybe|perhaps|possibly|probably|most likely|unsure|uncertain|unclear|undetermined|inconclusive|unknown"
    rf"|(?:not|n't) (?:entirely |completely |quite |really |100% )?(?:sure|clear|certain|enough|possible|necessarily)"
    rf"|(?:might|may|could) (?:or may not |not )?(?:be|have|contain|show)"
    rf"|(?:hard|difficult|impossible|not possible|no way|unable|{_CANNOT}|{_UNABLE})"
    rf" (?:to )?(?:accurately |definitively |reliably |really )?"
    rf"(?:tell|say|determine|know|confirm|judge|be (?:sure|certain)|(?:see|identify) (?:if|whether|clearly|anything))"
    rf"|(?:do{_NOT}|cannot|can't) know|no (?:idea|clue|information)|depends)"
    rf"{_END}"
)
_DENIED = re.compile(
    rf"{_EDGE}(?:"
    rf"there(?:'s| {_BE}) {_ADVERB}{{0,2}}(?:no|not|none|nothing|zero|neither){_END}"
    rf"|there {_BE}n'?t{_END}"
    rf"|there (?:do|does|did){_NOT} (?:appear|seem){_END}"
    rf"|there (?:appears?|seems?) to be no(?:t|ne)?{_END}"
    rf"|i (?:(?:do|did){_NOT}|{_CANNOT}|{_UNABLE}) {_ADVERB}?(?:see|find|spot|detect|observe|locate|identify|notice)"
    rf"(?! (?:if|whether|clearly|well|enough|properly|anything|{_THE_PICTURE})){_END}"
    rf"|i'm (?:unable|not able) to (?:see|find|spot|detect|observe|locate)"
    rf"(?! (?:if|whether|clearly|anything|{_THE_PICTURE})){_END}"
    rf"|i (?:do{_NOT}|don'?t) (?:think|believe) (?:so|there|it|that|any|the|a){_END}"
    rf"|{_BE}(?:n'?t| not) (?:\w{{1,12}} )?(?:{_SEEN}|there|here|any|an?){_END}"
    rf"|{_CANNOT} be (?:seen|found|detected|located)"
    rf"|(?:do|does|did){_NOT} (?:appear|seem|contain|show|include|depict|feature|exist|display){_END}"
    rf"|(?:see|sees|saw|contains?|shows?|depicts?|features?|includes?|has|have|detect|find) {_ADVERB}?no{_END}"
    rf"|{_BE} (?:absent|missing|nowhere){_END}"
    rf")"
)
_AFFIRMED = re.compile(
    rf"{_EDGE}(?P<condition>(?:if|whether|unless|is) )?(?:"
    rf"there(?:'s| (?:is|are|was|were|appears? to be|seems? to be))"
    rf"(?! (?:{_ADVERB}{{0,2}})(?:{_DOUBT}{_END}|an? (?:chance|possibility|question|doubt|lack|problem|error)))"
    rf"(?= {_ADVERB}{{0,2}}[^\W_]|[.!]|$)"
    rf"|i (?:can |do )?{_ADVERB}?(?:see|spot|observe|detect|notice|found|find)"
    rf"(?= (?:an?|the|one|two|three|four|several|some|many|multiple|at least|it)\b)(?! {_THE_PICTURE})"
    rf"|{_BE} {_ADVERB}{{0,2}}{_SEEN}{_END}"
    rf"|can {_ADVERB}?be seen{_END}"
    rf"|i (?:think|believe) so{_END}"
    rf")"
)
_CONTAINED = re.compile(
    rf"{_EDGE}(?:{_PICTURE}|it) {_ADVERB}?(?:does )?(?:show|contain|feature|depict|include|display|has)s?"
    r"(?= (?!no\b|nothing\b)\w)"
    rf"|^{_GAP}{{0,4}}it (?:is|does)(?=[.!]|$)"
)
_LONE_WORD = re.compile(rf"{_EDGE}(?<!')(?<!-)(?<!not )(?P<word>{_WORD})(?=[_*\"'`)\]}}]{{0,4}} ?(?:[.,;:!\n]|$))")
_NEGATIVE_WORD = re.compile(rf"{_EDGE}(?:no|without|none|neither|nor|except){_END}")
_SENTENCE_END = re.compile(r"[.!?\n]")
_SENTENCE_LIMIT = 400
"""How far a sentence is followed, in characters: keeps the reader linear on text that never ends one."""
_IDIOMS = re.compile(r"\bno (?:doubt|question|problem|worries)\b")


def _without_idioms(text: _Text) -> _Text:
    """The text without phrases whose "no" denies nothing; the length stays."""
    return _Text(_IDIOMS.sub(lambda match: " " * len(match.group()), text.chars), text.origin)


def _affirmed(chars: str) -> tuple[tuple[int, int], bool] | None:
    """Where an existence is first stated, neither asked nor conditional, and whether its sentence also negates."""
    for match in _AFFIRMED.finditer(chars):
        if match["condition"]:
            continue
        limit = match.end() + _SENTENCE_LIMIT
        stop = _SENTENCE_END.search(chars, match.end(), limit)
        if stop is None or stop.group() != "?":
            negates = _NEGATIVE_WORD.search(chars, match.end(), stop.start() if stop else limit)
            return match.span(), negates is not None
    return None


def _lone_words(chars: str) -> list[tuple[Label, tuple[int, int]]]:
    """Answer words that stand at the end of a clause, with their labels; "yes or no" is no answer word."""
    both = [match.span() for match in _BOTH.finditer(chars)]
    words = []
    upcoming = 0
    for match in _LONE_WORD.finditer(chars):
        while upcoming < len(both) and both[upcoming][1] < match.end():
            upcoming += 1
        if upcoming < len(both) and both[upcoming][0] <= match.start():
            continue
        words.append((_word_label(match["word"]), match.span("word")))
    return words


def _sentences(text: _Text) -> Reading | None:
    """What full sentences say when the text does not begin with an answer."""
    chars = text.chars
    stops = [
        (match.start(), match.span(), label, rule)
        for pattern, label, rule in (
            (_REFUSAL, Label.REFUSED, "refusal"),
            (_HEDGE, Label.UNPARSED, "hedged"),
        )
        if (match := pattern.search(chars))
    ]
    claims = _claims(chars)
    # a later hedge does not take back what was said before it, and a later claim does not undo a refusal
    if stops and (not claims or min(stops)[0] <= claims[0][1][0]):
        _, span, label, rule = min(stops)
        return Reading(label, rule, text.span(*span))
    if not claims:
        both = _BOTH.search(chars)
        return None if both is None else Reading(Label.UNPARSED, "both-words", text.span(*both.span()))
    label, span, rule = claims[0]
    if any(other is not label for other, _, _ in claims):
        return Reading(Label.UNPARSED, "mixed", text.span(*span))
    return Reading(label, rule, text.span(*span))


def _claims(chars: str) -> list[tuple[Label, tuple[int, int], str]]:
    """What the sentences claim, the deciding one first; a mere description counts only where nothing else does."""
    claims = [(label, span, f"lone-{label}") for label, span in _lone_words(chars)]
    denied = _DENIED.search(chars)
    if denied is not None:
        claims.append((Label.NO, denied.span(), "denied-existence"))
    affirmed = _affirmed(chars)
    if affirmed is not None:
        span, negates = affirmed
        claims.append((Label.YES, span, "affirmed-existence"))
        if negates:
            claims.append((Label.NO, span, "denied-existence"))
    if not claims and (contained := _CONTAINED.search(chars)) and not _NEGATIVE_WORD.search(chars):
        claims.append((Label.YES, contained.span(), "affirmed-existence"))
    return sorted(claims, key=lambda claim: claim[1])
