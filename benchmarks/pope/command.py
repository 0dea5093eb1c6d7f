"""What `agevlm-eval pope` does, from question files to printed scores."""

from __future__ import annotations

from functools import partial

from rich.console import Console

from benchmarks import preview
from benchmarks.launch import Job, launch
from benchmarks.pope.report import report
from benchmarks.pope.settings import PopeSettings, load_data, make_plan, run_folder


def show_plan(settings: PopeSettings, console: Console) -> None:
    """`--plan`: what would be asked, how long, how much disk; loads no weights."""
    loaded = load_data(settings)
    plan = make_plan(settings, loaded, settings.model.fingerprint())
    data = {s.data_version: s.split_counts for s in loaded.sets}
    preview.show_plan(settings, "pope", run_folder(settings, loaded), plan, data, console)


def run_pope(settings: PopeSettings, console: Console, notes: Console) -> int:
    """Run, resume and score. Returns the exit code.

    Args:
        settings: the options.
        console: for tables (stdout).
        notes: for progress and remarks (stderr).
    """

    def prepare() -> Job:
        loaded = load_data(settings)
        folder = run_folder(settings, loaded)
        return Job(
            benchmark="pope",
            folder=folder,
            data=[
                {
                    "name": s.name,
                    "data_version": s.data_version,
                    "content_sha256": s.content_sha256,
                    "splits": s.split_counts,
                    "from": list(settings.questions),
                }
                for s in loaded.sets
            ],
            sources=loaded.sources,
            plan=partial(make_plan, settings, loaded),
            report=lambda total: report(
                folder,
                settings.protocols,
                settings.judge,
                draws=settings.draws,
                seed=settings.seed,
                json_out=settings.json_out,
                allow_partial=settings.allow_partial,
                console=console,
                notes=notes,
                total=total,
            ),
        )

    return launch(settings, prepare, notes)
