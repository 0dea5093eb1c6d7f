"""How fast the suite is, and that its speed changes no answer: `python -m benchmarks.speed`.

One process and one model object answer POPE-like questions in four ways, in alternating order image by image, all
warmed up; then answers to all of POPE's questions are scored in fresh processes. `docs/speed.md` says what the numbers
do and do not claim.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    # torch takes seconds to import; the processes that only score must not pay for it
    from rich.console import Console

    from agevlm.checkpoints.tiny import TinyLlava
    from agevlm.vlm.hf.session import HfVlm
    from benchmarks.pope.score import Answered

SPLITS = ("random", "popular", "adversarial")
PER_IMAGE = 18
DISTINCT_NEGATIVES = 7.25
"""Mean per image, of nine rows; with three positives POPE has 10.25 distinct questions in its 18 rows."""
OBJECTS = (
    "person", "umbrella", "dining table", "sports ball", "traffic light", "backpack", "bicycle", "chair", "car", "bus",
    "dog", "cat", "cup", "bottle", "bowl", "book",
)  # fmt: skip
"""Names that the tiny checkpoints' tokenizer holds whole, so that a question has about as many tokens as usual."""
PACKAGES = ("agevlm", "torch", "transformers", "tokenizers", "numpy", "pillow")
SCORING_AIM_SECONDS = 2.0


# --- the questions ----------------------------------------------------------------------------------------------------


def question_rows(index: int) -> list[str]:
    """The 18 questions of one image: three positives, repeated in every split, and negatives that splits partly share.

    Over images the distinct ones average `3 + DISTINCT_NEGATIVES`.
    """
    import random

    negatives = int((index + 1) * DISTINCT_NEGATIVES) - int(index * DISTINCT_NEGATIVES)
    objects = random.Random(index).sample(OBJECTS, 3 + negatives)
    positive, negative = objects[:3], objects[3:]
    # nine places, of which the last ones repeat a negative of an earlier split
    places = (negative + negative)[:9]
    return [
        f"Is there {'an' if name[0] in 'aeiou' else 'a'} {name} in the image?"
        for split in range(len(SPLITS))
        for name in positive + places[3 * split : 3 * split + 3]
    ]


def picture(index: int) -> bytes:
    """A seeded 640 x 480 JPEG file: soft colours under fine noise, so that it is neither flat nor incompressible."""
    import io

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(index)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (640, 480), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(coarse, dtype=np.int64) + rng.integers(-12, 13, (480, 640, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


# --- the sides --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """One answer: the generated token ids, end token included, and their text."""

    ids: tuple[int, ...]
    text: str


Side = Callable[["HfVlm", bytes, Sequence[str], int], list[Said]]


def _decode(jpeg: bytes) -> Any:
    from agevlm.data.images import EncodedFile, decode

    return decode(EncodedFile("picture.jpg", jpeg))


def _settings(vlm: HfVlm, limit: int) -> dict[str, Any]:
    """Arguments that make `generate` greedy; nothing is asked for that a harness would not need."""
    from agevlm.vlm.hf.session import LOGIT_SETTINGS

    config = vlm.model.generation_config
    neutral = {k: n[-1] for k, n in LOGIT_SETTINGS.items() if getattr(config, k, None) not in n}
    greedy = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    return {**greedy, "max_new_tokens": limit, "pad_token_id": vlm.pad_id, **neutral}


def _said(vlm: HfVlm, ids: Sequence[int]) -> Said:
    return Said(tuple(ids), vlm.tokenizer.decode(ids, skip_special_tokens=True))


def plain(vlm: HfVlm, jpeg: bytes, prompts: Sequence[str], limit: int) -> list[Said]:
    """What harnesses do: decode, preprocess, encode and `generate` for each question, with nothing shared."""
    from agevlm.vlm.hf.prompts import add_special_tokens, render

    answers = []
    for prompt in prompts:
        text = render(vlm.processor, prompt, with_image=True)
        inputs = vlm.processor(
            text=text,
            images=_decode(jpeg),
            return_tensors="pt",
            add_special_tokens=add_special_tokens(vlm.tokenizer, text),
        ).to(vlm.model.device, vlm.model.dtype)
        output = vlm.model.generate(**inputs, **_settings(vlm, limit))
        answers.append(_said(vlm, output[0, inputs["input_ids"].shape[1] :].tolist()))
    return answers


def image_reuse(vlm: HfVlm, jpeg: bytes, prompts: Sequence[str], limit: int) -> list[Said]:
    """The image is encoded once; each question's whole prompt runs through `generate` on its features."""
    import torch

    from agevlm.vlm.hf.prompts import render, token_ids

    features = vlm.family.features(vlm.family.preprocess(_decode(jpeg)))
    answers = []
    for prompt in prompts:
        text = vlm.family.expand(render(vlm.processor, prompt, with_image=True), len(features))
        row = torch.tensor([token_ids(vlm.tokenizer, text)], device=vlm.model.device)
        embeddings = vlm.family.embed(row, features)
        output = vlm.model.generate(
            inputs_embeds=embeddings, attention_mask=torch.ones_like(row), **_settings(vlm, limit)
        )
        answers.append(_said(vlm, output[0].tolist()))
    return answers


def session(vlm: HfVlm, jpeg: bytes, prompts: Sequence[str], limit: int) -> list[Said]:
    """The suite's session: the image and the shared prompt prefix once, the questions' suffixes as a batch."""
    from agevlm.vlm.contract import Ask

    replies = vlm.answer(vlm.encode([_decode(jpeg)]), [Ask(p, 0, limit) for p in prompts])
    return [Said(r.token_ids, r.text or "") for r in replies]


def distinct(vlm: HfVlm, jpeg: bytes, prompts: Sequence[str], limit: int) -> list[Said]:
    """The session, asked every distinct question once."""
    unique = list(dict.fromkeys(prompts))
    answers = dict(zip(unique, session(vlm, jpeg, unique, limit), strict=True))
    return [answers[p] for p in prompts]


SIDES: dict[str, Side] = {
    "plain generate": plain,
    "image reuse": image_reuse,
    "image and prefix reuse": session,
    "the same, distinct questions": distinct,
}
PLAIN = "plain generate"
ONE_BY_ONE = (PLAIN, "image reuse")
"""Sides that run question by question: two questions warm them up as well as eighteen do."""


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass
class Work:
    """Vision encoder calls and language model positions, as the modules themselves see them."""

    vision_calls: int = 0
    language_positions: int = 0


@contextmanager
def counted(vlm: HfVlm) -> Iterator[Work]:
    """Count what runs through the two towers, by whatever route it gets there."""
    work = Work()

    def vision(*_: Any) -> None:
        work.vision_calls += 1

    def language(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = next(v for v in (kwargs.get("inputs_embeds"), kwargs.get("input_ids"), *args) if v is not None)
        work.language_positions += inputs.shape[0] * inputs.shape[1]

    inner = vlm.model.model
    hooks = [
        inner.vision_tower.register_forward_pre_hook(vision),
        inner.language_model.register_forward_pre_hook(language, with_kwargs=True),
    ]
    try:
        yield work
    finally:
        for hook in hooks:
            hook.remove()


@dataclass
class Measured:
    """One side's figures, a list entry per image."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    vision_calls: int = 0
    language_positions: int = 0
    answers: list[list[Said]] = field(default_factory=list)

    def summary(self, reference: Measured) -> dict[str, Any]:
        """Plain values: rates, ratios to the reference and work per question."""
        questions = sum(map(len, self.answers))
        return {
            "questions_per_second": statistics.median(len(a) / s for a, s in zip(self.answers, self.wall, strict=True)),
            "ratio": _spread(reference.wall, self.wall),
            "cpu_ratio": _spread(reference.cpu, self.cpu),
            "vision_calls_per_question": self.vision_calls / questions,
            "language_positions_per_question": self.language_positions / questions,
            "wall_seconds": self.wall,
            "cpu_seconds": self.cpu,
        }


def _spread(reference: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    ratios = [r / o for r, o in zip(reference, ours, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def measure(vlm: HfVlm, images: int, limit: int, advance: Callable[[str], None]) -> dict[str, Measured]:
    """Time every side on every image: the same questions, the order of the sides reversed on every other image.

    Before that, pictures that are not measured warm every side up, since kernels are chosen and buffers allocated on
    first use; sides that batch meet every number of distinct questions.
    """
    import torch

    from benchmarks.prompts import load_prompt

    prompt = load_prompt("default")
    rows = [[prompt.of(q) for q in question_rows(i)] for i in range(images)]
    batches = {len(set(r)): r for r in rows}
    advance("warming up")
    for name, side in SIDES.items():
        for place, row in enumerate(batches.values()):
            side(vlm, picture(images + place), row[:2] if name in ONE_BY_ONE else row, limit)
    results = {name: Measured() for name in SIDES}
    on_gpu = vlm.model.device.type == "cuda"
    for index in range(images):
        jpeg = picture(index)
        for name in list(SIDES)[:: 1 if index % 2 == 0 else -1]:
            advance(f"image {index + 1} of {images}: {name}")
            into = results[name]
            with counted(vlm) as work:
                if on_gpu:
                    torch.cuda.synchronize()
                wall, cpu = time.perf_counter(), time.process_time()
                answers = SIDES[name](vlm, jpeg, rows[index], limit)
                if on_gpu:
                    torch.cuda.synchronize()
                into.wall.append(time.perf_counter() - wall)
                into.cpu.append(time.process_time() - cpu)
            into.vision_calls += work.vision_calls
            into.language_positions += work.language_positions
            into.answers.append(answers)
    return results


@dataclass(frozen=True)
class Comparison:
    """Whether the sides said the same, token for token."""

    questions: int
    distinct_questions: int
    yes: int
    """Plain answers that begin with yes: with all answers alike, being equal would mean nothing."""
    no: int
    empty: int
    """Plain answers without text; their time would be that of a model that does not answer."""
    differing: dict[str, int]
    """Per side, answers whose tokens differ from the plain ones."""
    flips: list[dict[str, Any]]
    """Each distinct differing question with both answers and the margin between plain's two largest logits there."""

    def problems(self, exact: bool) -> list[str]:
        """What makes the run a failure; differing answers do so only where arithmetic is `exact` enough."""
        found = [f"{n} answers of {s!r} differ from plain generate's" for s, n in self.differing.items() if n and exact]
        if self.empty:
            found.append(f"{self.empty} answers of plain generate are empty")
        return found


def compare(vlm: HfVlm, results: dict[str, Measured], limit: int) -> Comparison:
    """Compare every side's answers with the plain ones; margins come from `reference.find_flips`, outside any timer."""
    from agevlm.vlm.contract import Ask, Reply
    from agevlm.vlm.hf.reference import find_flips
    from benchmarks.prompts import load_prompt

    prompt = load_prompt("default")
    reference = results[PLAIN].answers
    texts = [said.text.strip().lower() for answers in reference for said in answers]
    differing = dict.fromkeys((n for n in SIDES if n != PLAIN), 0)
    flips = []
    for index, plain_answers in enumerate(reference):
        image, questions = _decode(picture(index)), question_rows(index)
        for side in differing:
            found = {}
            for question, ours, theirs in zip(questions, results[side].answers[index], plain_answers, strict=True):
                if ours.ids != theirs.ids:
                    differing[side] += 1
                    found[question] = ours
            for question, ours in found.items():
                reply = Reply(ours.text, "eos", token_ids=ours.ids)
                for flip in find_flips(vlm, image, [Ask(prompt.of(question), 0, limit)], [reply]):
                    flips.append({"side": side, "image": index, "question": question, **_without_prompt(asdict(flip))})
    return Comparison(
        questions=len(texts),
        distinct_questions=sum(len(set(question_rows(i))) for i in range(len(reference))),
        yes=sum(t.startswith("yes") for t in texts),
        no=sum(t.startswith("no") for t in texts),
        empty=sum(not t for t in texts),
        differing=differing,
        flips=flips,
    )


def _without_prompt(flip: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in flip.items() if k != "prompt"}


# --- scoring ----------------------------------------------------------------------------------------------------------

SCORED_IMAGES = 500
_FORMS = {
    True: ("Yes", "yes", "Yes.", " Yes, there is.", "Yes, there is a {} in the image.", "There is a {} on the left."),
    False: ("No", "no", "No.", " No, there is not.", "No, there is no {} in the image.", "I don't see a {} here."),
}
_MESSES: tuple[str | None, ...] = (
    None, "", "I cannot see the image.", "Maybe, it is hard to tell.", "yes or no", "The image shows a {} and a {}.",
    "<think>A {}? Perhaps.</think> **Answer:** yes", "Actually, I would say that there is a {}, but it is not clear.",
)  # fmt: skip
_WORDS = ("small", "large", "red", "dark", "wooden", "distant", "blurred", "second", "folded", "bright", "plain", "old")


def _answer_text(kind: str, yes: bool, name: str, rng: Any, number: int) -> str | None:
    if kind == "yes/no":
        return "Yes" if yes else "No"
    if kind == "messy":
        if rng.random() < 0.1:
            text = rng.choice(_MESSES)
            return text if text is None else text.format(name, rng.choice(OBJECTS))
        return str(rng.choice(_FORMS[yes])).format(name)
    seen = ", ".join(f"a {rng.choice(_WORDS)} {rng.choice(OBJECTS)}" for _ in range(5))
    verdict = f"there is a {name} near it" if yes else f"there is no {name} anywhere in it"
    return f"Looking at picture number {number}, I can make out {seen}; as far as I can tell, {verdict}."


SCORING_KINDS = {
    "yes/no": "Yes and No alone",
    "messy": "Yes and No in many forms, sentences, refusals, failures",
    "distinct": "every answer its own sentence",
}


def synthetic_answers(kind: str) -> Answered:
    """Answers to 500 images x 18 questions in three splits, four of five right, with log-probabilities."""
    import random

    from benchmarks.pope.score import IMAGE, Answer, Answered
    from benchmarks.pope.types import Question, QuestionSet

    rng = random.Random(0)
    questions: list[Question] = []
    answers: dict[tuple[str, str], Answer] = {}
    for image in range(SCORED_IMAGES):
        for place, text in enumerate(question_rows(image)):
            split, label = SPLITS[place // 6], place % 6 < 3
            number = len(questions)
            name = text.split(maxsplit=3)[3].removesuffix(" in the image?")
            file = f"{image:04}.jpg"
            questions.append(Question(split, str(number), file, text, label, name, file, f"row {number}"))
            yes = label if rng.random() < 0.8 else not label
            answers[split, str(number)] = Answer(
                _answer_text(kind, yes, name, rng, number),
                {"yes": -rng.random() * (1 if yes else 5), "no": -rng.random() * (5 if yes else 1)},
            )
    return Answered(QuestionSet("synthetic", "custom:speed", "", tuple(questions)), {IMAGE: answers}, "default")


def time_scoring(kind: str) -> dict[str, Any]:
    """Seconds to score the synthetic answers of one kind under all protocols, and how many texts are distinct."""
    from benchmarks.pope.protocols import PROTOCOLS
    from benchmarks.pope.score import DRAWS, IMAGE, score

    answered = synthetic_answers(kind)
    given = answered.answers[IMAGE]
    wall, cpu = time.perf_counter(), time.process_time()
    scores = score([answered], list(PROTOCOLS.values()))
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "answers": len(given),
        "distinct_texts": len({a.text for a in given.values()}),
        "rows": len(scores.rows),
        "protocols": len(PROTOCOLS),
        "draws": DRAWS,
    }


def scoring_in_fresh_process(kind: str, threads: int) -> dict[str, Any]:
    """`time_scoring` where no text was ever read before; lazy imports inside `score` are part of the time."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    code = "import json, sys; from benchmarks.speed import time_scoring; print(json.dumps(time_scoring(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, kind],
        env={**os.environ, **dict.fromkeys(variables, str(threads))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"scoring failed: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure_scoring(repeats: int, threads: int, advance: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """The median of so many fresh processes for each kind of answers."""
    found = {}
    for kind in SCORING_KINDS:
        runs = []
        for repeat in range(repeats):
            advance(f"scoring {kind}: {repeat + 1} of {repeats}")
            runs.append(scoring_in_fresh_process(kind, threads))
        wall, cpu = ([r[clock] for r in runs] for clock in ("wall", "cpu"))
        found[kind] = {**runs[0], "wall": statistics.median(wall), "cpu": statistics.median(cpu), "runs": wall}
    return found


# --- model, machine, output -------------------------------------------------------------------------------------------


def sizes(name: str, layers: int | None, hidden: int | None) -> TinyLlava:
    """LLaVA-shaped sizes: tiny (for tests), small or medium, with 576 visual tokens unless tiny."""
    from agevlm.checkpoints.tiny import TinyLlava

    if name == "tiny":
        return TinyLlava()
    width, depth = {"small": (512, 6), "medium": (768, 6)}[name]
    width, depth = hidden or width, layers or depth
    if width % 256:
        raise click.BadParameter("must be a multiple of 256", param_hint="--hidden")
    vision = width * 3 // 4
    return TinyLlava(
        image_size=336,
        vision_hidden=vision,
        vision_layers=depth,
        vision_heads=vision // 64,
        text_hidden=width,
        text_layers=depth,
        text_heads=width // 64,
        text_kv_heads=width // 128,
        vocabulary=2048,
    )


def load_model(ckpt: str | None, shape: TinyLlava, dtype: str, device: str) -> HfVlm:
    """The given checkpoint, or a random one of these sizes that says Yes or No and stops."""
    from transformers.utils import logging

    from agevlm.checkpoints.tiny import build_tiny_llava
    from agevlm.vlm.hf.session import HfVlm

    logging.disable_progress_bar()
    if ckpt is not None:
        return HfVlm.load(ckpt, dtype=dtype, device=device)
    with tempfile.TemporaryDirectory() as folder:
        return HfVlm.load(build_tiny_llava(folder, answers=True, sizes=shape), dtype=dtype, device=device)


def describe_machine(vlm: HfVlm, threads: int) -> dict[str, Any]:
    """What the figures were taken on."""
    import torch

    device = vlm.model.device
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": threads,
        "dtype": str(vlm.model.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in vlm.model.parameters()),
        "python": platform.python_version(),
        "packages": {p: metadata.version(p) for p in PACKAGES},
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _print(console: Console, report: dict[str, Any]) -> None:
    from rich.table import Table

    machine, equal = report["machine"], report["answers"]
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} thread(s); model on {machine['device']}, "
        f"{machine['dtype']}, {machine['parameters'] / 1e6:.1f} M parameters; "
        + ", ".join(f"{k} {v}" for k, v in {"Python": machine["python"], **machine["packages"]}.items())
    )
    table = Table(
        title=f"{report['images']} images x {PER_IMAGE} questions; ratios: median (lowest - highest) by image"
    )
    for column in ("", "questions/s", "wall ratio", "CPU ratio", "vision calls/q", "language positions/q", "differ"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in report["sides"].items():
        table.add_row(
            name,
            f"{row['questions_per_second']:.2f}",
            *(f"{r['median']:.1f} ({r['low']:.1f} - {r['high']:.1f})" for r in (row["ratio"], row["cpu_ratio"])),
            f"{row['vision_calls_per_question']:.3f}",
            f"{row['language_positions_per_question']:.1f}",
            "-" if name == PLAIN else f"{equal['differing'][name]} of {equal['questions']}",
        )
    console.print(table)
    console.print(
        f"{equal['questions']} questions, {equal['distinct_questions']} distinct (image, question) pairs; "
        f"plain answers: {equal['yes']} yes, {equal['no']} no"
    )
    for flip in equal["flips"]:
        console.print(
            f"flip: {flip['side']}, image {flip['image']}, {flip['question']!r}: {flip['ours']!r} for "
            f"{flip['plain']!r}, margin {flip['margin']:.3g}",
            markup=False,
        )
    if not report["scoring"]:
        return
    first = next(iter(report["scoring"].values()))
    table = Table(
        title=f"Scoring {first['answers']} answers under {first['protocols']} protocols with {first['draws']} draws, "
        f"median of {len(first['runs'])} fresh processes (aim: under {SCORING_AIM_SECONDS:g} s)"
    )
    for column in ("answers", "distinct texts", "wall s", "CPU s", "aim met"):
        table.add_column(column, justify="left" if column == "answers" else "right")
    for kind, row in report["scoring"].items():
        met = "yes" if row["wall"] < SCORING_AIM_SECONDS else "no"
        table.add_row(SCORING_KINDS[kind], str(row["distinct_texts"]), f"{row['wall']:.2f}", f"{row['cpu']:.2f}", met)
    console.print(table)


@click.command()
@click.option("--ckpt", metavar="FOLDER|ORG/NAME", help="A real LLaVA checkpoint.  [a random one is built]")
@click.option("--size", type=click.Choice(["tiny", "small", "medium"]), default="small", show_default=True)
@click.option("--layers", type=click.IntRange(2), help="Layers of both towers of the built model.")
@click.option("--hidden", type=click.IntRange(256), help="Text width of the built model, a multiple of 256.")
@click.option("--images", default=6, show_default=True, type=click.IntRange(1), help="Images of 18 questions each.")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16", "float16"]))
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N or auto.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads of every part.")
@click.option("--max-new-tokens", default=128, show_default=True, type=click.IntRange(1), help="Per answer.")
@click.option("--scoring-repeats", default=3, show_default=True, type=click.IntRange(0), help="0: do not time scoring.")
@click.option("--json", "json_out", type=click.Path(path_type=Path), metavar="FILE", help="Write all figures there.")
def main(**options: Any) -> None:
    """Measure questions per second with and without reuse, check that answers are equal, and time scoring.

    Exits 1 where an answer is empty or, in float32, where any side's tokens differ from those of plain generate.
    """
    import torch
    from rich.console import Console

    from agevlm.errors import AgeVlmError

    torch.set_num_threads(options["threads"])
    out = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    notes = Console(stderr=True, highlight=False)
    limit = options["max_new_tokens"]
    with notes.status("loading the model") as status:
        try:
            shape = sizes(options["size"], options["layers"], options["hidden"])
            vlm = load_model(options["ckpt"], shape, options["dtype"], options["device"])
        except AgeVlmError as error:
            raise click.ClickException(str(error)) from error
        with torch.inference_mode():
            results = measure(vlm, options["images"], limit, status.update)
        comparison = compare(vlm, results, limit)
        repeats = options["scoring_repeats"]
        scoring = measure_scoring(repeats, options["threads"], status.update) if repeats else {}
    report = {
        "machine": describe_machine(vlm, options["threads"]),
        "model": options["ckpt"] or asdict(shape),
        "images": options["images"],
        "sides": {name: measured.summary(results[PLAIN]) for name, measured in results.items()},
        "answers": asdict(comparison),
        "scoring": scoring,
    }
    _print(out, report)
    if options["json_out"] is not None:
        options["json_out"].write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    problems = comparison.problems(exact=options["dtype"] == "float32")
    for problem in problems:
        notes.print(f"FAILED: {problem}", markup=False)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
