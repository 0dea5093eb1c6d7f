"""What `agevlm-eval pope` does, from question files to printed scores."""

from __future__ import annotations

import contextlib
import json
import random
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from agevlm.data.sources import ContainerImages, FolderImages, ImageSource
from agevlm.errors import AgeVlmError, DataError, PartialRun
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.contract import Ask, Fingerprint, Vlm
from benchmarks.estimate import estimate
from benchmarks.plan import Group, remaining, share
from benchmarks.pope.answers import load_run
from benchmarks.pope.protocols import Protocol
from benchmarks.pope.questions import load_questions
from benchmarks.pope.relabelled import with_repope_sets
from benchmarks.pope.score import IMAGE, Scores, score
from benchmarks.pope.session import PopePlan, limit_images, load_pixels, plan_pope
from benchmarks.pope.types import QuestionSet
from benchmarks.prompts import Prompt
from benchmarks.ranks import Ranks
from benchmarks.run import Tally, run_groups
from benchmarks.run_folder import SCHEMA, RunFolder, default_folder, environment, now

HIGH_UNPARSED = 0.2


@dataclass(frozen=True)
class PopeSettings:
    """The options of `agevlm-eval pope`."""

    model: ModelChoice
    questions: tuple[str, ...]
    images: Path | None
    splits: tuple[str, ...]
    repope: Path | None
    prompt: Prompt
    protocols: tuple[Protocol, ...]
    controls: tuple[str, ...]
    max_new_tokens: int
    limit: int | None
    seed: int
    draws: int
    out: Path | None
    fresh: bool
    verify: int
    json_out: str | None
    allow_partial: bool

    @property
    def decoding(self) -> dict[str, Any]:
        return {"greedy": True, "max_new_tokens": self.max_new_tokens}

    @property
    def conditions(self) -> tuple[str, ...]:
        return (IMAGE, *dict.fromkeys(self.controls))


@dataclass(frozen=True)
class Loaded:
    """Question sets (RePOPE's labels as sets of their own) and where the images of each are."""

    sets: tuple[QuestionSet, ...]
    sources: tuple[ImageSource, ...]


def load_data(settings: PopeSettings) -> Loaded:
    """Questions and image sources. Raises DataError."""
    sets = load_questions(settings.questions, splits=settings.splits or None)
    if settings.repope is not None:
        sets = with_repope_sets(sets, settings.repope)
    sets = limit_images(sets, settings.limit, settings.seed)
    folder = FolderImages(settings.images) if settings.images is not None else None
    sources: list[ImageSource] = []
    for one in sets:
        if folder is not None:
            sources.append(folder)
        elif one.image_bytes is not None:
            sources.append(ContainerImages(one.image_bytes))
        else:
            raise DataError(
                f"{one.data_version}: the questions name images but hold none; give their folder with --images DIR"
            )
    return Loaded(sets, tuple(sources))


def make_plan(settings: PopeSettings, loaded: Loaded, fingerprint: Fingerprint) -> PopePlan:
    """Plan the run. Raises DataError."""
    return plan_pope(
        loaded.sets,
        loaded.sources,
        prompt=settings.prompt,
        conditions=settings.conditions,
        decoding=settings.decoding,
        fingerprint=fingerprint.digest,
        seed=settings.seed,
    )


def run_folder(settings: PopeSettings, loaded: Loaded) -> RunFolder:
    """The run folder the user named, or the default one for this model, data and prompt."""
    if settings.out is not None:
        return RunFolder(settings.out)
    names = "_".join(dict.fromkeys(s.name for s in loaded.sets))
    return RunFolder(default_folder(["pope", settings.model.slug, names, settings.prompt.name]))


def show_plan(settings: PopeSettings, console: Console) -> None:
    """`--plan`: what would be asked, how long, how much disk; loads no weights."""
    loaded = load_data(settings)
    plan = make_plan(settings, loaded, settings.model.fingerprint())
    folder = run_folder(settings, loaded)
    left = remaining(plan.groups, folder.answers())
    pairs = sum(len(g.asks) for g in left)
    images = sum(g.shown is not None for g in left)
    path = Path(settings.model.name)
    cost = estimate(
        images=images,
        pairs=pairs,
        questions=plan.questions,
        checkpoint=path if path.is_dir() else None,
        manifest=folder.manifest(),
        device=settings.model.device,
    )
    console.print(f"run folder       {folder.path}", soft_wrap=True)
    for one in loaded.sets:
        splits = ", ".join(f"{s} {n}" for s, n in _split_counts(one).items())
        console.print(f"data             {one.data_version}: {splits}", soft_wrap=True)
    console.print(f"conditions       {', '.join(settings.conditions)}")
    console.print(f"questions        {plan.questions}")
    console.print(f"images as shown  {plan.images}, each encoded once ({images} left)")
    console.print(f"distinct asks    {plan.pairs} (image, prompt) pairs ({pairs} left)")
    duration = "unknown" if cost.seconds is None else _duration(cost.seconds)
    console.print(f"estimated time   {duration} ({cost.basis})", soft_wrap=True)
    console.print(f"estimated disk   {cost.disk_bytes / 1e6:.1f} MB")


def run_pope(settings: PopeSettings, console: Console, notes: Console) -> int:
    """Run, resume and score. Returns the exit code.

    Args:
        settings: the options.
        console: for tables (stdout).
        notes: for progress and remarks (stderr).
    """
    ranks = Ranks()
    ranks.start()
    try:
        return _run(settings, ranks, console, notes)
    finally:
        ranks.close()


def _run(settings: PopeSettings, ranks: Ranks, console: Console, notes: Console) -> int:
    loaded = load_data(settings)
    folder = run_folder(settings, loaded)
    # The first rank alone reads weights for the fingerprint and takes the folder; its errors reach every rank.
    box: tuple[Fingerprint | None, AgeVlmError | None] = (None, None)
    if ranks.first:
        try:
            box = _open_folder(settings, folder, notes), None
        except AgeVlmError as refusal:
            box = None, refusal
    fingerprint, error = ranks.broadcast(box)
    if fingerprint is None:
        folder.release()
        raise error if ranks.first and error is not None else NotStarted()
    with _owned(folder, ranks), _stoppable():
        plan = make_plan(settings, loaded, fingerprint)
        left = remaining(plan.groups, folder.answers())
        if ranks.first:
            reused = plan.pairs - sum(len(g.asks) for g in left)
            _write_manifest(settings, folder, loaded, plan, fingerprint, ranks, reused)
        ranks.gather(None)  # no rank may write before every rank has read what there is
        tally, description = _ask(settings, loaded, folder, plan, left, ranks, notes)
        tallies = ranks.gather(tally)
        if not ranks.first:
            return 0
        total = _sum(tallies)
        _close_launch(folder, total, description)
        return _report(settings, folder, total, console, notes)


class NotStarted(AgeVlmError):
    """Raised on the other ranks when the first one could not start; it has said why."""

    def __init__(self) -> None:
        super().__init__("the first process could not start the run; see its message")


def _open_folder(settings: PopeSettings, folder: RunFolder, notes: Console) -> Fingerprint:
    fingerprint = settings.model.fingerprint()
    folder.own()
    if settings.fresh:
        aside = folder.set_aside()
        if aside is not None:
            notes.print(f"earlier run moved to {aside}", soft_wrap=True)
    known = folder.manifest().get("model", {}).get("parts")
    if known and (changed := fingerprint.changed(known)):
        notes.print(f"the model's {', '.join(changed)} changed since the last launch: its questions are asked again")
    return fingerprint


@contextlib.contextmanager
def _owned(folder: RunFolder, ranks: Ranks) -> Iterator[None]:
    try:
        yield
    finally:
        if ranks.first:
            folder.release()


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """A polite kill (SIGTERM, as schedulers send) ends the run like Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _ask(
    settings: PopeSettings,
    loaded: Loaded,
    folder: RunFolder,
    plan: PopePlan,
    left: list[Group],
    ranks: Ranks,
    notes: Console,
) -> tuple[Tally, Mapping[str, object]]:
    """Ask this rank's share of what is left; on an interrupt say what is kept and how to go on."""
    mine = share(left, ranks.rank, ranks.world)
    asked = sum(len(g.asks) for g in left)
    if ranks.first:
        total = plan.pairs
        what = f"{total} asks about {plan.images} images; {total - asked} answered before, {asked} to go"
        notes.print(f"{what} → {folder.path}", soft_wrap=True)
    if not mine and not (settings.verify and ranks.first):
        return Tally(), {}
    model = ModelChoice(
        settings.model.name,
        settings.model.dtype,
        ranks.device(settings.model.device),
        settings.model.batch_size,
        settings.model.chat_template,
    )
    with _told_on_interrupt(folder, notes), contextlib.ExitStack() as stack:
        vlm = model.load()
        stack.callback(vlm.close)
        writer = folder.writer(ranks.rank)
        stack.callback(writer.close)
        with _progress(notes, mine, ranks) as advance:
            tally = run_groups(
                vlm,
                mine,
                lambda shown: load_pixels(shown, loaded.sources, settings.seed),
                writer,
                max_new_tokens=settings.max_new_tokens,
                advance=advance,
            )
        if settings.verify and ranks.first:
            _verify(settings, loaded, folder, plan, vlm, notes)
        return tally, vlm.describe()


@contextlib.contextmanager
def _told_on_interrupt(folder: RunFolder, notes: Console) -> Iterator[None]:
    """On Ctrl-C say what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        kept = sum(r.error is None for r in folder.answers().values())
        what = f"interrupted: {kept} answers are safe in {folder.path}; the same command goes on from there"
        notes.print(what, soft_wrap=True)
        raise


class _Rate(ProgressColumn):
    """Images per second so far."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.completed / task.elapsed:.2f} images/s" if task.elapsed else "– images/s")


@contextlib.contextmanager
def _progress(notes: Console, mine: Sequence[Group], ranks: Ranks) -> Iterator[Any]:
    """A progress bar of the first rank's share, on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=notes, disable=not ranks.first) as progress:
        name = "images" if ranks.world == 1 else f"images (process 1 of {ranks.world})"
        task = progress.add_task(name, total=len(mine))

        def advance(_: Group, tally: Tally) -> None:
            progress.advance(task)
            if tally.errors:
                progress.update(task, description=f"{name}, [red]{tally.errors} errors[/red]")

        yield advance


def _verify(
    settings: PopeSettings, loaded: Loaded, folder: RunFolder, plan: PopePlan, vlm: Vlm, notes: Console
) -> None:
    """`--verify N`: ask N seeded images' questions again one by one through plain `generate`, and list differences."""
    from agevlm.vlm.hf.reference import find_flips
    from agevlm.vlm.hf.session import HfVlm

    if not isinstance(vlm, HfVlm):
        raise DataError("--verify compares with transformers' generate, which this model is not run by")
    records = folder.answers()
    groups = [g for g in plan.groups if g.shown is not None and all(a.key in records for a in g.asks)]
    chosen = random.Random(settings.seed).sample(groups, min(settings.verify, len(groups)))
    flips, compared, changed = [], 0, 0
    for group in chosen:
        assert group.shown is not None
        image = load_pixels(group.shown, loaded.sources, settings.seed)
        asks = [Ask(a.prompt, 0, settings.max_new_tokens) for a in group.asks]
        replies = vlm.answer(vlm.encode([image]), asks)
        changed += sum(r.text != records[a.key].text for r, a in zip(replies, group.asks, strict=True))
        compared += len(asks)
        flips += [{"image": group.shown.name, **vars(f)} for f in find_flips(vlm, image, asks, replies)]
    folder.write_json("verify.json", {"images": len(chosen), "answers": compared, "changed": changed, "flips": flips})
    notes.print(
        f"verify: {compared} answers about {len(chosen)} images asked again by plain generate: {len(flips)} differ"
    )
    for flip in flips[:10]:
        notes.print(f"  {flip['image']} {flip['prompt']!r}: {flip['ours']!r}, plain {flip['plain']!r}, "
                    f"logit margin {flip['margin']:.4g}", markup=False, soft_wrap=True)  # fmt: skip


def _write_manifest(
    settings: PopeSettings,
    folder: RunFolder,
    loaded: Loaded,
    plan: PopePlan,
    fingerprint: Fingerprint,
    ranks: Ranks,
    reused: int,
) -> None:
    old = folder.manifest()
    launch = {"started": now(), "processes": ranks.world, "answers_before": reused}
    data = [
        {
            "name": s.name,
            "data_version": s.data_version,
            "content_sha256": s.content_sha256,
            "splits": _split_counts(s),
            "from": list(settings.questions),
        }
        for s in loaded.sets
    ]
    folder.write_rows("questions.jsonl", plan.rows)
    folder.write_json(
        "run.json",
        {
            "schema": SCHEMA,
            "benchmark": "pope",
            "created": old.get("created", now()),
            "data": data,
            "images": str(settings.images) if settings.images else "in the question files",
            "limit": settings.limit,
            "conditions": list(settings.conditions),
            "prompt": {"name": settings.prompt.name, "template": settings.prompt.template},
            "decoding": settings.decoding,
            "seed": settings.seed,
            "model": {
                "ckpt": settings.model.name,
                "fingerprint": fingerprint.digest,
                "parts": dict(fingerprint.parts),
                **({"session": old["model"]["session"]} if "session" in old.get("model", {}) else {}),
            },
            **environment(),
            "launches": [*old.get("launches", []), launch],
        },
    )


def _close_launch(folder: RunFolder, total: Tally, description: Mapping[str, object]) -> None:
    manifest = folder.manifest()
    manifest["launches"][-1] |= {
        "ended": now(),
        "answers": total.answers,
        "errors": total.errors,
        "image_groups": total.groups,
        "seconds": round(total.seconds, 3),
    }
    if description:
        manifest["model"]["session"] = dict(description)
    folder.write_json("run.json", manifest)


def _report(settings: PopeSettings, folder: RunFolder, total: Tally, console: Console, notes: Console) -> int:
    """Score the folder, write scores.json, print. Returns the exit code."""
    scores = score(load_run(folder.path), settings.protocols, draws=settings.draws, seed=settings.seed)
    content = {"settings": {"draws": settings.draws, "seed": settings.seed, "level": 0.95}, **scores.to_json()}
    folder.write_json("scores.json", content)
    print_result(scores, settings.protocols, settings.json_out, console)
    if total.groups:
        notes.print(f"{total.answers} answers in {_duration(total.seconds)} "
                    f"({total.groups / max(total.seconds, 1e-9):.2f} images/s, "
                    f"{total.answers / max(total.seconds, 1e-9):.2f} answers/s)")  # fmt: skip
    for example in total.examples:
        notes.print(f"error record: {example}", markup=False, style="red", soft_wrap=True)
    notes.print(f"run folder: {folder.path}", soft_wrap=True)
    return check_result(scores, settings.allow_partial, notes)


def print_result(scores: Scores, protocols: Sequence[Protocol], json_out: str | None, console: Console) -> None:
    """Tables on stdout, or (`--json -`) the rows as one JSON array and nothing else; `--json FILE` does both."""
    text = (
        json.dumps(
            [r.to_json() for r in scores.rows],
            indent=1,
        )
        + "\n"
    )
    if json_out == "-":
        click.echo(text, nl=False)
        return
    if json_out is not None:
        try:
            Path(json_out).write_text(text, encoding="utf-8")
        except OSError as error:
            raise DataError(f"--json {json_out}: cannot write: {error.strerror}") from None
    from benchmarks.pope.table import print_scores

    print_scores(console, scores, [p.name for p in protocols])


def check_result(scores: Scores, allow_partial: bool, notes: Console) -> int:
    """Remarks on doubtful results; the exit code: 3 if answers are missing and that was not allowed."""
    main = [r for r in scores.rows if not r.condition.startswith("floor:") and r.split not in ("pooled", "mean")]
    for row in main:
        if row.protocol == "default" and row.condition == IMAGE and row.n:
            if row.counts["unparsed"] > HIGH_UNPARSED * row.n:
                unread = f"{row.counts['unparsed']} of {row.n} answers could not be read as yes or no"
                advice = "look at the prompt and the answers before trusting any score"
                notes.print(f"warning: {row.split}: {unread}; {advice}", style="yellow", soft_wrap=True)
            if row.scores["accuracy"].high < 0.5:
                notes.print(f"warning: {row.split}: accuracy is below chance", style="yellow")
    missing = {(r.dataset, r.data_version, r.split, r.condition): r.missing for r in main if r.missing}
    if not missing:
        return 0
    total = sum(missing.values())
    notes.print(f"{total} answers are missing; scores are over those that are there", style="yellow")
    return 0 if allow_partial else PartialRun.exit_code


def _split_counts(one: QuestionSet) -> dict[str, int]:
    counts: dict[str, int] = {}
    for q in one.questions:
        counts[q.split] = counts.get(q.split, 0) + 1
    return counts


def _sum(tallies: Sequence[Tally]) -> Tally:
    total = Tally()
    for t in tallies:
        total.groups += t.groups
        total.answers += t.answers
        total.errors += t.errors
        total.seconds = max(total.seconds, t.seconds)
        total.examples += t.examples
    total.examples = total.examples[:3]
    return total


def _duration(seconds: float) -> str:
    if seconds < 0.95:
        return "under a second"
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
