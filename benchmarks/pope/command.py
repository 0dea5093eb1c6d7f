"""What `agevlm-eval pope` does, from question files to printed scores."""

from __future__ import annotations

from functools import partial

from rich.console import Console

from benchmarks import preview
from benchmarks.launch import Job, launch, say_tally
from benchmarks.pope.answers import load_run
from benchmarks.pope.result import check_result, print_result
from benchmarks.pope.score import score
from benchmarks.pope.settings import PopeSettings, load_data, make_plan, run_folder
from benchmarks.run import Tally
from benchmarks.run_folder import RunFolder


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
            report=lambda total: _report(settings, folder, total, console, notes),
        )

    return launch(settings, prepare, notes)


def _report(settings: PopeSettings, folder: RunFolder, total: Tally, console: Console, notes: Console) -> int:
    """Score the folder, write scores.json, print. Returns the exit code."""
    scores = score(load_run(folder.path), settings.protocols, draws=settings.draws, seed=settings.seed)
    content = {"settings": {"draws": settings.draws, "seed": settings.seed, "level": 0.95}, **scores.to_json()}
    folder.write_json("scores.json", content)
    print_result(scores, settings.protocols, settings.json_out, console)
    say_tally(total, folder, notes)
    return check_result(scores, settings.allow_partial, notes)
