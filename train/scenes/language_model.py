"""What stands in for LLaMA's pretraining: a tiny LLaMA learns the words of the scenes world, without any picture.

Most of its texts describe a scene in words and then ask about it, so that it learns what the questions mean and to
answer from its context; the others ask without a description, so that it learns which answers are likely. A language
model without the first skill would make every comparison of ways to show it an image unfair.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from agevlm.scenes.language import (
    QUESTIONS,
    Facts,
    SceneQuestion,
    attributes,
    caption,
    described,
    draw_questions,
    draw_statements,
    in_words,
)

QUESTION_MIX = {"exist": 0.12, "count": 0.26, "color": 0.1, "relation": 0.22, "depth": 0.18, "distance": 0.12}
HARD_MIX = {"exist": 0.04, "count": 0.24, "color": 0.03, "relation": 0.44, "depth": 0.17, "distance": 0.08}
NEEDED = {"relation": "xy", "depth": "z", "distance": "xy"}
"""Attributes that a kind of question is about, as `attributes` names them."""


@dataclass(frozen=True)
class Phase:
    """What texts are like for a while."""

    share: float
    """Of all steps."""
    in_context: float
    """Share of texts that describe a scene and ask about it."""
    turns: int
    """Questions."""
    recalls: int
    """Attributes of objects to be looked up, beside the questions."""
    spelled: float = 0.0
    """Share of questions of relation, depth and distance in which the objects' places stand beside their names."""
    mix: Mapping[str, float] = field(default_factory=lambda: QUESTION_MIX)


PHASES = (
    Phase(0.12, 0.95, 1, 8),
    Phase(0.36, 0.92, 6, 1, 0.45, HARD_MIX),
    Phase(0.52, 0.75, 5, 1, 0.15),
)
"""One skill after the other: to look up whose attribute is which, to compare what was looked up, to do all of it.

Trained on the last phase alone, it learns neither in any time we have: whether a comparison is right says little about
which of many lookups was wrong.
"""


@dataclass(frozen=True)
class LanguageRecipe:
    """Sizes and schedule."""

    hidden: int = 128
    layers: int = 6
    heads: int = 4
    intermediate: int = 256
    spread: float = 0.08
    """Standard deviation of the initial weights: about 1 / sqrt(hidden). With LLaMA's 0.02 looking up comes late."""
    steps: int = 5000
    batch: int = 32
    lr: float = 2e-3
    phases: tuple[Phase, ...] = PHASES
    lettered: float = 0.15
    """Share of questions with lettered options."""
    other_weight: float = 0.1
    """Weight of tokens that are neither answers nor places spelled out in a question."""
    farthest: int = 160
    """Texts begin at a random position up to here: behind visual tokens they will not begin at 0."""


def turns_of(facts: Facts, draw: Random, phase: Phase, lettered: float) -> Iterator[tuple[str, str]]:
    """Questions and answers about a scene."""
    for question in draw_questions(facts, draw, dict(phase.mix), phase.turns):
        if question.kind in NEEDED and draw.random() < phase.spelled:
            yield spelled(facts, question), question.answer
            continue
        asked = question.lettered() if question.kind != "exist" and draw.random() < lettered else question
        yield asked.question.text, asked.answer


def spelled(facts: Facts, question: SceneQuestion) -> str:
    """A question with the places of its objects: "Which object is closer to the camera, the dog z4 or the cat z9?"."""
    text = question.question.text
    for mention in reversed(question.question.mentions):
        known = attributes(facts, facts.instances[mention.instances[0]])
        words = " ".join(known[name] for name in NEEDED[question.kind])
        text = f"{text[: mention.end]} {words}{text[mention.end :]}"
    return text


def recalls(facts: Facts, objects: Sequence[str], draw: Random, count: int) -> Iterator[tuple[str, str]]:
    """Things to be looked up in the context: an object's whole description, or the one attribute that is asked for.

    Which noun an attribute belongs to is what a small model does not learn from questions alone, in any time we have.
    """
    for i in draw.choices(facts.single, k=count) if facts.single else ():
        thing = facts.instances[i]
        if draw.random() < 0.5:
            yield f"the {thing.category}?", objects[i]
        else:
            name, word = draw.choice(list(attributes(facts, thing).items()))
            yield f"the {thing.category} {name}?", word


def conversation(facts: Facts, draw: Random, phase: Phase, lettered: float) -> list[tuple[str, str]]:
    """One text: pairs of what the user and the assistant say."""
    if draw.random() < phase.in_context:
        turns = list(turns_of(facts, draw, phase, lettered))
        if turns:
            objects = described(facts, draw)
            turns += recalls(facts, objects, draw, phase.recalls)
            draw.shuffle(turns)
            turns[0] = (f"{in_words(facts, draw, objects)} {turns[0][0]}", turns[0][1])
            return turns
    blind = replace(phase, spelled=0.0)
    if draw.random() < 0.6 and (turns := list(turns_of(facts, draw, blind, lettered))):
        return turns
    if draw.random() < 0.5:
        return [("Describe the image.", caption(facts, draw).text)]
    return [("Describe the image.", " ".join(s.text.text for s in draw_statements(facts, draw, 6)))]


def as_text(turns: Sequence[tuple[str, str]]) -> str:
    """As the chat template writes it."""
    return "<s>" + "".join(f"<user>{asked}<assistant>{said}</s>" for asked, said in turns)


def encode(tokenizer: Any, texts: Sequence[str]) -> tuple[Any, Any, Any]:
    """Token ids (rows, length), attention mask, and True where the assistant speaks (its end token included)."""
    import torch

    rows = [e.ids for e in tokenizer._tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    length = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows])
    mask = (ids != tokenizer.pad_token_id).long()
    speaks, end = (tokenizer.convert_tokens_to_ids(t) for t in ("<assistant>", "</s>"))
    opened, closed = (ids == speaks).cumsum(1), (ids == end).cumsum(1)
    answers = (opened > closed - (ids == end).long()) & (ids != speaks)
    return ids, mask, answers


def pretrain_language(
    facts: Sequence[Facts],
    out: Path,
    recipe: LanguageRecipe,
    seed: int,
    held_out: Sequence[Facts] = (),
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train and save the language model under `out`; returns the accuracy of its answers from context, by kind."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from train.scenes.words import build_tokenizer

    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            intermediate_size=recipe.intermediate,
            initializer_range=recipe.spread,
            vocab_size=len(tokenizer),
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            # PyTorch's fused attention is slow backwards on a CPU at such sizes.
            attn_implementation="eager",
        )
    )
    decayed = [p for p in model.parameters() if p.dim() > 1]
    other = [p for p in model.parameters() if p.dim() < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": other, "weight_decay": 0.0}],
        lr=recipe.lr,
        betas=(0.9, 0.98),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: _rate(k, recipe.steps))
    draw = Random(seed)
    # Behind the description's full stop a place is spelled out: to predict it, it must be looked up at the noun.
    stop = tokenizer.convert_tokens_to_ids(".")
    places = torch.tensor([_is_place(word) for word in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))])
    pool: list[str] = []
    started, running = time.process_time(), 0.0
    for step in range(recipe.steps):
        if not pool:
            now = phase_at(recipe.phases, step / recipe.steps)
            texts = [
                as_text(conversation(draw.choice(facts), draw, now, recipe.lettered)) for _ in range(16 * recipe.batch)
            ]
            texts.sort(key=lambda t: t.count(" "))
            pool = texts
        # Texts of like length together: little padding.
        at = draw.randrange(len(pool) // recipe.batch) * recipe.batch
        texts, pool[at : at + recipe.batch] = pool[at : at + recipe.batch], []
        ids, mask, answers = encode(tokenizer, texts)
        positions = torch.arange(ids.shape[1]) + draw.randrange(recipe.farthest + 1)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids, attention_mask=mask, position_ids=positions[None]).logits
        told = answers | (((ids == stop).cumsum(1) > 0) & places[ids])
        weight = torch.where(told, 1.0, recipe.other_weight) * mask
        each = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        loss = (each * weight[:, 1:].flatten()).sum() / weight[:, 1:].sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            said = (each * answers[:, 1:].flatten()).sum() / answers[:, 1:].sum()
        running = float(said) if step == 0 else 0.98 * running + 0.02 * float(said)
        if (step + 1) % 100 == 0:
            say(
                f"language {step + 1}/{recipe.steps}: loss of answers {running:.3f}, "
                f"{time.process_time() - started:.0f} CPU s"
            )
        if (step + 1) % 500 == 0 and held_out:
            scores = in_context_accuracy(model, tokenizer, held_out[:200], seed)
            say("  " + ", ".join(f"{k} {v:.2f}" for k, v in scores.items()))
    scores = in_context_accuracy(model, tokenizer, held_out, seed) if held_out else {}
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return scores


def phase_at(phases: Sequence[Phase], done: float) -> Phase:
    """The phase after a share of all steps; the last one where shares are used up."""
    for phase in phases:
        if done < phase.share:
            return phase
        done -= phase.share
    return phases[-1]


def _is_place(word: str) -> bool:
    return len(word) > 1 and word[0] in "xyz" and word[1:].isdigit()


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def in_context_accuracy(
    model: Any, tokenizer: Any, facts: Sequence[Facts], seed: int, described: bool = True
) -> dict[str, float]:
    """Share of right answers among each question's options, by their first token; asked alone, after the scene in words
    (or not)."""
    import torch

    draw, texts, kinds, offered = Random(f"{seed}"), [], [], []
    for one in facts:
        for kind in QUESTIONS:
            for question in draw_questions(one, draw, {kind: 1.0}, 1):
                before = f"{in_words(one, draw)} " if described else ""
                texts.append(as_text([(before + question.question.text, question.answer)]))
                kinds.append(kind)
                offered.append(tokenizer(list(question.options), add_special_tokens=False)["input_ids"])
    right: dict[str, list[bool]] = {}
    model.eval()
    for at in range(0, len(texts), 64):
        ids, mask, answers = encode(tokenizer, texts[at : at + 64])
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits
        first = answers.long().argmax(1)
        for row, (kind, options) in enumerate(zip(kinds[at : at + 64], offered[at : at + 64], strict=True)):
            begins = [option[0] for option in options]
            guess = begins[int(logits[row, first[row] - 1, begins].argmax())]
            right.setdefault(kind, []).append(guess == int(ids[row, first[row]]))
    model.train()
    return {kind: sum(oks) / len(oks) for kind, oks in right.items()}
