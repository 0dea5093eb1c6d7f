"""One launch of a benchmark's run, from a plan to its report: what all benchmarks have in common.

Take the folder, plan, ask what is left, verify, close the launch in the manifest, and let the benchmark report.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console

from agevlm.data.sources import ImageSource
from agevlm.errors import AgeVlmError, DataError, RunFolderError
from agevlm.terminal import stoppable
from agevlm.vlm.contract import Fingerprint
from agevlm.vlm.reuse import remark
from benchmarks.manifest import close_launch, open_launch
from benchmarks.plan import Group, Plan, remaining, share
from benchmarks.progress import duration, progress, told_on_interrupt
from benchmarks.ranks import Ranks
from benchmarks.run import Tally, run_groups
from benchmarks.run_folder import RunFolder
from benchmarks.settings import RunSettings
from benchmarks.showing import load_pixels
from benchmarks.verify import verify


@dataclass(frozen=True)
class Job:
    """A benchmark's own part of a launch."""

    benchmark: str
    folder: RunFolder
    data: Sequence[Mapping[str, Any]]
    """What the manifest says of each set of questions."""
    sources: Sequence[ImageSource]
    plan: Callable[[Fingerprint], Plan]
    report: Callable[[Tally], int]
    """Score the folder, write scores.json, print; returns the exit code. Called when all is asked."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """More for the manifest."""
    remark: str | None = None
    """What should be known of the questions before they are asked."""


class NotStarted(AgeVlmError):
    """Raised on the other ranks when the first one could not start; it has said why."""

    def __init__(self) -> None:
        super().__init__("the first process could not start the run; see its message")


def launch(settings: RunSettings, prepare: Callable[[], Job], notes: Console) -> int:
    """Run or go on with a run, and report. Returns the exit code.

    Args:
        settings: the options.
        prepare: loads the questions and finds the images; may raise DataError.
        notes: for progress and remarks (stderr).
    """
    ranks = Ranks()
    ranks.start()
    try:
        return _run(settings, prepare, ranks, notes)
    finally:
        ranks.close()


def _run(settings: RunSettings, prepare: Callable[[], Job], ranks: Ranks, notes: Console) -> int:
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
    job = prepare()
    folder = job.folder
    if ranks.first and job.remark is not None:
        notes.print(job.remark)
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
        plan = job.plan(fingerprint)
        left = remaining(plan.groups, folder.answers())
        if ranks.first:
            reused = plan.pairs - sum(len(g.asks) for g in left)
            open_launch(
                settings,
                folder,
                plan,
                fingerprint,
                benchmark=job.benchmark,
                data=job.data,
                extra=job.extra,
                processes=ranks.world,
                reused=reused,
            )
        ranks.gather(None)  # no rank may write before every rank has read what there is
        tally, description, trouble = _ask(settings, job, plan, left, fingerprint, ranks, notes)
        tallies = ranks.gather(tally)
        if not ranks.first:
            return 0
        total = Tally.total(tallies)
        close_launch(folder, total, description)
        report = job.report
        del job, plan, left  # scoring reads the run folder, and needs the room
        code = report(total)
        if trouble is not None:
            raise AgeVlmError(f"--verify failed, the scores stand: {trouble}")
        return code


def _open_folder(settings: RunSettings, folder: RunFolder, notes: Console) -> Fingerprint:
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
    settings: RunSettings,
    job: Job,
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
        notes.print(f"{what} → {job.folder.path}")
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
        writer = job.folder.writer(ranks.rank)
        stack.callback(writer.close)
        with progress(notes, len(mine), ranks.world, show=ranks.first) as advance:
            tally = run_groups(
                vlm,
                mine,
                lambda shown: load_pixels(shown, job.sources, settings.seed),
                writer,
                advance,
            )
        trouble = None
        if settings.verify and ranks.first:
            try:
                verify(settings, job.folder, job.sources, plan, vlm, notes)
            except Exception as error:
                # The answers are there; a check that fails must not keep them from being scored.
                trouble = f"{type(error).__name__}: {error}"
        description = vlm.describe()
        if ranks.first and (found := remark(description)) != said:
            notes.print(found)
        return tally, description, trouble


def say_tally(total: Tally, folder: RunFolder, notes: Console) -> None:
    """What a launch did, at which rate, and its errors."""
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
