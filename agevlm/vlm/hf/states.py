"""How alike text tokens and visual tokens are inside a model: states seen by hooks, compared where they lie.

Visual tokens of the sequence are run once per image, with the prompt prefix that all its texts share, and kept layer by
layer while the texts run; where nothing is shared they run with each text. Only cosines and mean states leave the
device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from agevlm.errors import DataError, NotSupported
from agevlm.vlm.contract import Ask, Compared, Space, StateSpec
from agevlm.vlm.hf import prompts
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
    text: list[torch.Tensor] = field(default_factory=list)
    """For each row the positions of its text tokens; empty while an image runs by itself."""
    visual: list[torch.Tensor] = field(default_factory=list)
    """For each row the positions of its visual tokens, where the rows of this pass hold them."""
    held: dict[Key, torch.Tensor] = field(default_factory=dict)
    """(visual tokens, heads, size): of an image that ran before."""
    found: list[dict[Key, _Found]] = field(default_factory=list)
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


class _Stack:
    """The layers of a language model, and which of them have what."""

    def __init__(self, model: Any) -> None:
        inner = getattr(model, "model", model)
        stack = getattr(inner, "language_model", None) or getattr(inner, "text_model", None)
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


@contextmanager
def _watching(stack: _Stack, watch: _Watch) -> Iterator[_Watch]:
    hooks: list[Any] = []

    def states(key: Key) -> Callable[..., None]:
        def before(_: Any, args: Any, kwargs: Any) -> None:
            watch.see(key, _given(args, kwargs)[:, :, None])

        return before

    try:
        names, after = set(watch.order.get("hidden", ())), ("hidden", NORM)
        # What a layer is given is what the one before it has left, whatever the model adds in between.
        for index, module in enumerate([*stack.layers, stack.norm]):
            name = str(index - 1) if index else EMBEDDINGS
            if name in names:
                hooks.append(module.register_forward_pre_hook(states(("hidden", name)), with_kwargs=True))
        if NORM in names:
            hooks.append(
                stack.norm.register_forward_hook(lambda _, __, out: watch.see(("hidden", NORM), out[:, :, None]))
            )
        for name in watch.order.get("cross_output", ()):
            hooks += _outputs(stack.layers[int(name)], ("cross_output", name), watch)
        for name in watch.order.get("query_key", ()):
            hooks += _projections(stack.attention(int(name)), ("query_key", name), watch)
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


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
    stack = _Stack(vlm.model)
    layers: dict[Space, Sequence[str]] = {
        "hidden": stack.hidden(spec.layers),
        "cross_output": [str(i) for i in stack.crossing],
        "query_key": [str(i) for i in stack.projecting()],
    }
    order = {space: layers[space] for space in spec.spaces if layers[space]}
    by_image: dict[int, list[int]] = {}
    for i, (ask, chosen) in enumerate(zip(asks, wanted, strict=True)):
        if ask.image is None:
            raise ValueError("a text is compared with an image: the ask must name one")
        if not chosen:
            raise ValueError(f"no token of {ask.prompt[:60]!r} is to be compared")
        by_image.setdefault(ask.image, []).append(i)
    results: dict[int, Mapping[Space, Compared]] = {}
    for image, members in by_image.items():
        found = _of_image(
            vlm, images, image, [asks[i] for i in members], [wanted[i] for i in members], stack, order, spec
        )
        results.update(zip(members, found, strict=True))
    return [results[i] for i in range(len(asks))]


def _of_image(
    vlm: HfVlm,
    images: HfImages,
    image: int,
    asks: Sequence[Ask],
    wanted: Sequence[Sequence[int]],
    stack: _Stack,
    order: Mapping[Space, Sequence[str]],
    spec: StateSpec,
) -> list[Mapping[Space, Compared]]:
    family = vlm.family
    reuse = vlm.sharing.of(vlm, images, asks[0])
    features = images.features[image]
    if not reuse.image:
        raise NotSupported(
            f"images of this model of type {vlm.model.config.model_type!r} cannot be encoded apart from a prompt "
            f"({reuse.why}); their visual tokens are not known"
        )
    rows = [vlm._row(images, ask)[1] for ask in asks]
    # The text tokens of a prompt are those that are no placeholder, in order.
    places = [
        [[n for n, token in enumerate(row.ids) if token != family.image_token_id][i] for i in chosen]
        for row, chosen in zip(rows, wanted, strict=True)
    ]
    outside = family.outside(features)
    held: dict[Key, torch.Tensor] = {}
    length = 0
    if reuse.prefix:
        length = min(prompts.common_prefix([row.ids for row in rows]), *(min(p) for p in places))
        if family.image_token_id in rows[0].ids[length:]:
            length = 0
    if outside is not None:
        prefix = build_prefix(family, rows[0].ids[:length], features)
        held = _outside(*outside, prefix, order)
    elif length:
        ids = torch.tensor(rows[0].ids[:length])
        watch = _Watch(spec, order, visual=[(ids == family.image_token_id).nonzero().squeeze(1)])
        with _watching(stack, watch):
            prefix = build_prefix(family, rows[0].ids[:length], features)
        held = watch.held
    else:
        prefix = build_prefix(family, (), features)
    vlm.language_positions += length

    def run(batch: Sequence[int]) -> list[Mapping[Space, Compared]]:
        suffixes = [rows[i].ids[length:] for i in batch]
        watch = _Watch(
            spec,
            order,
            text=[torch.tensor(places[i]) - length for i in batch],
            visual=[(torch.tensor(s) == family.image_token_id).nonzero().squeeze(1) for s in suffixes],
            held=held,
            found=[{} for _ in batch],
        )
        last = [[len(s) - 1] for s in suffixes]
        with _watching(stack, watch):
            prefill(family, prefix, suffixes, last, None if length else features, vlm.pad_id)
        vlm.language_positions += len(batch) * max(map(len, suffixes))
        return [_compared(found, order) for found in watch.found]

    def failed(_: int, message: str) -> Mapping[Space, Compared]:
        raise MemoryError(message)

    results: dict[int, Mapping[Space, Compared]] = {}
    for group in vlm._paddable(rows, list(range(len(rows)))):
        results.update(zip(group, vlm.batcher.map(group, run, failed), strict=True))
    return [results[i] for i in range(len(rows))]


def _outside(
    states: torch.Tensor, seen: torch.Tensor, prefix: Prefix, order: Mapping[Space, Sequence[str]]
) -> dict[Key, torch.Tensor]:
    """Visual tokens that cross-attention is given, in the place of every layer's, and their keys."""
    held: dict[Key, torch.Tensor] = {("hidden", name): states[seen, None] for name in order.get("hidden", ())}
    for name in order.get("query_key", ()):
        keys = prefix.held.layers[int(name)].keys
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
