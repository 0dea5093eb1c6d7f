"""What `agevlm-eval cvbench` does, from question files to printed scores."""

from __future__ import annotations

from functools import partial

from rich.console import Console

from benchmarks import preview
from benchmarks.cvbench.questions import part_of_whole
from benchmarks.cvbench.report import report
from benchmarks.cvbench.settings import CvBenchSettings, load_data, make_plan, run_folder
from benchmarks.launch import Job, launch

PROMPT_TOKENS = 80
"""Tokens of a question with its options and the official instruction (rough)."""


def show_plan(settings: CvBenchSettings, console: Console) -> None:
    """`--plan`: what would be asked, how long, how much disk; loads no weights."""
    loaded = load_data(settings)
    plan = make_plan(settings, loaded, settings.model.fingerprint())
    data = {loaded.questions.data_version: loaded.questions.counts}
    preview.show_plan(settings, "cvbench", run_folder(settings), plan, data, console, PROMPT_TOKENS)
    if settings.json_out != "-" and (part := part_of_whole(loaded.questions)) is not None:
        console.print(f"{'remark':17}{part}", soft_wrap=True)


def run_cvbench(settings: CvBenchSettings, console: Console, notes: Console) -> int:
    """Run, resume and score. Returns the exit code.

    Args:
        settings: the options.
        console: for tables (stdout).
        notes: for progress and remarks (stderr).
    """

    def prepare() -> Job:
        loaded = load_data(settings)
        folder = run_folder(settings)
        return Job(
            benchmark="cvbench",
            folder=folder,
            data=[
                {
                    "name": loaded.questions.name,
                    "data_version": loaded.questions.data_version,
                    "content_sha256": loaded.questions.content_sha256,
                    "tasks": loaded.questions.counts,
                    "from": list(settings.questions),
                }
            ],
            sources=[loaded.source],
            plan=partial(make_plan, settings, loaded),
            report=lambda total: report(
                folder,
                settings.readers,
                settings.judge,
                draws=settings.draws,
                seed=settings.seed,
                json_out=settings.json_out,
                allow_partial=settings.allow_partial,
                console=console,
                notes=notes,
                total=total,
            ),
            extra={"ranked": settings.ranked},
            remark=part_of_whole(loaded.questions),
        )

    return launch(settings, prepare, notes)
