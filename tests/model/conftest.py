"""Tiny models whose gates are open and whose answers depend on the image, and inputs for them.

Sizes differ wherever they can (rows, heads, key heads, visual tokens, head size), so that no axis passes for another.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from agevlm.model import AgeVlmConfig, AgeVlmForConditionalGeneration, AgeVlmTextConfig, AgeVlmVisionConfig

SIDE, TOKENS = 96, 9
"""Pixels of an image's side, and visual tokens: 3 x 3."""
IMAGE_TOKEN = 3
FIRST_WORD, WORDS = 4, 97
CONTEXT = 256

SPREAD, SHARP = 0.25, 3.0
"""Wide enough that answers do not repeat one word."""

IMAGE_MATTERS = 0.5
"""Another image must move some logit by this much, or equality would say nothing. Logits spread by about 1."""


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@cache
def tiny_vision(architecture: str = "convnext_atto", num_stages: int | None = None) -> AgeVlmVisionConfig:
    return AgeVlmVisionConfig.from_timm(
        architecture,
        image_size=SIDE,
        num_stages=num_stages,
        model_args={"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 32]}
        | ({} if "v2" in architecture else {"ls_init_value": 1.0}),
    )


def tiny_text(**changes: Any) -> AgeVlmTextConfig:
    sizes = {
        "vocab_size": WORDS,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 6,
        "cross_attention_layers": [1, 4],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.15,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return AgeVlmTextConfig(**sizes | changes)


def tiny_config(text: dict[str, Any] | None = None, **changes: Any) -> AgeVlmConfig:
    if changes.get("fusion") == "concat":
        text = {"num_hidden_layers": 4, "cross_attention_layers": []} | (text or {})
        changes = {"image_token_id": IMAGE_TOKEN} | changes
    changes = {"vision_config": tiny_vision(), "initializer_range": 0.15} | changes
    return AgeVlmConfig(text_config=tiny_text(**text or {}), **changes)


def build(config: AgeVlmConfig, attention: str = "sdpa", seed: int = 0) -> AgeVlmForConditionalGeneration:
    """A random model, in which every weight takes part."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AgeVlmForConditionalGeneration._from_config(config, attn_implementation=attention).eval()
        wake(model)
    # Answers of a fixed length, unless a test wants an end.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    if config.fusion == "concat":
        # Without a cache, an image token that the model says itself would be one too many.
        model.generation_config.suppress_tokens = [IMAGE_TOKEN]
    return model


@torch.no_grad()
def wake(model: nn.Module) -> None:
    """Open gates (each by another amount), uneven norms, and layers wide enough for the image to reach the logits."""
    opened = 0
    for name, weight in model.named_parameters():
        last = name.split(".")[-1]
        if last in ("attn_gate", "mlp_gate"):
            weight.fill_((0.9, -0.5, 0.7, 0.6)[opened % 4])
            opened += 1
        elif "norm" in name and last == "weight":
            # Sharp looks: another word sees other visual tokens.
            weight.copy_((SHARP if "q_norm" in name else 1) + 0.3 * torch.randn_like(weight))
        elif "adapter" in name and "linear" in name:
            weight.normal_(0, 1.5 * weight.shape[-1] ** -0.5)
        elif "vision_tower" in name and weight.dim() > 1:
            weight.normal_(0, 1.5 * weight[0].numel() ** -0.5)
        elif last == "bias":
            weight.normal_(0, 0.1)
        elif "language_model" in name and weight.dim() > 1:
            weight.normal_(0, SPREAD)


def close_gates(model: nn.Module) -> None:
    for name, weight in model.named_parameters():
        if name.endswith(("attn_gate", "mlp_gate")):
            weight.data.zero_()


def words(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randint(FIRST_WORD, WORDS, (rows, length), generator=generator)


def pixels(images: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(images, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2000 + seed))


class Ragged(NamedTuple):
    """Questions of several lengths in one padded batch, and each by itself."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    rows: list[torch.Tensor]


def ragged(lengths: list[int], side: str = "left", seed: int = 0) -> Ragged:
    rows = [words(1, n, seed + i) for i, n in enumerate(lengths)]
    ids = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        n = row.shape[1]
        at = slice(-n, None) if side == "left" else slice(n)
        ids[i, at], mask[i, at] = row[0], 1
    return Ragged(ids, mask, rows)


def with_image_tokens(ids: torch.Tensor, at: int = 1) -> torch.Tensor:
    """For concat: the same text with room for one image in each row."""
    room = torch.full((len(ids), TOKENS), IMAGE_TOKEN)
    return torch.cat([ids[:, :at], room, ids[:, at:]], dim=1)


@torch.no_grad()
def assert_the_image_matters(model: AgeVlmForConditionalGeneration) -> None:
    ids = words(2, 7)
    if model.config.fusion == "concat":
        ids = with_image_tokens(ids)
    one, other = (model(ids, pixel_values=pixels(2, seed)).logits for seed in (0, 1))
    moved = (one - other).abs().amax((1, 2))
    assert bool((moved > IMAGE_MATTERS).all()), f"these tests say nothing: another image moves logits by {moved} only"


@pytest.fixture(scope="session")
def vlm() -> Callable[..., AgeVlmForConditionalGeneration]:
    """vlm(attention="eager", mask_padding=True, ...): a model in which the image matters; tests leave it as it is."""
    known: dict[tuple, AgeVlmForConditionalGeneration] = {}

    def get(attention: str = "sdpa", **changes: Any) -> AgeVlmForConditionalGeneration:
        key = (attention, *sorted(changes.items()))
        if key not in known:
            known[key] = build(tiny_config(**changes), attention)
            assert_the_image_matters(known[key])
        return known[key]

    return get


@pytest.fixture
def fresh() -> Callable[..., AgeVlmForConditionalGeneration]:
    """The same for tests that change the model: fresh(text={...}, attention=..., fusion=..., ...)."""

    def get(text: dict[str, Any] | None = None, attention: str = "sdpa", **changes: Any):
        model = build(tiny_config(text, **changes), attention)
        assert_the_image_matters(model)
        return model

    return get


class Answer(NamedTuple):
    tokens: torch.Tensor
    """(rows, new tokens)."""
    scores: torch.Tensor
    """(rows, new tokens, vocabulary): logits before any sampling; (rows,) with beams."""


def answer(model, ids: torch.Tensor, new: int = 6, **settings: Any) -> Answer:
    """Greedy unless told otherwise. No word is taken for padding, whatever the model said before."""
    settings = {"do_sample": False, "max_new_tokens": new, "attention_mask": torch.ones_like(ids)} | settings
    output = model.generate(ids, return_dict_in_generate=True, output_logits=True, output_scores=True, **settings)
    beams = getattr(output, "sequences_scores", None)
    scores = torch.stack(output.logits, dim=1) if beams is None else beams
    return Answer(output.sequences[:, ids.shape[1] :], scores)


def join(answers: list[Answer]) -> Answer:
    return Answer(torch.cat([a.tokens for a in answers]), torch.cat([a.scores for a in answers]))


def assert_same(one: Answer, other: Answer, tolerance: float = 2e-4) -> None:
    assert one.tokens.tolist() == other.tokens.tolist()
    torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=tolerance)


def assert_differs(one: Answer, other: Answer) -> None:
    """A control: what the test varies does matter."""
    assert one.scores.shape != other.scores.shape or float((one.scores - other.scores).abs().max()) > 0.05
