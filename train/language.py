"""What a stage does to the language model: its logits on fixed texts, without any image, before and after.

While LLaMA is frozen and no image is shown, cross-attention is shut: not a bit may change. Where LLaMA is trained,
perplexity says how much it forgot.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agevlm.errors import CheckpointError, DataError, TrainError
from train.spec import StageSpec

FILE = "language.safetensors"
REPORT = "language.json"
LONGEST = 64
"""Tokens of a text that are looked at."""
TEXTS = (
    "The train to the coast leaves at half past nine, so we should have breakfast early.",
    "She put the letter back into the drawer and looked out of the window for a long time.",
    "Water boils at a lower temperature in the mountains because the air pressure is lower.",
    "My neighbour grows tomatoes on his balcony and gives us more of them than we can eat.",
    "To open the file, choose the folder on the left and press the button below the list.",
    "In the year that followed, the town built a bridge, a school and two new markets.",
    "Could you tell me how to get to the library? It must be somewhere near the station.",
    "Two and two are four, and nobody at the table wanted to argue about it.",
)
"""Everyday English of nobody's; the point is that they stay the same."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Logits of the model that all stages began with."""

    texts: tuple[str, ...]
    tokens: tuple[Any, ...]
    """Per text (length,) long."""
    logits: tuple[Any, ...]
    """Per text (length, vocabulary), in the model's dtype, on the CPU."""


@dataclass(frozen=True)
class LanguageReport:
    """The language model before a stage, and after it."""

    frozen: bool
    identical: bool
    """Every logit is the same, bit for bit."""
    largest_difference: float
    perplexity_before: float
    """exp of the mean cross-entropy of the texts' tokens."""
    perplexity_after: float
    perplexity_untrained: float | None = None
    """Of the model that all stages began with, where it is known."""

    def line(self) -> str:
        """In one line."""
        if self.identical:
            return (
                f"language: unchanged, every logit of text alone bit for bit (perplexity {self.perplexity_after:.2f})"
            )
        began = "" if self.perplexity_untrained is None else f"{self.perplexity_untrained:.2f} before all stages, "
        return (
            f"language: perplexity of text alone {began}{self.perplexity_before:.2f} before this one, "
            f"{self.perplexity_after:.2f} now"
        )


def language_reference(model: Any, tokenizer: Any, texts: Sequence[str] = TEXTS) -> Reference:
    """Logits of a model on texts alone.

    Args:
        model: an `AgeVlmForConditionalGeneration`, on any device.
        tokenizer: its tokenizer.
        texts: at least one, of two tokens or more.

    Raises:
        DataError: a text without two tokens.
    """
    import torch

    tokens = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"][0][:LONGEST]
        if len(ids) < 2:
            raise DataError(f"language check: the text {text!r} has fewer than two tokens")
        tokens.append(ids.to(torch.long))
    if not tokens:
        raise DataError("language check: no text")
    return Reference(tuple(texts), tuple(tokens), tuple(_logits(model, ids) for ids in tokens))


def _logits(model: Any, ids: Any) -> Any:
    """(length, vocabulary) of one text. One text at a time: padding would change how numbers are summed."""
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(input_ids=ids[None].to(model.device), use_cache=False).logits[0].cpu()
    finally:
        model.train(training)


def check_language(model: Any, reference: Reference, frozen: bool) -> LanguageReport:
    """Compare a model with a reference of what it was before.

    Args:
        model: on the device and in the dtype that the reference was made with, or frozen ones would differ too.
        reference: of the earlier model.
        frozen: its language model was not trained since.

    Raises:
        TrainError: frozen, and a logit differs.
    """
    import torch

    now = [_logits(model, ids) for ids in reference.tokens]
    pairs = list(zip(reference.logits, now, strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        raise TrainError(
            f"language check: logits of {pairs[0][1].shape[-1]} tokens, but of {pairs[0][0].shape[-1]} before: "
            "another vocabulary; start again from stage 0"
        )
    identical = all(torch.equal(a, b) for a, b in pairs)
    differences = [float((a.float() - b.float()).abs().max()) for a, b in pairs]
    worst = max(range(len(differences)), key=lambda i: math.inf if math.isnan(differences[i]) else differences[i])
    if frozen and not identical:
        raise TrainError(
            "language check: the language model is frozen, but what it says of text alone has changed: the largest "
            f"difference of a logit is {differences[worst]:.3g}, in {reference.texts[worst]!r}"
        )
    before, after = perplexity(reference), _perplexity(reference.tokens, now)
    return LanguageReport(frozen, identical, differences[worst], before, after)


def perplexity(reference: Reference) -> float:
    """exp of the mean cross-entropy of all tokens but each text's first."""
    return _perplexity(reference.tokens, reference.logits)


def _perplexity(tokens: Sequence[Any], logits: Sequence[Any]) -> float:
    from torch.nn.functional import cross_entropy

    total = sum(
        float(cross_entropy(o[:-1].float(), t[1:], reduction="sum")) for t, o in zip(tokens, logits, strict=True)
    )
    mean = total / sum(len(t) - 1 for t in tokens)
    return math.exp(mean) if mean < 700 else math.inf


def save_reference(reference: Reference, folder: Path) -> Path:
    """Write a reference into a model's folder."""
    from safetensors.torch import save_file

    tensors = {f"tokens.{i}": t for i, t in enumerate(reference.tokens)}
    tensors |= {f"logits.{i}": t.contiguous() for i, t in enumerate(reference.logits)}
    save_file(tensors, folder / FILE, {"texts": json.dumps(reference.texts)})
    return folder / FILE


def load_reference(folder: Path) -> Reference | None:
    """The reference in a model's folder; None where there is none. Raises CheckpointError if it is damaged."""
    from safetensors import SafetensorError, safe_open

    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            texts = tuple(json.loads(opened.metadata()["texts"]))
            numbers = range(len(texts))
            tokens = tuple(opened.get_tensor(f"tokens.{i}") for i in numbers)
            return Reference(texts, tokens, tuple(opened.get_tensor(f"logits.{i}") for i in numbers))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: damaged: {error}; copy it from the stage before, or delete it") from None


def write_report(report: LanguageReport, folder: Path) -> Mapping[str, Any]:
    """Write language.json into a run folder."""
    values = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in asdict(report).items()}
    (folder / REPORT).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return values


def after_stage(spec: StageSpec, model: Path, run: Path) -> LanguageReport | None:
    """Check a stage that is over, write language.json, and hand the first reference on into the model's folder.

    Both models run on the CPU in float32, wherever they were trained: what is compared was made alike.

    Args:
        spec: of the stage.
        model: folder of the trained model.
        run: folder of the stage's run.

    Returns:
        The report; None where `init_from` is gone.

    Raises:
        TrainError: the stage trains nothing of the language model, and yet it says something else.
    """
    from train.weights import load

    start = Path(spec.init_from).expanduser()
    if not (start / "config.json").is_file():
        return None
    first = load_reference(start)
    earlier, processor = load(start)
    texts = (spec.language_texts or TEXTS) if first is None else first.texts
    before = language_reference(earlier, processor.tokenizer, texts)
    del earlier
    trained, _ = load(model)
    report = check_language(trained, before, not trains_language(trained, spec))
    first = first or before
    save_reference(first, model)
    report = replace(report, perplexity_untrained=perplexity(first))
    write_report(report, run)
    return report


def trains_language(model: Any, spec: StageSpec) -> bool:
    """Whether a stage trains any weight that the language model had before it could see."""
    from train.freezing import trainable_names

    crossing = {f"model.language_model.layers.{i}." for i in model.config.text_config.cross_attention_layers}
    return any(
        name.startswith(("model.language_model.", "lm_head.")) and not name.startswith(tuple(crossing))
        for name in trainable_names(model, spec.trainable)
    )


def carry(run: Path, model: Path) -> None:
    """Hand the reference of a run's finished model, or of what it started from, on to an exported one."""
    record = run / "run.json"
    starts = [run / "model"]
    if record.is_file():
        starts.append(Path(json.loads(record.read_text(encoding="utf-8"))["init_from"]))
    for folder in starts:
        if (reference := load_reference(folder)) is not None:
            save_reference(reference, model)
            return
