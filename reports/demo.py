"""`make demo`: the suite at work without any download.

There are no trained checkpoints yet, so the demo re-scores a small answer file under every protocol, and runs the whole
command on a tiny randomly initialised checkpoint, whose answers are coin tosses; it says so where it does.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click

DATA = Path(__file__).parent / "demo_data"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), help="Folder for what it makes.")
def demo(out: Path) -> None:
    """Show the suite at work on data of its own."""
    from reports.demo_pictures import draw_pictures

    click.secho("AGE-VLM demo", bold=True)
    click.echo("No trained checkpoint ships with this release. Part 1 scores answers written by hand; part 2 runs a")
    click.echo("tiny randomly initialised model: its scores show that the machinery works, not that a model sees.")
    answers = ["--answers", _short(DATA / "answers.jsonl"), "--questions", _short(DATA / "demo_pope_random.json")]
    step("1. The same 48 answers under every published POPE protocol", ["score", "pope", *answers])

    from agevlm.checkpoints.tiny import build_tiny_llava

    for made in ("pictures", "random-llava", "questions", "pope-random-llava"):
        shutil.rmtree(out / made, ignore_errors=True)
    annotations = draw_pictures(out / "pictures", count=16, seed=0)
    checkpoint = build_tiny_llava(out / "random-llava", seed=0, answers=True)
    click.echo(f"\ndrew 16 annotated pictures and wrote a random LLaVA-shaped checkpoint to {out}")
    built = ["--annotations", str(annotations), "--out", str(out / "questions"), "--name", "shapes"]
    step("2a. Build POPE questions from annotations", ["build-pope", *built])
    command = ["pope", "--ckpt", str(checkpoint), "--questions", str(out / "questions")]
    command += ["--images", str(annotations.parent / "images"), "--control", "blind", "--protocol", "default"]
    command += ["--out", str(out / "pope-random-llava")]
    step("2b. Say what would be asked", [*command, "--plan"])
    step(
        "2c. Ask a RANDOM model, with and without the image, check three images' answers, score",
        [*command, "--verify", "3"],
    )
    step("2d. The same command again has nothing left to ask", [*command, "--plan"])
    click.echo(f"\nEverything is in {out}; see {out}/pope-random-llava/scores.json")


def step(title: str, arguments: list[str]) -> None:
    """Announce and run one `agevlm-eval` command in this process."""
    from agevlm.cli import eval_group

    click.secho(f"\n{title}", bold=True)
    click.secho(f"$ agevlm-eval {' '.join(arguments)}\n", bold=True)
    try:
        eval_group.main(arguments, prog_name="agevlm-eval", standalone_mode=False)
    except SystemExit as stop:
        if stop.code:
            raise


def _short(path: Path) -> str:
    """The path from here where it lies below, for a command that a reader can type again."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    demo()
