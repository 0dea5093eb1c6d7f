"""What a model says of fixed texts without any image, beside its base language model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agevlm.errors import CheckpointError, DataError
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.fingerprint import fingerprint_folder
from analysis.failure_signs.signs import Measurement
from benchmarks.statistics.clusters import expanded_percentile_interval, resampling_weights

MEASURE = "perplexity"
LONGEST = 512
"""Tokens of a text that are looked at."""
CAUSAL = 0.05
"""By so much of their spread logits may change on average when the text goes on; more, and they saw what follows."""


@dataclass(frozen=True)
class Loss:
    """One text as a model predicts it from its beginning."""

    nats: float
    """Summed cross-entropy of its tokens."""
    tokens: int
    bytes: int


Losses = Mapping[str, Loss]
"""By text; texts with words that the tokenizer does not know are not in it."""


@dataclass(frozen=True)
class Spoken:
    """What one model says of texts alone."""

    losses: Losses
    """Of the given texts."""
    before: tuple[Loss, ...] = ()
    """Of the texts in the checkpoint's own record, by the model that its training began with."""
    after: tuple[Loss, ...] = ()
    """Of the same texts by the model itself."""
    identical: bool = False
    """Every logit of these is the same."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @staticmethod
    def from_json(held: Mapping[str, Any]) -> Spoken:
        """From `to_json`."""
        before, after = (tuple(Loss(**one) for one in held[name]) for name in ("before", "after"))
        return Spoken({text: Loss(**one) for text, one in held["losses"].items()}, before, after, held["identical"])


def default_texts(model: ModelChoice) -> tuple[str, ...]:
    """The sentences that training checks; for models of the scenes world those that its training checks there, in the
    words that they know."""
    import train
    from train.language import TEXTS

    if not model.name.startswith("scenes/"):
        return TEXTS
    import yaml

    stage = Path(train.__file__).parent / "stages" / "scenes" / "base.yaml"
    return tuple(yaml.safe_load(stage.read_text(encoding="utf-8"))["language_texts"])


def read_texts(path: Path) -> tuple[str, ...]:
    """A text a line. Raises DataError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--texts {path}: cannot be read as UTF-8 text: {error}") from None
    texts = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(texts) < 2:
        raise DataError(f"--texts {path}: {len(texts)} texts; give at least 2, one a line")
    return texts


def key_of(identity: str, texts: Sequence[str], folder: Path | None) -> str:
    """Says by content what was measured: model, texts, and its training's record."""
    from train.language import FILE

    record = folder / FILE if folder is not None else None
    held = record.read_bytes() if record is not None and record.is_file() else b""
    return hashlib.sha256(repr((identity, list(texts), hashlib.sha256(held).hexdigest())).encode()).hexdigest()[:24]


def speak(model: ModelChoice, texts: Sequence[str]) -> Spoken:
    """Load a model and let it predict texts, and those of its training's record if it has one.

    Raises:
        CheckpointError: it cannot be loaded, or its record is damaged.
        DataError: it does not read texts from the left to the right, or has no token to begin with.
    """
    import torch

    from train.language import FILE, load_reference

    folder = model.folder()
    reference = None if folder is None else load_reference(folder)
    vlm: Any = model.load()
    try:
        with torch.inference_mode():
            forward = _forward(vlm.model)
            found = losses(forward, vlm.tokenizer, texts)
            if reference is None:
                return Spoken(found)
            now = [forward(ids.tolist()) for ids in reference.tokens]
    finally:
        vlm.close()
    pairs = list(zip(reference.logits, now, reference.tokens, reference.texts, strict=True))
    if any(old.shape != new.shape for old, new, _, _ in pairs):
        raise CheckpointError(f"{model.name}: its training's record is of another vocabulary; delete {folder}/{FILE}")
    identical = all(torch.equal(old.float(), new.float()) for old, new, _, _ in pairs)
    before, after = (
        tuple(Loss(_nats(both[side][:-1], both[2][1:]), len(both[2]) - 1, len(both[3].encode())) for both in pairs)
        for side in (0, 1)
    )
    return Spoken(found, before, after, identical)


def base_identity(name: str, dtype: str) -> str:
    """The base model by content. Raises CheckpointError."""
    from agevlm.data.checkpoint_files import check_weights, find_folder, read_config

    where = f"--base {name}"
    folder = find_folder(name, where)
    read_config(folder, where)
    check_weights(folder, where)
    return fingerprint_folder(folder, {"dtype": dtype}, None).digest


def base_losses(name: str, like: ModelChoice, texts: Sequence[str]) -> Losses:
    """Losses of a language model, or of a vision-language model shown no image.

    Args:
        name: a folder or hub id.
        like: whose dtype and device are taken.
        texts: to predict.

    Raises:
        CheckpointError: it cannot be loaded.
        DataError: as for `speak`.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from agevlm.data.checkpoint_files import find_folder, read_config
    from agevlm.model.pretrained import refuse_incomplete
    from agevlm.vlm.hf.checkpoint import find_device, to_device
    from agevlm.vlm.hf.table import family_class

    where = f"--base {name}"
    folder = find_folder(name, where)
    try:
        family_class(read_config(folder, where))
    except CheckpointError:
        pass
    else:
        return speak(ModelChoice(name, dtype=like.dtype, device=like.device), texts).losses
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, like.dtype), use_safetensors=True, output_loading_info=True
        )
    except Exception as error:
        raise CheckpointError(f"{where}: cannot load as a language model: {type(error).__name__}: {error}") from error
    refuse_incomplete(info, where)
    with torch.inference_mode():
        return losses(_forward(to_device(model, where, find_device(like.device))), tokenizer, texts)


def losses(forward: Callable[[list[int]], Any], tokenizer: Any, texts: Sequence[str]) -> dict[str, Loss]:
    """Every token of each text predicted from those before it, the first from the token that begins a text.

    Args:
        forward: token ids to logits (length, vocabulary).
        tokenizer: of the model. A text begins with its BOS token, or where it has none with its EOS token.
        texts: at least one.

    Raises:
        DataError: there is no such token, or what follows a token changes its logits.
    """
    import torch

    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise DataError("the tokenizer has neither a BOS nor an EOS token that a text could begin with")
    found: dict[str, Loss] = {}
    longest: list[int] = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:LONGEST]
        if not ids or (tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids):
            continue
        whole = [start, *ids]
        longest = max(longest, whole, key=len)
        said = tokenizer.decode(ids) if len(ids) == LONGEST else text
        found[text] = Loss(_nats(forward(whole)[:-1], torch.tensor(ids)), len(ids), len(said.encode()))
    if longest:
        half = len(longest) // 2 + 1
        short, long = forward(longest[:half]), forward(longest)[:half]
        if float((short - long).abs().mean()) > CAUSAL * float(long.std()):
            raise DataError("it reads a text in both directions: there is no perplexity of one token after another")
    return found


def _forward(model: Any) -> Callable[[list[int]], Any]:
    import torch

    def forward(ids: list[int]) -> Any:
        return model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0].float().cpu()

    return forward


def _nats(logits: Any, ids: Any) -> float:
    from torch.nn.functional import cross_entropy

    return float(cross_entropy(logits.float(), ids, reduction="sum"))


def language_sign(spoken: Spoken, base: Losses | None, *, draws: int, seed: int) -> Measurement:
    """Perplexity over the base model's, and perplexity per byte beside it. Pure.

    exp of (nats of the model - nats of the base) over the base's tokens: with one tokenizer the ratio of perplexities
    per token; with two the same texts cost both, so that the ratio is per token of the base.

    Args:
        spoken: of the model.
        base: of the base model; None where none was given. The checkpoint's own record comes before it.
        draws: of the bootstrap over texts.
        seed: of the draws.
    """
    per_byte = _perplexity(tuple(spoken.losses.values()))
    if spoken.before:
        same = "; every logit the same" if spoken.identical else ""
        note = _joined(f"against the model that its training began with{same}", per_byte)
        return _ratio(spoken.after, spoken.before, note, draws, seed)
    if not spoken.losses:
        return Measurement(note="its tokenizer does not know the words of the texts; give others with --texts FILE")
    n = f"{len(spoken.losses)} texts"
    if base is None:
        why = "the checkpoint has no record of its training's beginning; give its language model with --base"
        return Measurement(n=n, note=_joined(why, per_byte))
    both = [text for text in spoken.losses if text in base]
    if len(both) < 2:
        return Measurement(n=n, note=_joined("the base does not know the words of the texts", per_byte))
    mine, theirs = ([held[text] for text in both] for held in (spoken.losses, base))
    other = any(a.tokens != b.tokens for a, b in zip(mine, theirs, strict=True))
    kind = "against --base, which has another tokenizer: per token of its own" if other else "against --base"
    return _ratio(mine, theirs, _joined(kind, f"{per_byte}; base: {_perplexity(theirs)}"), draws, seed)


def _ratio(mine: Sequence[Loss], theirs: Sequence[Loss], note: str, draws: int, seed: int) -> Measurement:
    more = np.array([a.nats - b.nats for a, b in zip(mine, theirs, strict=True)])
    tokens = np.array([b.tokens for b in theirs], np.float64)
    weights = resampling_weights(len(more), draws, seed)
    value = float(np.exp(more.sum() / tokens.sum()))
    low, high = expanded_percentile_interval(np.exp((weights @ more) / (weights @ tokens)), len(more))
    limits = [float(v) if np.isfinite(v) else None for v in (low, high)]
    return Measurement(value, limits[0], limits[1], f"{len(more)} texts", note)


def _perplexity(told: Sequence[Loss]) -> str:
    """Per token and per byte, which compares across tokenizers."""
    if not told:
        return ""
    nats = sum(one.nats for one in told)
    token, byte = (math.exp(nats / count) for count in (sum(o.tokens for o in told), sum(o.bytes for o in told)))
    return f"perplexity {token:.2f} per token, {byte:.3f} per byte"


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
