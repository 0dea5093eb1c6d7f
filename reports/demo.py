"""`make demo`: the suite at work without any download.

Part 1 asks the trained checkpoints that come with the package about rendered scenes, compares them, and shows where
they look. Part 2 looks inside them: similarity, attention against masks, signs of failure. Part 3 re-scores a small
answer file under every protocol. Part 4 runs the commands for real data on tiny randomly initialised checkpoints, whose
answers are coin tosses; it says so where it does. Last comes one page with the evidence of parts 1 and 2.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from agevlm.scenes.language import article

DATA = Path(__file__).parent / "demo_data"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), help="Folder for what it makes.")
def demo(out: Path) -> None:
    """Show the suite at work on data of its own."""
    from reports.demo_inside import inside

    click.secho("AGE-VLM demo", bold=True)
    click.echo(
        "Parts 1 to 3 are real: trained models, real protocols. Part 4 runs tiny randomly initialised models: they"
    )
    click.echo("show that the machinery for your own data works, not that a model sees. One page comes last.")
    evidence = [*scenes(out), *inside(out, step)]
    answers = ["--answers", _short(DATA / "answers.jsonl"), "--questions", _short(DATA / "demo_pope_random.json")]
    step("3. The same 48 answers under every published POPE protocol", ["score", "pope", *answers])
    your_own_data(out)
    page(out / "report", evidence)


def page(out: Path, runs: list[Path]) -> None:
    """One page of evidence from all run folders; its path is the last line."""
    shutil.rmtree(out, ignore_errors=True)
    title = "AGE-VLM beside its baselines, in the rendered world"
    step(
        "5. One page of evidence: open it in a browser",
        ["report", *map(_short, runs), "--title", title, "--out", str(out)],
    )


def your_own_data(out: Path) -> None:
    """The commands for annotations and checkpoints of one's own, on drawn pictures and random models."""
    from agevlm.checkpoints.tiny import AgeVlmShape, build_age_vlm, build_tiny_llava
    from reports.demo_pictures import draw_pictures

    for made in ("pictures", "random-llava", "random-age-vlm", "questions", "pope-random-llava", "pope-random-age-vlm"):
        shutil.rmtree(out / made, ignore_errors=True)
    annotations = draw_pictures(out / "pictures", count=16, seed=0)
    checkpoint = build_tiny_llava(out / "random-llava", seed=0, answers=True)
    click.echo(f"\ndrew 16 annotated pictures and wrote a random LLaVA-shaped checkpoint to {out}")
    built = ["--annotations", str(annotations), "--out", str(out / "questions"), "--name", "shapes"]
    step("4a. Build POPE questions from annotations", ["build-pope", *built])
    command = ["pope", "--ckpt", str(checkpoint), "--questions", str(out / "questions")]
    command += ["--images", str(annotations.parent / "images"), "--control", "blind", "--protocol", "default"]
    command += ["--out", str(out / "pope-random-llava")]
    step("4b. Say what would be asked", [*command, "--plan"])
    step(
        "4c. Ask a RANDOM model, with and without the image, check three images' answers, score",
        [*command, "--verify", "3"],
    )
    step("4d. The same command again has nothing left to ask", [*command, "--plan"])
    age_vlm = build_age_vlm(out / "random-age-vlm", seed=2, answers=True, shape=AgeVlmShape(image_size=384))
    command = ["pope", "--ckpt", str(age_vlm), "--questions", str(out / "questions")]
    command += ["--images", str(annotations.parent / "images"), "--protocol", "default"]
    command += ["--out", str(out / "pope-random-age-vlm"), "--verify", "3"]
    step("4e. AGE-VLM itself (RANDOM weights): the image's keys and values are made once", command)
    picture = sorted((annotations.parent / "images").iterdir())[0]
    looking = ["look", "--ckpt", str(age_vlm), "--image", str(picture), "--out", str(out / "look.png")]
    step(
        "4f. Where does it look? (nowhere in particular yet)",
        [*looking, "--question", "Is there a circle in the image?"],
    )


def scenes(out: Path) -> list[Path]:
    """POPE-Scenes and CV-Scenes for every trained checkpoint, compared; where AGE-VLM and the baseline look.

    Returns:
        The run folders.
    """
    from agevlm.data.checkpoint_files import embedded_names

    names = embedded_names()
    pope, cvbench = ([out / f"{kind}-{name.removeprefix('scenes/')}" for name in names] for kind in ("pope", "cvbench"))
    letters = iter("abcdefghijklm")
    for name, folder in zip(names, pope, strict=True):
        shutil.rmtree(folder, ignore_errors=True)
        command = ["pope", "--ckpt", name, "--questions", "scenes:200", "--control", "blind", "--protocol", "default"]
        step(f"1{next(letters)}. POPE-Scenes: {name}", [*command, "--out", str(folder)])
    for name, folder in zip(names, cvbench, strict=True):
        shutil.rmtree(folder, ignore_errors=True)
        command = ["cvbench", "--ckpt", name, "--questions", "scenes:60", "--control", "blind"]
        command += ["--reading", "rules", "--reading", "strict", "--reading", "ranked-text"]
        title = f"1{next(letters)}. CV-Scenes: {name}: one set of answers, read in three ways"
        step(title, [*command, "--out", str(folder)])
    step(f"1{next(letters)}. Is AGE-VLM better? Paired, question by question", ["compare", *map(_short, pope)])
    picture, category = _a_scene(out)
    for name in ("age-vlm", "ca-baseline"):
        looking = ["look", "--ckpt", f"scenes/{name}", "--image", str(picture), "--out", str(out / f"look-{name}.png")]
        question = f"Is there {article(category)} {category} in the image?"
        step(f"Where does {name} look?", [*looking, "--question", question, "--word", category])
    return [*pope, *cvbench]


def _a_scene(out: Path) -> tuple[Path, str]:
    """A held-out test scene as a picture file, and the first of its objects."""
    from PIL import Image

    from agevlm.scenes.types import split_seeds
    from agevlm.scenes.world import render

    scene = render(split_seeds("test", 1, start=7)[0])
    out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(out / "scene.png")
    return out / "scene.png", scene.instances[-1].category


def step(title: str, arguments: list[str]) -> None:
    """Announce and run one `agevlm-eval` command in this process."""
    from agevlm.cli import eval_group

    click.secho(f"\n{title}", bold=True)
    click.secho(f"$ agevlm-eval {' '.join(arguments)}\n", bold=True)
    # Run folders record the command that made them.
    given, sys.argv = sys.argv, ["agevlm-eval", *arguments]
    try:
        eval_group.main(arguments, prog_name="agevlm-eval", standalone_mode=False)
    except SystemExit as stop:
        if stop.code:
            raise
    finally:
        sys.argv = given


def _short(path: Path) -> str:
    """The path from here where it lies below, for a command that a reader can type again."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    demo()
