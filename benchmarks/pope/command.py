"""What `agevlm-eval pope` does, from question files to printed scores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

from rich.console import Console

from agevlm.errors import AgeVlmError, DataError, RunFolderError
from agevlm.terminal import stoppable, write_json
from agevlm.vlm.contract import Fingerprint
from agevlm.vlm.reuse import remark
from benchmarks.estimate import estimate
from benchmarks.plan import Group, Plan, remaining, share
from benchmarks.pope.answers import load_run
from benchmarks.pope.manifest import close_launch, write_manifest
from benchmarks.pope.result import check_result, print_result
from benchmarks.pope.score import score
from benchmarks.pope.settings import Loaded, PopeSettings, load_data, make_plan, run_folder
from benchmarks.pope.verify import verify
from benchmarks.progress import duration, progress, told_on_interrupt
from benchmarks.ranks import Ranks
from benchmarks.run import Tally, run_groups
from benchmarks.run_folder import RunFolder
from benchmarks.showing import load_pixels


def show_plan(settings: PopeSettings, console: Console) -> None:
    """`--plan`: what would be asked, how long, how much disk; loads no weights."""
    loaded = load_data(settings)
    plan = make_plan(settings, loaded, settings.model.fingerprint())
    folder = run_folder(settings, loaded)
    left = remaining(plan.groups, folder.answers())
    pairs = sum(len(g.asks) for g in left)
    images = sum(g.shown is not None for g in left)
    cost = estimate(
        images=images,
        pairs=pairs,
        questions=plan.questions,
        checkpoint=settings.model.folder(),
        manifest=folder.manifest(),
        device=settings.model.device,
    )
    row = {
        "benchmark": "pope",
        "run_folder": str(folder.path),
        "data": {s.data_version: s.split_counts for s in loaded.sets},
        "conditions": list(settings.conditions),
        "questions": plan.questions,
        "images": plan.images,
        "images_left": images,
        "pairs": plan.pairs,
        "pairs_left": pairs,
        "seconds": cost.seconds,
        "seconds_basis": cost.basis,
        "disk_bytes": cost.disk_bytes,
    }
    write_json([row], settings.json_out)
    if settings.json_out == "-":
        return
    data = [f"{s.data_version}: {', '.join(f'{k} {n}' for k, n in s.split_counts.items())}" for s in loaded.sets]
    time_needed = "unknown" if cost.seconds is None else duration(cost.seconds)
    lines = [
        ("run folder", str(folder.path)),
        *(("data", text) for text in data),
        ("conditions", ", ".join(settings.conditions)),
        ("questions", str(plan.questions)),
        ("images as shown", f"{plan.images}, each encoded once ({images} left)"),
        ("distinct asks", f"{plan.pairs} (image, prompt) pairs ({pairs} left)"),
        ("estimated time", f"{time_needed} ({cost.basis})"),
        ("estimated disk", f"{cost.disk_bytes / 1e6:.1f} MB"),
    ]
    for name, text in lines:
        console.print(f"{name:17}{text}", soft_wrap=True, markup=False)


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
    if settings.model.device_map is not None and ranks.world > 1:
        raise DataError(
            f"--device-map {settings.model.device_map} spreads one model over all devices; start one process, not "
            f"{ranks.world}"
        )
    if settings.verify and settings.model.adapter is not None:
        raise DataError(
            f"--verify compares with transformers' generate, and does not see how {settings.model.adapter} models are "
            "run; leave it out"
        )
    loaded = load_data(settings)
    folder = run_folder(settings, loaded)
    # The first rank takes the folder and names the model all ranks must load; its errors reach every rank.
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
    with _owned(folder, ranks), stoppable(), told_on_interrupt(folder, notes):
        plan = make_plan(settings, loaded, fingerprint)
        left = remaining(plan.groups, folder.answers())
        if ranks.first:
            reused = plan.pairs - sum(len(g.asks) for g in left)
            write_manifest(settings, folder, loaded, plan, fingerprint, processes=ranks.world, reused=reused)
        ranks.gather(None)  # no rank may write before every rank has read what there is
        tally, description, trouble = _ask(settings, loaded, folder, plan, left, fingerprint, ranks, notes)
        tallies = ranks.gather(tally)
        if not ranks.first:
            return 0
        total = Tally.total(tallies)
        close_launch(folder, total, description)
        code = _report(settings, folder, total, console, notes)
        if trouble is not None:
            raise AgeVlmError(f"--verify failed, the scores stand: {trouble}")
        return code


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
            notes.print(f"earlier run moved to {aside}")
    known = folder.manifest().get("model", {}).get("parts")
    if known and (changed := fingerprint.changed(known)):
        what = ", ".join(changed)
        notes.print(f"the model's {what} changed since the last launch: what this model has not answered is asked")
    return fingerprint


@contextlib.contextmanager
def _owned(folder: RunFolder, ranks: Ranks) -> Iterator[None]:
    try:
        yield
    finally:
        if ranks.first:
            folder.release()


def _ask(
    settings: PopeSettings,
    loaded: Loaded,
    folder: RunFolder,
    plan: Plan,
    left: list[Group],
    fingerprint: Fingerprint,
    ranks: Ranks,
    notes: Console,
) -> tuple[Tally, Mapping[str, object], str | None]:
    """Ask this rank's share of what is left.

    Returns:
        What was done, how the model describes itself, and why `--verify` failed if it did.
    """
    mine = share(left, ranks.rank, ranks.world)
    asked = sum(len(g.asks) for g in left)
    if ranks.first:
        total = plan.pairs
        what = f"{total} asks about {plan.images} images; {total - asked} answered before, {asked} to go"
        notes.print(f"{what} → {folder.path}")
    if not mine and not (settings.verify and ranks.first):
        return Tally(), {}, None
    model = replace(settings.model, device=ranks.device(settings.model.device))
    with contextlib.ExitStack() as stack:
        vlm = model.load()
        stack.callback(vlm.close)
        if vlm.fingerprint.digest != fingerprint.digest:
            changed = ", ".join(vlm.fingerprint.changed(fingerprint.parts))
            raise RunFolderError(f"the model's {changed} changed while the run was planned; give the command again")
        if "blind" not in vlm.capabilities and any(group.shown is None for group in mine):
            raise DataError(f"--control blind: {settings.model.name} cannot be asked without an image; leave it out")
        # Known now for some models, for others with their first answer.
        if ranks.first and (said := remark(vlm.describe())):
            notes.print(said)
        writer = folder.writer(ranks.rank)
        stack.callback(writer.close)
        with progress(notes, len(mine), ranks.world, show=ranks.first) as advance:
            tally = run_groups(
                vlm,
                mine,
                lambda shown: load_pixels(shown, loaded.sources, settings.seed),
                writer,
                max_new_tokens=settings.max_new_tokens,
                advance=advance,
            )
        trouble = None
        if settings.verify and ranks.first:
            try:
                verify(settings, loaded, folder, plan, vlm, notes)
            except Exception as error:
                # The answers are there; a check that fails must not keep them from being scored.
                trouble = f"{type(error).__name__}: {error}"
        description = vlm.describe()
        if ranks.first and (found := remark(description)) != said:
            notes.print(found)
        return tally, description, trouble


def _report(settings: PopeSettings, folder: RunFolder, total: Tally, console: Console, notes: Console) -> int:
    """Score the folder, write scores.json, print. Returns the exit code."""
    scores = score(load_run(folder.path), settings.protocols, draws=settings.draws, seed=settings.seed)
    content = {"settings": {"draws": settings.draws, "seed": settings.seed, "level": 0.95}, **scores.to_json()}
    folder.write_json("scores.json", content)
    print_result(scores, settings.protocols, settings.json_out, console)
    if total.groups:
        notes.print(f"{total.answers} answers in {duration(total.seconds)} "
                    f"({total.groups / max(total.seconds, 1e-9):.2f} images/s, "
                    f"{total.answers / max(total.seconds, 1e-9):.2f} answers/s)")  # fmt: skip
    for example in total.examples:
        notes.print(f"error record: {example}", style="red")
    if total.errors > len(total.examples):
        what = f"{total.errors} asks in all ended in an error; {folder.path}/answers-*.jsonl holds each one's reason"
        notes.print(what, style="red")
    notes.print(f"run folder: {folder.path}")
    return check_result(scores, settings.allow_partial, notes)
