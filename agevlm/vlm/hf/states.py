"""How alike text tokens and visual tokens are inside a model: states seen by hooks, compared where they lie.

Visual tokens of the sequence are run once per image, with the prompt prefix that all its texts share, and kept layer by
layer while the texts run; where nothing is shared they run with each text. Only cosines and mean states leave the
device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from agevlm.errors import DataError, NotSupported
from agevlm.vlm.contract import Ask, Compared, Space, StateSpec
from agevlm.vlm.hf import prompts
from agevlm.vlm.hf.images import Row
from agevlm.vlm.hf.looking import sequences
from agevlm.vlm.hf.prefix import Prefix, build_prefix, prefill

if TYPE_CHECKING:
    from agevlm.vlm.hf.images import HfImages
    from agevlm.vlm.hf.session import HfVlm

EMBEDDINGS, NORM = "embeddings", "norm"
Key = tuple[Space, str]
"""A space and the name of a layer."""


@dataclass(frozen=True)
class _Found:
    """One text in one layer; tensors on the device."""

    raw: torch.Tensor
    """(poolings,)."""
    centred: torch.Tensor | None
    text: torch.Tensor
    """(heads, size)."""
    visual: torch.Tensor


@dataclass
class _Watch:
    """What the hooks know of the pass that runs, and what they have found."""

    spec: StateSpec
    order: Mapping[Space, Sequence[str]]
    """Layers of each space, for the places of centres."""
    text: list[torch.Tensor]
    """For each row the positions of its text tokens; empty while an image runs by itself."""
    visual: list[torch.Tensor]
    """For each row the positions of its visual tokens, where the rows of this pass hold them."""
    held: dict[Key, torch.Tensor]
    """(visual tokens, heads, size): of an image that ran before."""
    found: list[dict[Key, _Found]]
    """For each row."""

    def see(self, key: Key, text: torch.Tensor, visual: torch.Tensor | None = None) -> None:
        """States (rows, length, heads, size) of one layer; `visual` where these are others than the text's."""
        visual = text if visual is None else visual
        if not self.text:
            self.held[key] = visual[0, self.visual[0].to(visual.device)]
            return
        for row, places in enumerate(self.text):
            said = text[row, places.to(text.device)]
            image = self.held[key] if key in self.held else visual[row, self.visual[row].to(visual.device)]
            self._compare(row, key, said, image)

    def see_own(self, key: Key, text: torch.Tensor, output: torch.Tensor) -> None:
        """Text states, and what each text token by itself was given: (rows, length, heads, size) both."""
        for row, places in enumerate(self.text):
            at = places.to(text.device)
            self._compare(row, key, text[row, at], output[row, at], own=True)

    def _compare(self, row: int, key: Key, text: torch.Tensor, visual: torch.Tensor, own: bool = False) -> None:
        text, visual = text.float(), visual.to(text.device).float()
        if visual.shape[1] != text.shape[1]:
            visual = visual.repeat_interleave(text.shape[1] // visual.shape[1], dim=1)
        centred = None
        if (centre := self.spec.centres.get(key[0])) is not None:
            at = self.order[key[0]].index(key[1])
            means = (torch.from_numpy(part[at]).to(text.device) for part in (centre.text, centre.visual))
            centred = cosines(*(states - mean for states, mean in zip((text, visual), means, strict=True)), own=own)
        self.found[row][key] = _Found(cosines(text, visual, own=own), centred, text.mean(0), visual.mean(0))


def cosines(text: torch.Tensor, visual: torch.Tensor, *, own: bool = False) -> torch.Tensor:
    """Cosines of (tokens, heads, size) text and (visual tokens, heads, size) in the order of `POOLINGS`: (poolings,).

    Mean over heads. A state of length 0 has no direction: its cosine is NaN.

    Args:
        text: in float32.
        visual: likewise.
        own: each text token has one visual state, its own: "max" and "last" take that.
    """
    mean = (_unit(text.mean(0)) * _unit(visual.mean(0))).sum(-1)
    if own:
        each = (_unit(text) * _unit(visual)).sum(-1)
        return torch.stack([mean.mean(), each.mean(), each[-1].mean()])
    nearest = torch.einsum("thd,vhd->thv", _unit(text), _unit(visual)).amax(-1)
    last = (_unit(text[-1]) * _unit(visual.mean(0))).sum(-1)
    return torch.stack([mean.mean(), nearest.mean(), last.mean()])


def _unit(states: torch.Tensor) -> torch.Tensor:
    return states / states.norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class _Row:
    """A prompt as token ids."""

    ids: list[int]
    text: list[int]
    """Which of them are to be compared."""


class _Stack:
    """The layers of a language model, and which of them have what."""

    def __init__(self, model: Any, stack: Any) -> None:
        self.layers: Any = getattr(stack, "layers", None)
        self.norm: Any = getattr(stack, "norm", None)
        if self.layers is None or self.norm is None:
            raise NotSupported(
                f"the layers of a model of type {model.config.model_type!r} are not where they are known"
            )
        self.crossing = [i for i, layer in enumerate(self.layers) if hasattr(layer, "cross_attn")]

    def hidden(self, wanted: Sequence[int] | None) -> list[str]:
        """Names of the layers of the space "hidden". Raises DataError for one that there is not."""
        count = len(self.layers)
        if wanted is None:
            return [EMBEDDINGS, *map(str, range(count)), NORM]
        if unknown := sorted(set(wanted) - set(range(count))):
            raise DataError(f"layers {unknown} do not exist; there are 0 to {count - 1}")
        return [str(i) for i in sorted(set(wanted))]

    def projecting(self) -> list[int]:
        """Layers in which text asks visual tokens through projections of its own (none where they are fused)."""
        if self.crossing:
            return self.crossing
        return [i for i in range(len(self.layers)) if hasattr(self.attention(i), "q_proj")]

    def attention(self, index: int) -> Any:
        """What asks the image in a layer."""
        return self.layers[index].cross_attn if self.crossing else getattr(self.layers[index], "self_attn", None)


@dataclass(frozen=True)
class _Watching:
    """Looks at the passes of a model through hooks."""

    stack: _Stack
    order: Mapping[Space, Sequence[str]]
    spec: StateSpec

    @contextmanager
    def __call__(
        self,
        text: Sequence[Sequence[int]] = (),
        visual: Sequence[Sequence[int]] = (),
        held: Mapping[Key, torch.Tensor] | None = None,
    ) -> Iterator[_Watch]:
        watch = _Watch(self.spec, self.order, _tensors(text), _tensors(visual), dict(held or {}), [{} for _ in text])
        hooks: list[Any] = []
        names = set(self.order.get("hidden", ()))
        last: Key = ("hidden", NORM)
        try:
            # What a layer is given is what the one before it has left, whatever the model adds in between.
            for index, module in enumerate([*self.stack.layers, self.stack.norm]):
                name = str(index - 1) if index else EMBEDDINGS
                if name in names:
                    hooks.append(module.register_forward_pre_hook(_states(("hidden", name), watch), with_kwargs=True))
            if NORM in names:
                hooks.append(self.stack.norm.register_forward_hook(lambda _, __, out: watch.see(last, out[:, :, None])))
            for name in self.order.get("cross_output", ()):
                hooks += _outputs(self.stack.layers[int(name)], ("cross_output", name), watch)
            for name in self.order.get("query_key", ()):
                hooks += _projections(self.stack.attention(int(name)), ("query_key", name), watch)
            yield watch
        finally:
            for hook in hooks:
                hook.remove()


def _tensors(places: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    return [torch.tensor(own, dtype=torch.long) for own in places]


def _states(key: Key, watch: _Watch) -> Callable[..., None]:
    def before(_: Any, args: Any, kwargs: Any) -> None:
        watch.see(key, _given(args, kwargs)[:, :, None])

    return before


def _given(args: Any, kwargs: Any) -> torch.Tensor:
    """The hidden states that a layer is called with."""
    given: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return given


def _outputs(layer: Any, key: Key, watch: _Watch) -> list[Any]:
    entered: list[torch.Tensor] = []

    def before(_: Any, args: Any, kwargs: Any) -> None:
        entered[:] = [_given(args, kwargs)[:, :, None]]

    def after(_: Any, __: Any, output: Any) -> None:
        watch.see_own(key, entered.pop(), output[0][:, :, None])

    return [layer.register_forward_pre_hook(before, with_kwargs=True), layer.cross_attn.register_forward_hook(after)]


def _projections(attention: Any, key: Key, watch: _Watch) -> list[Any]:
    """Queries of the text, and where visual tokens are in the sequence their keys, before rotary positions."""
    made: dict[str, torch.Tensor] = {}

    def take(name: str) -> Callable[..., None]:
        def after(_: Any, __: Any, output: torch.Tensor) -> None:
            made[name] = _in_heads(attention, output, getattr(attention, f"{name}_norm", None))

        return after

    def compare(*_: Any) -> None:
        queries = made.pop("q")
        watch.see(key, queries, made.pop("k", None))

    projections = ["q"] if key in watch.held else ["q", "k"]
    hooks = [getattr(attention, f"{name}_proj").register_forward_hook(take(name)) for name in projections]
    return [*hooks, attention.register_forward_hook(compare)]


def _in_heads(attention: Any, states: torch.Tensor, norm: Any) -> torch.Tensor:
    """(rows, length, heads, head size), normalised where the layer normalises by head or over all heads."""
    size = attention.head_dim
    if norm is None:
        return states.unflatten(-1, (-1, size))
    weight = getattr(norm, "weight", None)
    if weight is not None and weight.shape[-1] == states.shape[-1] != size:
        return norm(states).unflatten(-1, (-1, size))
    return norm(states.unflatten(-1, (-1, size)))


def similarities(
    vlm: HfVlm, images: HfImages, asks: Sequence[Ask], wanted: Sequence[Sequence[int]], spec: StateSpec
) -> list[Mapping[Space, Compared]]:
    """See `Vlm.similarities`."""
    stack = _Stack(vlm.model, getattr(vlm.family, "text_stack", None))
    layers: dict[Space, Sequence[str]] = {
        "hidden": stack.hidden(spec.layers),
        "cross_output": [str(i) for i in stack.crossing],
        "query_key": [str(i) for i in stack.projecting()],
    }
    order = {space: layers[space] for space in spec.spaces if layers[space]}
    for ask, chosen in zip(asks, wanted, strict=True):
        if not chosen:
            raise ValueError(f"no token of {ask.prompt[:60]!r} is to be compared")
        vlm.check(images, ask)
        if ask.image is not None and not (reuse := vlm.sharing.of(vlm, images, ask)).image:
            raise NotSupported(
                f"images of this model of type {vlm.model.config.model_type!r} cannot be encoded apart from a prompt "
                f"({reuse.why}): what is kept of them has no visual tokens"
            )
    made = sequences(vlm, images, asks, [()] * len(asks))
    rows = [_Row(one.ids, [one.places[k] for k in own]) for one, own in zip(made, wanted, strict=True)]
    by_image: dict[int, list[int]] = {}
    for i, one in enumerate(made):
        by_image.setdefault(one.image, []).append(i)
    watching = _Watching(stack, order, spec)
    results: dict[int, Mapping[Space, Compared]] = {}
    for image, members in by_image.items():
        found = _of_image(vlm, images, image, [rows[i] for i in members], watching)
        results.update(zip(members, found, strict=True))
    return [results[i] for i in range(len(asks))]


def _of_image(
    vlm: HfVlm, images: HfImages, image: int, rows: Sequence[_Row], watching: _Watching
) -> list[Mapping[Space, Compared]]:
    family, features = vlm.family, images.features[image]
    length = _shared(vlm, rows)
    held: dict[Key, torch.Tensor] = {}
    visual = partial(_visual, family.image_token_id)
    with watching(visual=[visual(rows[0].ids[:length])]) as watch:
        prefix = build_prefix(family, rows[0].ids[:length], features)
    if (outside := family.outside(features)) is not None:
        held = _outside(*outside, prefix, watching.order)
    elif length:
        held = watch.held
    vlm.language_positions += length

    def run(batch: Sequence[int]) -> list[Mapping[Space, Compared]]:
        suffixes = [rows[i].ids[length:] for i in batch]
        text = [[place - length for place in rows[i].text] for i in batch]
        with watching(text, [visual(suffix) for suffix in suffixes], held) as watch:
            last = [[len(suffix) - 1] for suffix in suffixes]
            prefill(family, prefix, suffixes, last, None if length else features, vlm.pad_id)
        vlm.language_positions += len(batch) * max(map(len, suffixes))
        return [_compared(found, watching.order) for found in watch.found]

    def failed(_: int, message: str) -> Mapping[Space, Compared]:
        raise MemoryError(message)

    results: dict[int, Mapping[Space, Compared]] = {}
    for group in vlm.paddable([Row(image, row.ids) for row in rows], list(range(len(rows)))):
        results.update(zip(group, vlm.batcher.map(group, run, failed), strict=True))
    return [results[i] for i in range(len(rows))]


def _visual(placeholder: int, ids: Sequence[int]) -> list[int]:
    """Where visual tokens stand in a sequence."""
    return [place for place, token in enumerate(ids) if token == placeholder]


def _shared(vlm: HfVlm, rows: Sequence[_Row]) -> int:
    """How many of their first tokens rows can share: those before any text that is compared, the whole image among
    them; 0 where it comes later, or the text changes what becomes of it."""
    if not vlm.sharing.settled(True).prefix:
        return 0
    length = min(prompts.common_prefix([row.ids for row in rows]), *(min(row.text) for row in rows))
    return 0 if vlm.family.image_token_id in rows[0].ids[length:] else length


def _outside(
    states: torch.Tensor, seen: torch.Tensor, prefix: Prefix, order: Mapping[Space, Sequence[str]]
) -> dict[Key, torch.Tensor]:
    """Visual tokens that cross-attention is given, in the place of every layer's, and their keys."""
    held: dict[Key, torch.Tensor] = {("hidden", name): states[seen, None] for name in order.get("hidden", ())}
    for name in order.get("query_key", ()):
        keys = prefix.held.layers[int(name)].keys
        if keys is None:
            raise NotSupported("keys of an image that stands behind its text are not known; put it first")
        held["query_key", name] = keys[0].transpose(0, 1)[seen.to(keys.device)]
    return held


def _compared(found: Mapping[Key, _Found], order: Mapping[Space, Sequence[str]]) -> dict[Space, Compared]:
    return {space: _joined([found[space, name] for name in names], tuple(names)) for space, names in order.items()}


def _joined(parts: Sequence[_Found], layers: tuple[str, ...]) -> Compared:
    def numpy(tensors: Sequence[torch.Tensor]) -> Any:
        # Layers may lie on different devices.
        return torch.stack([t.to(tensors[0].device) for t in tensors]).cpu().numpy()

    centred = [part.centred for part in parts if part.centred is not None]
    return Compared(
        layers,
        numpy([part.raw for part in parts]),
        numpy(centred) if centred else None,
        numpy([part.text for part in parts]),
        numpy([part.visual for part in parts]),
    )
