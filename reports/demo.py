"""`make demo`: the suite at work without any download.

There are no trained checkpoints yet, so the demo re-scores a small answer file under every protocol, and runs the other
commands on tiny randomly initialised checkpoints, whose answers are coin tosses; it says so where it does.
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
    click.echo(
        "No trained checkpoint ships with this release. Part 1 scores answers written by hand; parts 2 and 3 run"
    )
    click.echo("tiny randomly initialised models: they show that the machinery works, not that a model sees.")
    answers = ["--answers", _short(DATA / "answers.jsonl"), "--questions", _short(DATA / "demo_pope_random.json")]
    step("1. The same 48 answers under every published POPE protocol", ["score", "pope", *answers])

    from agevlm.checkpoints.tiny import AgeVlmShape, build_age_vlm, build_tiny_llava

    for made in ("pictures", "random-llava", "random-age-vlm", "questions", "pope-random-llava", "pope-random-age-vlm"):
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
    age_vlm = build_age_vlm(out / "random-age-vlm", seed=2, answers=True, shape=AgeVlmShape(image_size=384))
    command = ["pope", "--ckpt", str(age_vlm), "--questions", str(out / "questions")]
    command += ["--images", str(annotations.parent / "images"), "--protocol", "default"]
    command += ["--out", str(out / "pope-random-age-vlm"), "--verify", "3"]
    step("3a. AGE-VLM itself (RANDOM weights): the image's keys and values are made once", command)
    picture = sorted((annotations.parent / "images").iterdir())[0]
    looking = ["look", "--ckpt", str(age_vlm), "--image", str(picture), "--out", str(out / "look.png")]
    step(
        "3b. Where does it look? (nowhere in particular yet)",
        [*looking, "--question", "Is there a circle in the image?"],
    )
    click.echo(f"\nEverything is in {out}; see {out}/look.png and {out}/pope-random-llava/scores.json")


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
