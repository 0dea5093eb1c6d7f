"""A model without weights: it letterboxes to 48 x 48 pixels, has 6 x 6 cells, and looks where it is told to."""

from __future__ import annotations

import re

import numpy as np

from agevlm.geometry import Geometry
from agevlm.vlm.contract import EncodedImages, Fingerprint, Probe, ProbedToken, Reply, Vlm

SIDE, CELLS = 48, 6
LAYERS = (1, 3)


class _Images(EncodedImages):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)


class StubVlm(Vlm):
    """`looks(image, geometry, layer) -> (rows, columns)` says where; the answer is yes if the picture's mean is bright.

    While cells are hidden, the answer is the other one.
    """

    capabilities = frozenset({"logprobs", "probe"})

    def __init__(self, looks, name="stub", answers=None):
        self.looks, self.answers = looks, answers
        self.fingerprint = Fingerprint(f"{name:0<64}", {"weights": name})
        self.shown, self.hidden = [], []

    def mean_colour(self):
        return (0.2, 0.4, 0.6)

    def encode(self, images):
        self.shown += [image.size for image in images]
        return _Images(list(images))

    def geometry(self, encoded, image):
        return Geometry.letterbox(encoded.images[image].size, (SIDE, SIDE), (CELLS, CELLS))

    def _logprobs(self, encoded, ask):
        bright = float(np.asarray(encoded.images[ask.image]).mean())
        yes = self.answers(encoded.images[ask.image], ask) if self.answers else bright > 127
        return {"yes": -0.1, "no": -2.0} if yes else {"yes": -2.0, "no": -0.1}

    def answer(self, encoded, asks):
        told = [self._logprobs(encoded, ask) for ask in asks]
        return [Reply("Yes" if t["yes"] > t["no"] else "No", "eos", t) for t in told]

    def rank(self, encoded, asks, options):
        raise NotImplementedError

    def tokens(self, encoded, asks, answers):
        found = []
        for ask in asks:
            words = [ProbedToken(m[0], "prompt", *m.span()) for m in re.finditer(r"\w+|[^\w\s]", ask.prompt)]
            found.append((ProbedToken("USER", "template", 0, 4), *words, ProbedToken("SAY", "template", 5, 8)))
        return found

    def probe(self, encoded, asks, answers, spec, wanted=None):
        made = []
        for n, (ask, tokens) in enumerate(zip(asks, self.tokens(encoded, asks, answers), strict=True)):
            geometry = self.geometry(encoded, ask.image)
            image = encoded.images[ask.image]
            maps = np.stack([self.looks(image, geometry, layer) for layer in LAYERS]).astype(np.float32)
            own = range(len(tokens)) if wanted is None else wanted[n]
            attention = np.repeat(maps[:, None], len(own), axis=1)
            kept = tuple(tokens[i] for i in own)
            made.append(Probe(kept, LAYERS, attention, np.zeros(attention.shape[:2], np.float32), geometry))
        return made

    def knock_out(self, encoded, asks, hidden):
        self.hidden += list(hidden)
        told = [self._logprobs(encoded, ask) for ask in asks]
        return [{"yes": t["no"], "no": t["yes"]} for t in told]


def uniform(image, geometry, layer):
    return np.full((CELLS, CELLS), 1 / CELLS**2)


def at_black(image, geometry, layer):
    """Half of its attention anywhere, all of that on cells that are wholly black."""
    small = np.asarray(image.convert("L").resize((CELLS, CELLS), 4), float)
    if image.width != image.height:
        raise AssertionError("for canvases alone")
    black = (small == 0).astype(float)
    return 0.5 * (black / black.sum() if black.any() else np.full(black.shape, 1 / black.size))
