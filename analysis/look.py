"""Where does the model look while it reads a word, and before it answers? The numbers behind `agevlm-eval look`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agevlm.errors import DataError
from agevlm.vlm.contract import Probe, Reply

Floats = NDArray[np.floating]
MOST_WORDS = 4
MOST_LAYERS = 6
NO_CONTENT = frozenset({"image", "picture", "photo", "photograph", "answer", "question"})


@dataclass(frozen=True)
class Gaze:
    """The attention of one word, or of several tokens together."""

    label: str
    tokens: tuple[int, ...]
    """Which of the probe's tokens were averaged."""
    maps: Floats
    """(layers, rows, columns): attention to each cell of the token grid."""
    elsewhere: Floats
    """(layers,): attention to visual tokens that stand for no place."""


@dataclass(frozen=True)
class Panel:
    """One map and what can be said of it in numbers."""

    label: str
    layer: int | None
    """None for the mean over all probed layers."""
    map: Floats
    """(rows, columns)."""
    on_image: float
    """Share of the query's attention that lies on the image, 0 to 1; the rest of the visual share is padding."""
    on_padding: float
    elsewhere: float
    """Share on visual tokens that stand for no place (class tokens, row marks)."""
    peak: float
    """Largest cell as a multiple of what it would have if the map were flat."""
    like_all: float | None
    """Pearson correlation with the control's map in the same layer; near 1: the word adds nothing of its own.
    None where one of the two is flat."""


def gazes(probe: Probe, prompt: str, reply: Reply, words: Sequence[str]) -> list[Gaze]:
    """Maps of the chosen words, of the answer, and, as a control, of all tokens of the prompt that see the image.

    A word's map is that of its last token, which has read the whole word. The answer's is that of the position that
    predicts its first token. What all tokens share (sinks, edges) is no one word's doing: hence the control.

    Args:
        probe: of the prompt with the answer's tokens.
        prompt: the user's text.
        reply: the answer.
        words: words or phrases of the prompt or answer; none for the prompt's content words.

    Raises:
        DataError: a word that stands in neither.
    """
    chosen = list(dict.fromkeys(words)) or content_words(prompt)
    found = [_gaze(probe, word, _tokens_of(probe, prompt, reply, word)) for word in chosen]
    answer = next((i for i, t in enumerate(probe.tokens) if t.part == "answer"), len(probe.tokens))
    before = (answer - 1,)
    said = " ".join((reply.text or "").split())
    found.append(_gaze(probe, f"→ {said[:24] or 'answer'}", before))
    # Tokens before an image in the sequence look at none of it: they would make the others' share look smaller.
    seeing = probe.attention.sum((0, 2, 3)) + probe.elsewhere.sum(0) > 0
    everything = [i for i, t in enumerate(probe.tokens) if t.part != "answer"]
    found.append(_gaze(probe, "all tokens (control)", tuple([i for i in everything if seeing[i]] or everything)))
    return found


def _gaze(probe: Probe, label: str, tokens: tuple[int, ...]) -> Gaze:
    chosen = list(tokens)
    return Gaze(label, tokens, probe.attention[:, chosen].mean(1), probe.elsewhere[:, chosen].mean(1))


def content_words(prompt: str) -> list[str]:
    """The first few words of a prompt that name something."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    question = re.split(r"(?<=[?])\s", prompt)[0]
    dull = ENGLISH_STOP_WORDS | NO_CONTENT
    words = [w for w in re.findall(r"\w+(?:[-']\w+)*", question) if w.lower() not in dull and len(w) > 1]
    return list(dict.fromkeys(words))[:MOST_WORDS]


def _tokens_of(probe: Probe, prompt: str, reply: Reply, word: str) -> tuple[int, ...]:
    for part, text in (("prompt", prompt), ("answer", reply.text or "")):
        match = re.search(rf"(?<!\w){re.escape(word.strip())}(?!\w)", text, re.IGNORECASE)
        if match is None or not word.strip():
            continue
        inside = [
            i
            for i, token in enumerate(probe.tokens)
            if token.part == part and token.start < match.end() and match.start() < token.end
        ]
        if inside:
            return (inside[-1],)
    raise DataError(f"--word {word!r} stands neither in the question {prompt!r} nor in the answer {reply.text!r}")


def shown_layers(layers: Sequence[int], most: int = MOST_LAYERS) -> list[int]:
    """A few layers, evenly spread, first and last among them."""
    if len(layers) <= most:
        return list(layers)
    places = np.linspace(0, len(layers) - 1, most).round().astype(int)
    return [layers[i] for i in places]


def panels(probe: Probe, gaze: Gaze, control: Gaze, layers: Sequence[int]) -> list[Panel]:
    """One panel for each shown layer, and one for the mean over all probed layers."""
    coverage = probe.geometry.coverage()
    where: list[int | None] = [*layers, None]
    made = []
    for layer in where:
        index = slice(None) if layer is None else [probe.layers.index(layer)]
        map_, all_map = gaze.maps[index].mean(0), control.maps[index].mean(0)
        total = float(map_.sum())
        made.append(
            Panel(
                gaze.label,
                layer,
                map_,
                on_image=float((map_ * coverage).sum()),
                on_padding=float((map_ * (1 - coverage)).sum()),
                elsewhere=float(gaze.elsewhere[index].mean()),
                peak=float(map_.max()) * map_.size / total if total else 0.0,
                like_all=None if gaze is control else _correlation(map_, all_map),
            )
        )
    return made


def _correlation(a: Floats, b: Floats) -> float | None:
    if float(a.std()) < 1e-12 or float(b.std()) < 1e-12:
        return None
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
