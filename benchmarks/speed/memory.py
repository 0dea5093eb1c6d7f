"""Peak memory of a whole POPE run by its number of questions, with a model that weighs nothing."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agevlm.vlm.contract import Ask, EncodedImages, Fingerprint, Prepared, Reply, Vlm
from benchmarks.speed.pope_files import Given, pope_settings, write_pope
from benchmarks.speed.questions import PER_IMAGE

if TYPE_CHECKING:
    from PIL.Image import Image

ROWS = (9_000, 90_000)
"""Questions of POPE on one data set, and ten times as many."""
NAME = "memory"


class _Nothing(EncodedImages):
    def __len__(self) -> int:
        return 1


class Weightless(Vlm):
    """Answers yes or no by the prompt's checksum. Needs no torch, so that what is measured is the run's own."""

    capabilities = frozenset({"logprobs"})

    def __init__(self) -> None:
        self.fingerprint = Fingerprint(NAME, {"name": NAME})

    def encode(self, images: Sequence[Image | Prepared]) -> EncodedImages:
        """Nothing of an image."""
        return _Nothing()

    def answer(self, encoded: EncodedImages, asks: Sequence[Ask]) -> list[Reply]:
        """A reply such as a model gives, log-probabilities included."""
        drawn = [zlib.crc32(ask.prompt.encode()) for ask in asks]
        return [
            Reply("Yes" if n % 2 else "No", "eos", {"yes": -(n % 97) / 9 - 0.1, "no": -(n % 89) / 9 - 0.1}, (1, 2))
            for n in drawn
        ]

    def rank(self, encoded: EncodedImages, asks: Sequence[Ask], options: Sequence[Sequence[str]]) -> list[list[float]]:
        """Not asked for."""
        raise NotImplementedError


def tiny_picture(index: int) -> bytes:
    """A picture of 16 x 16 pixels, each its own, as a PNG file of about 900 bytes."""
    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def peak_bytes() -> int:
    """The most memory this process has had resident (Linux: since it was started, not its parent's)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_here(rows: int, folder: Path) -> dict[str, Any]:
    """Plan, ask and score so many questions in this process, and say what its peak was before and after."""
    from rich.console import Console

    import benchmarks.pope.score  # noqa: F401
    from benchmarks.pope.command import run_pope

    write_pope(folder, rows // PER_IMAGE, tiny_picture, ".png")
    settings = pope_settings(folder, Given(NAME, make=Weightless))
    before = peak_bytes()
    code = run_pope(settings, Console(file=io.StringIO()), Console(file=io.StringIO()))
    if code:
        raise click.ClickException(f"the run on {rows} questions ended with {code}")
    asks = sum(1 for _ in (folder / "run" / "answers-00000.jsonl").open("rb"))
    return {"rows": rows, "asks": asks, "before": before, "peak": peak_bytes()}


def measure_memory(rows: Sequence[int], advance: Callable[[str], None]) -> dict[str, Any]:
    """The peak of a fresh process for each number of questions, and what each further one adds."""
    runs = []
    for count in rows:
        advance(f"{count} questions")
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.speed.memory", str(count), folder],
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise click.ClickException(f"a run on {count} questions failed: {done.stderr.strip()}")
        runs.append(json.loads(done.stdout))
    first, last = runs[0], runs[-1]
    return {
        "runs": runs,
        "bytes_per_further_row": (last["peak"] - first["peak"]) / (last["rows"] - first["rows"]),
        "growth": last["peak"] / first["peak"],
    }


if __name__ == "__main__":
    click.echo(json.dumps(run_here(int(sys.argv[1]), Path(sys.argv[2]))))
