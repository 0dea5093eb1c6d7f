"""The contract between the suite and any vision-language model. Needs no torch.

Shaped after segment-anything's set_image / predict: `encode` does the vision work once per image, `answer` and `rank`
ask as many questions of it as one likes. Adapters translate one family of models each; nothing outside
`agevlm.vlm` knows how a model is run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from agevlm.errors import NotSupported

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from agevlm.geometry import Geometry

Capability = Literal["logprobs", "rank", "blind", "probe"]
"""logprobs: first-token candidate log-probabilities; rank: option log-probabilities; blind: asks without an image;
probe: looking inside (`probe`, `knock_out`, `similarities`)."""

YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Ask:
    """One question put to a model."""

    prompt: str
    """The user's text, before any chat template."""
    image: int | None
    """Index into the encoded images; None asks without an image (blind)."""
    max_new_tokens: int = 128
    candidates: tuple[str, ...] = YES_NO
    """Answers whose first-token log-probability is wanted, summed over case and leading-space variants."""


@dataclass(frozen=True)
class Reply:
    """What came back for one ask; exactly one of `text` and `error` is set."""

    text: str | None
    stop: Literal["eos", "length", "error"]
    logprobs: Mapping[str, float] = field(default_factory=dict)
    """Natural-log probability of the first answer token being a form of each candidate; empty if not offered."""
    token_ids: tuple[int, ...] = ()
    """Generated token ids with the end token where one was generated."""
    error: str | None = None
    """Why there is no answer: exception type and message."""

    @staticmethod
    def failed(error: str) -> Reply:
        """The reply that stands for an exception; never an empty answer."""
        return Reply(text=None, stop="error", error=error)


@dataclass(frozen=True)
class Fingerprint:
    """What a model is, by content and not by path.

    Two fingerprints are equal exactly if weights, configuration, tokenizer, processor (padding included), chat
    template, dtype and quantisation are.
    """

    digest: str
    """Hex SHA-256 over `parts`."""
    parts: Mapping[str, str]
    """Hash or value of each part by name, so that a change can be named."""

    def changed(self, other: Mapping[str, str]) -> list[str]:
        """Names of the parts in which this differs from another fingerprint's parts."""
        return sorted(k for k in {*self.parts, *other} if self.parts.get(k) != other.get(k))


@dataclass(frozen=True)
class ProbeSpec:
    """What to record while a model reads a prompt and its answer."""

    layers: tuple[int, ...] | None = None
    """Layers to record, as the model numbers them; None for all that can look at the image."""
    heads: bool = False
    """Whether to record every head by itself, too."""


@dataclass(frozen=True)
class ProbedToken:
    """A text token of a probed sequence."""

    text: str
    part: Literal["template", "prompt", "answer"]
    start: int
    """First character, counted in the prompt (or answer, or rendered text) it is part of."""
    end: int


@dataclass(frozen=True)
class Probe:
    """Where text tokens of a prompt and its answer looked."""

    tokens: tuple[ProbedToken, ...]
    """The recorded text tokens in order; visual tokens are left out."""
    layers: tuple[int, ...]
    attention: NDArray[np.float32]
    """(layers, tokens, rows, columns): softmax attention of each token, as a query, to the image's token grid, mean
    over heads. With cross-attention the cells sum to 1; with visual tokens in the sequence the rest lies on text. Where
    a model sees an image in several views, each visual token's attention is spread over the cells that it covers."""
    elsewhere: NDArray[np.float32]
    """(layers, tokens): attention to visual tokens that stand for no place in the image (class tokens, row marks)."""
    geometry: Geometry
    """Where the grid's cells lie in the image."""
    heads: NDArray[np.float32] | None = None
    """(layers, heads, tokens, rows, columns): the attention of each head, where it was asked for."""


Space = Literal["hidden", "cross_output", "query_key"]
"""Where text and image are compared. hidden: hidden states of text tokens against those of visual tokens after the same
layer; with cross-attention against the visual tokens that its layers are given, which are the same for all.
cross_output: what enters a cross-attention layer against what its attention brings from the image, before the gate.
query_key: a layer's queries of text tokens against its keys of visual tokens, by head, without rotary positions."""
Pooling = Literal["mean", "max", "last"]
POOLINGS: tuple[Pooling, ...] = ("mean", "max", "last")
"""mean: of the mean text state with the mean visual state. max: for each text token the visual token most like it, then
the mean over text tokens. last: of the last text token with the mean visual state. In "cross_output" each text token
has one visual state, its own: max and last take that."""


@dataclass(frozen=True, eq=False)
class Centre:
    """What the states of a space have in common, to be taken from them before they are compared."""

    text: NDArray[np.float32]
    """(layers, heads, size): mean over texts."""
    visual: NDArray[np.float32]
    """(layers, heads, size): mean over images."""


@dataclass(frozen=True)
class StateSpec:
    """What to compare while a model reads a text beside an image."""

    spaces: tuple[Space, ...] = ("hidden",)
    layers: tuple[int, ...] | None = None
    """Layers of the space "hidden"; None for all, the embeddings, and what the final norm makes of the last. The other
    spaces are recorded in all layers that have them."""
    centres: Mapping[Space, Centre] = field(default_factory=dict)
    """By space; where given, centred cosines are recorded, too."""


@dataclass(frozen=True, eq=False)
class Compared:
    """One text and one image in one space."""

    layers: tuple[str, ...]
    """Names of the layers, in order: "embeddings", a number (after layer k, 0-based), "norm" (after the final norm)."""
    raw: NDArray[np.float32]
    """(layers, poolings): cosines, -1 to 1, in the order of `POOLINGS`; mean over heads where there are several."""
    centred: NDArray[np.float32] | None
    """The same of states from which the centre was taken."""
    text: NDArray[np.float32]
    """(layers, heads, size): mean state of the text tokens; one head but for queries and keys."""
    visual: NDArray[np.float32]
    """(layers, heads, size): mean state of the visual tokens."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image with what an adapter has made of it ahead of `encode`."""

    image: Image
    inputs: Any
    """In the adapter's own form; for the model that made it alone."""


def pictures(images: Sequence[Image | Prepared]) -> list[Image]:
    """The images themselves, prepared or not."""
    return [one.image if isinstance(one, Prepared) else one for one in images]


class EncodedImages(ABC):
    """Images after the vision work, in the adapter's own form. Valid for the model that made it, until it closes."""

    @abstractmethod
    def __len__(self) -> int:
        """How many images."""


class Vlm(ABC):
    """A vision-language model that answers questions about images, greedily and without state between calls."""

    fingerprint: Fingerprint
    capabilities: frozenset[Capability]
    parallel_groups: int = 1
    """Image groups that a run may have under way at a time, each encoded and answered in a thread of its own. More
    than 1 for adapters whose methods may be called from many threads."""

    def prepare(self, image: Image) -> Image | Prepared:
        """What of the vision work needs no model (resizing, normalising), so that it can be done ahead.

        Called from another thread than the model's, while the model is at work; `encode` takes the result in the
        image's place. By default nothing is done ahead.
        """
        return image

    def mean_colour(self) -> tuple[float, float, float] | None:
        """Red, green and blue, 0 to 1, that normalising makes 0; None where the model does not say."""
        return None

    @abstractmethod
    def encode(self, images: Sequence[Image | Prepared]) -> EncodedImages:
        """Do the vision work for RGB images of any size, prepared or not, once per image."""

    @abstractmethod
    def answer(self, encoded: EncodedImages, asks: Sequence[Ask]) -> list[Reply]:
        """Greedy answers, one reply per ask in the same order.

        An ask that runs out of memory even by itself is answered with `Reply.failed`; other exceptions are raised.
        """

    @abstractmethod
    def rank(self, encoded: EncodedImages, asks: Sequence[Ask], options: Sequence[Sequence[str]]) -> list[list[float]]:
        """Summed natural-log probability of each option as the continuation of its ask's prompt.

        Args:
            encoded: the images.
            asks: the questions; `max_new_tokens` and `candidates` play no part.
            options: for each ask its options, as text.

        Returns:
            For each ask one log-probability per option, in order; NaN where the model's logits are not numbers, which
            ranks nowhere.
        """

    def tokens(
        self, encoded: EncodedImages, asks: Sequence[Ask], answers: Sequence[Sequence[int]]
    ) -> list[tuple[ProbedToken, ...]]:
        """The text tokens of each prompt and its answer, in order; visual tokens are left out.

        Args:
            encoded: the images.
            asks: the questions; each must name an image.
            answers: for each ask token ids that follow its prompt (a reply's `token_ids`); empty for the prompt alone.

        Raises:
            NotSupported: by default; adapters with the capability "probe" override this and what follows.
        """
        raise self._closed()

    def probe(
        self,
        encoded: EncodedImages,
        asks: Sequence[Ask],
        answers: Sequence[Sequence[int]],
        spec: ProbeSpec,
        wanted: Sequence[Sequence[int]] | None = None,
    ) -> list[Probe]:
        """Where the model looks while it reads each prompt and its answer, reduced inside the model.

        Args:
            encoded: the images.
            asks: the questions; each must name an image.
            answers: as for `tokens`.
            spec: what to record.
            wanted: for each ask which of its `tokens` to record, as indices, ascending; None for all. Prompts share
                their beginning, as they do in `answer`, up to the first token that is wanted.

        Raises:
            NotSupported: by default.
        """
        raise self._closed()

    def answer_and_probe(
        self, encoded: EncodedImages, asks: Sequence[Ask], spec: ProbeSpec, wanted: Sequence[Sequence[int]]
    ) -> tuple[list[Reply], list[Probe | None]]:
        """Answers, and where the model looked on the way to them: `answer` and `probe` at little more than the first's
        cost, for adapters that can.

        Args:
            encoded: the images.
            asks: the questions; each must name an image.
            spec: what to record.
            wanted: for each ask which of its prompt's `tokens` to record, as indices, ascending; none: it is answered
                and not looked at.

        Returns:
            A reply for each ask; and a probe of its wanted tokens, behind them the first token of the answer unless
            the answer ends with it. None where none was wanted, or the reply is an error.

        Raises:
            NotSupported: by default.
        """
        replies = self.answer(encoded, asks)
        held = [k for k, (own, reply) in enumerate(zip(wanted, replies, strict=True)) if own and reply.error is None]
        looking = [asks[k] for k in held]
        answers = [replies[k].token_ids[:1] if len(replies[k].token_ids) > 1 else () for k in held]
        tokens = self.tokens(encoded, looking, answers)
        queries = [
            [*wanted[k], len(own) - 1] if answer else wanted[k]
            for k, own, answer in zip(held, tokens, answers, strict=True)
        ]
        found = dict(zip(held, self.probe(encoded, looking, answers, spec, queries), strict=True))
        return replies, [found.get(k) for k in range(len(asks))]

    def geometry(self, encoded: EncodedImages, image: int) -> Geometry:
        """Where the cells of `probe` and `knock_out` lie in an encoded image. Raises NotSupported."""
        raise self._closed()

    def knock_out(
        self, encoded: EncodedImages, asks: Sequence[Ask], hidden: Sequence[NDArray[np.bool_]]
    ) -> list[Mapping[str, float]]:
        """How a model would begin to answer if its text could not look at some cells of the image.

        Attention knockout (Geva et al. 2023, arXiv 2304.14767): hidden cells are masked as keys in every layer for
        every text token after the image. What visual tokens took from one another stays.

        Args:
            encoded: the images.
            asks: the questions; each must name an image.
            hidden: for each ask (rows, columns) of its image's grid, True where text must not look.

        Returns:
            For each ask the log-probabilities of its candidates, as `Reply.logprobs`; NaN where logits are no numbers.

        Raises:
            NotSupported: by default.
            DataError: nothing of the image would be left, or the cells have another shape.
        """
        raise self._closed()

    def hidden_share(self, encoded: EncodedImages, image: int, hidden: Sequence[NDArray[np.bool_]]) -> list[float]:
        """How much of an image `knock_out` hides: visual tokens that stand for a place, 0 to 1 of them.

        A token is hidden with at least half of the cells that it stands for. Where a model sees the image more than
        once (tiles, and the whole of it), scattered cells hide none of a coarser view, and a patch of as many does.

        Args:
            encoded: the images.
            image: which of them.
            hidden: each (rows, columns), True where text must not look.

        Raises:
            NotSupported: by default.
            DataError: cells of another shape.
        """
        raise self._closed()

    def similarities(
        self, encoded: EncodedImages, asks: Sequence[Ask], wanted: Sequence[Sequence[int]], spec: StateSpec
    ) -> list[Mapping[Space, Compared]]:
        """How alike text tokens and visual tokens are inside the model, reduced on its device.

        Args:
            encoded: the images.
            asks: the texts as prompts; each must name an image.
            wanted: for each ask which of its `tokens` are the text to compare, as indices; at least one.
            spec: what to compare.

        Returns:
            For each ask one entry for every space of `spec` that the model has.

        Raises:
            NotSupported: by default.
        """
        raise self._closed()

    def _closed(self) -> NotSupported:
        able = ", ".join(sorted(self.capabilities - {"probe"})) or "answers alone"
        return NotSupported(
            f"{type(self).__name__} cannot be looked into: no attention and no hidden states come out of it "
            f"(it offers {able}); give a checkpoint that runs here"
        )

    def describe(self) -> Mapping[str, object]:
        """Facts for the manifest: model type, dtype, device, candidate token ids, settings ignored, fallbacks."""
        return {}

    def close(self) -> None:
        """Free the model's memory; the object must not be used afterwards."""
