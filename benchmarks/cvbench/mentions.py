"""Find where an answer names options: letters in any common wrapping, texts as whole words, whole numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from benchmarks.cvbench.types import LETTERS


@dataclass(frozen=True)
class Mention:
    """A stretch of a cleaned answer that names an option."""

    start: int
    end: int
    option: int | None
    """Place in the options; None for a number that is not among them, or where a letter and its text contradict."""
    value: int | None = None
    """The number that it is; None for a letter or words."""

    @property
    def number(self) -> bool:
        """Whether it is a number and no letter or word."""
        return self.value is not None


# --- cleaning ---------------------------------------------------------------------------------------------------------

_TRANSLATED = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u02bc\u00b4\u2032", "'"),
        **dict.fromkeys("\u201c\u201d\u00ab\u00bb", '"'),
        **dict.fromkeys("\u3010\u3014\u300c\u300e\u3016", "("),
        **dict.fromkeys("\u3011\u3015\u300d\u300f\u3017", ")"),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        **dict.fromkeys("\r\x0b\x0c\x85\u2028\u2029", "\n"),
        "\u3002": ".",
        "\u3001": ",",
    }
)
_ANSWER_MARK = re.compile(r"<answer>|\\boxed ?\{|\\fbox ?\{", re.IGNORECASE)
_TAG = re.compile(r"<\|[^<>]{0,40}\|>|\[/?(?:INST|PAD|UNK|CLS|SEP|IMAGE)\]|</?[a-z][a-z0-9_-]{0,30} ?/?>|</ANSWER>")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit)(?= ?\{)")
_OPENING, _CLOSING = r"[*_`\"'$\[{<]", r"[*_`\"'$\]}>]"
_MARKED_LETTER = re.compile(rf"(?<![^\W_]){_OPENING}{{1,4}} ?\(?([A-Za-z])\)?[.:,]? ?{_CLOSING}{{1,4}}(?![^\W_])")
_MARKS = re.compile(r"[*_`\"$#{}~\\|]+")
_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r" ?\n[ \n]*")


def _plain(char: str) -> str:
    if ord(char) < 128:
        return char
    if unicodedata.category(char) == "Cf" or 0xFE00 <= ord(char) < 0xFE10:
        return ""
    # only one-character forms: a fraction would otherwise become two whole numbers
    folded = unicodedata.normalize("NFKC", char)
    return folded if len(folded) == 1 else char


def clean(answer: str) -> str:
    r"""An answer without special tokens, markup and typographic forms; a letter that markup wraps becomes "(B)".

    Case and lines stay; runs of white space become one blank or one line break. `\boxed{` and `<answer>` become
    "answer:".
    """
    text = "".join(map(_plain, answer)).translate(_TRANSLATED)
    text = _LATEX_TEXT.sub("", _TAG.sub(" ", _ANSWER_MARK.sub(" answer: ", text)))
    text = _MARKS.sub(" ", _MARKED_LETTER.sub(r"(\1)", text))
    return _BLANK_LINES.sub("\n", _SPACES.sub(" ", text)).strip()


# --- letters ----------------------------------------------------------------------------------------------------------

# Chinese characters may touch a letter or word, Latin ones may not
_LATIN = "A-Za-z0-9\u00c0-\u024f"
EDGE, END = rf"(?<![{_LATIN}])", rf"(?![{_LATIN}])"
_LETTER = re.compile(
    rf"{EDGE}(?:"
    r"[(\[] ?(?P<bracketed>[A-Za-z]) ?[)\]]"
    r"|(?P<half>[A-Za-z]) ?\)"
    rf"|(?i:option|choice|letter) ?[:(]? ?(?P<named>[A-Za-z]){END}"
    rf"|(?<!['-])(?<!N/)(?P<bare>[A-Z]){END}(?!['-]\w)"
    r")|\A\W*(?P<head>[a-z])(?= ?[.:),](?![A-Za-z])|\Z| )",
)
_NO_ARTICLE = re.compile(
    # the last: "A B A B"
    r" ?(?:[.,:;!?)\]=/(-]|\n|\Z|\d)| (?:is|are|or|and|nor|but|was|would|seems|because|since|as)\b| [B-F](?![\w'-])"
)
_OR_LOWER = re.compile(rf" ?(?:,|/|,? (?:or|and|nor)) (?:option |choice )?([a-z]){END}")
_PRONOUN = re.compile(r" ?(?:[.:)]|\n|\Z)")


def letter_mentions(text: str, n_options: int) -> list[Mention]:
    """Where a cleaned text names the letter of an option; "A" before a word is an article and "I" a pronoun."""
    found = []
    for match in _LETTER.finditer(text):
        kind = match.lastgroup or ""
        letter = match[kind]
        place = LETTERS.find(letter.upper())
        if place >= n_options:
            continue
        if kind in ("named", "bare", "head") and letter in "AaIi":
            ends_there = (_PRONOUN if letter in "Ii" and kind != "named" else _NO_ARTICLE).match(text, match.end())
            if ends_there is None and not (kind == "named" and letter.isupper()):
                continue
        found.append(Mention(match.start(), match.end(), place))
        # "option a or b": what one letter makes clear holds for its alternative
        other = _OR_LOWER.match(text, match.end())
        if other and LETTERS.index(other[1].upper()) < n_options and _NO_ARTICLE.match(text, other.end()):
            found.append(Mention(other.start(1), other.end(), LETTERS.index(other[1].upper())))
    return found


# --- texts and numbers ------------------------------------------------------------------------------------------------

_UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = {
    **{word: value for value, word in enumerate(_UNITS + _TEENS)},
    **{word: 20 + 10 * place for place, word in enumerate(_TENS)},
}
# "two on each side" are more than two
_SHARED_OUT = (
    r"(?! (?:[a-z]+ ){0,2}(?:(?:on|in|at|to|by|for|from|near|under|behind|beside) (?:each|either|every)|per|apiece)\b"
    r"| each\b)"
)
_NUMBER = re.compile(
    rf"{EDGE}(?:(?<![0-9][.,])(?<!/)(?P<digits>\d{{1,3}}(?:,\d{{3}})+|\d{{1,9}})(?:\.0+)?(?![.,]?\d|/){END}"
    rf"|(?P<tens>{'|'.join(_TENS)})(?:[ -](?P<units>{'|'.join(_UNITS[1:])}))?{END}"
    rf"|(?P<small>{'|'.join(sorted(_UNITS + _TEENS, key=len, reverse=True))}){END}(?! of\b|'s\b)){_SHARED_OUT}",
    re.IGNORECASE,
)
# "the one on the left" counts nothing
_PRONOUN_ONE = re.compile(r"\b(?:the|this|that|which|each|every|no|any|another|other|either|correct|right) \Z", re.I)
_ENUMERATOR = re.compile(r"^\(?(\d{1,2})[.)] (?=\S)", re.MULTILINE)
_IDIOMS = re.compile(
    r"\b(?:(?:all|none|any|both|neither|either|one) of the (?:options |choices )?above"
    r"|(?:mentioned|described|stated|shown|listed|given|seen|noted|provided|explained|options|choices|image) above"
    r"|the above (?=image|picture|photo|options?|choices?|question|information|description)"
    r"|right (?=answer|option|choice|one\b|now\b|next\b)|(?:all|that's|that is|you're|you are) right\b"
    # "right above the sofa", not "to the right above the sofa"
    r"|(?<!the )right (?=(?:above|below|under|underneath|beneath|behind|beside|in front|on top|here|there)\b))",
    re.IGNORECASE,
)


def _number(match: re.Match[str]) -> int:
    if match["digits"]:
        return int(match["digits"].replace(",", ""))
    if match["tens"]:
        return _VALUES[match["tens"].lower()] + _VALUES.get((match["units"] or "zero").lower(), 0)
    return _VALUES[match["small"].lower()]


def _blanked(text: str, pattern: re.Pattern[str]) -> str:
    return pattern.sub(lambda match: "-" * len(match.group()), text)


class OptionTexts:
    """The options' texts as patterns: whole words in any case, and numbers by value."""

    def __init__(self, options: Sequence[str]) -> None:
        plain = [clean(option) for option in options]
        self._values: dict[int, int | None] = {}
        self._places: dict[tuple[str, ...], int | None] = {}
        for place, option in enumerate(plain):
            match = _NUMBER.fullmatch(option)
            words = tuple(re.findall(r"[^\W_]+", option.lower()))
            # two options with one text are told apart by nothing: neither is ever named by it
            if match:
                value = _number(match)
                self._values[value] = None if value in self._values else place
            elif words:
                self._places[words] = None if words in self._places else place
        longest_first = sorted(self._places, key=lambda words: (-len(" ".join(words)), words))
        joined = "|".join(r"[\W_]+".join(map(re.escape, words)) for words in longest_first)
        self._pattern = re.compile(rf"{EDGE}(?:{joined}){END}", re.IGNORECASE) if joined else None

    @property
    def zero(self) -> int | None:
        """The option that says 0, if there is one."""
        return self._values.get(0)

    def mentions(self, text: str) -> list[Mention]:
        """Where a cleaned text names an option's text, or, if an option is a number, any whole number."""
        found = []
        if self._pattern is not None:
            for match in self._pattern.finditer(_blanked(text, _IDIOMS)):
                words = tuple(re.findall(r"[^\W_]+", match.group().lower()))
                found.append(Mention(match.start(), match.end(), self._places[words]))
        if self._values:
            for match in _NUMBER.finditer(_without_enumerators(text)):
                before = text[max(0, match.start() - 20) : match.start()]
                if (match["small"] or "").lower() == "one" and _PRONOUN_ONE.search(before):
                    continue
                value = _number(match)
                found.append(Mention(match.start(), match.end(), self._values.get(value), value))
        return sorted(found, key=lambda mention: mention.start)


def _without_enumerators(text: str) -> str:
    """The text without the numbers of a numbered list."""
    numbers = [int(number) for number in _ENUMERATOR.findall(text)]
    return _blanked(text, _ENUMERATOR) if numbers[:2] == [1, 2] else text


@lru_cache(maxsize=4096)
def option_texts(options: tuple[str, ...]) -> OptionTexts:
    """The patterns of these options, compiled once."""
    return OptionTexts(options)


# --- none of it -------------------------------------------------------------------------------------------------------

# "no way to tell", "no correct answer" and "no image provided" count nothing
_NO_THING = (
    r"(?!(?: (?!(?:in|on|at|of|from|to|for|with)\b)[a-z-]+){0,2} (?:way|doubt|question|image|picture|photo|information|"
    r"indication|clear|clue|idea|reason|need|evidence|point|answer|option|choice|response|problem|difference|comment|"
    r"thank|such|input|context|content|detail|data|file|attachment)s?\b)"
)
_ZERO = re.compile(
    rf"\bthere(?:'s| is| are| was| were) (?:no|none)\b{_NO_THING}"
    rf"|\bthere (?:is|are|was|were)(?:n't| not) an?y?\b{_NO_THING}|\A\W*none\b(?! of)"
    rf"|\b(?:can|could|do|did)(?:n't| ?not) (?:see|find|spot) any\b{_NO_THING}"
    rf"|\A\W*no\b{_NO_THING}(?! one\b)(?: [a-z-]+){{1,2}}(?: (?:in|on)(?: the| this)? [a-z]+)?\W*\Z"
    r"|\bno [a-z -]{1,30} (?:is|are) (?:visible|present|seen|shown)\b",
    re.IGNORECASE,
)


def zero_words(text: str) -> re.Match[str] | None:
    """Where a cleaned text says in other words that there are 0 ("there are no cars", "none")."""
    return _ZERO.search(text)


# --- negation ---------------------------------------------------------------------------------------------------------

_FILLER = r"(?:to|on|in|at|of|the|a|an|option|choice|answer|letter|be|it|is|exactly|necessarily)"
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|neither|nor|never|without|except|unlike|exclude|excluding|eliminate|eliminating|no|instead of"
    r"|(?:rather|other|more|less|fewer) than|(?:closer|nearer)\b[^.\n]{0,40} than)"
    rf"|n't)(?: {_FILLER})* ?[('\[]*\Z",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"[)\]' ]{0,3},?(?: option| choice)? ?(?:(?:is|are|was|would be|does|do|can|could)(?:n't| not)\b(?! only)"
    r"|cannot\b|can't\b|(?:is|are|was|would be|can be|could be) (?:\w{1,12} )?"
    r"(?:wrong|incorrect|false|ruled out|eliminated|excluded)\b"
    r"|(?:is|are|was|appears|seems|looks)(?: to be)? (?:\w{1,12} )?(?:farther|further|more distant)\b)",
    re.IGNORECASE,
)
_OR = re.compile(rf"[)\]' ]{{0,3}},? ?(?:or|nor)\b(?: {_FILLER})* ?[('\[]*", re.IGNORECASE)
_REACH = 60
"""How far before a mention a denial is looked for, in characters: keeps the reader linear."""


def affirmed(mentions: Iterable[Mention], text: str) -> list[Mention]:
    """The mentions that the text does not deny ("not (A)", "neither A nor B", "(A) is wrong").

    Where CV-Bench compares, it asks what is closer: "closer than the bin" and "the bin is farther" deny the bin.
    """
    kept = []
    denied_end: int | None = None
    for mention in mentions:
        before = text[max(0, mention.start - _REACH) : mention.start]
        carried = denied_end is not None and _OR.fullmatch(text, denied_end, mention.start) is not None
        if carried or _DENIED_BEFORE.search(before) or _DENIED_AFTER.match(text, mention.end):
            denied_end = mention.end
        else:
            denied_end = None
            kept.append(mention)
    return kept
