"""How fast training data come: python -m train.data.measure --lines 10000000, or --images DIR.

--lines writes a LLaVA file of so many lines (about 400 bytes each, every tenth with a region), indexes it, reads
records at random, sends the source to another process, and removes the file. --images feeds the JPEG and PNG files of a
folder to a tiny model's processor, as a stage does, with 0, 1 and 2 workers.
"""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import click

from agevlm.errors import DataError
from train.data.llava import LlavaSource
from train.data.samples import Source
from train.spec import ParameterGroup, SourceSpec, StageSpec

LINE_BYTES = 480
"""More than any of the lines written."""
READS = 100_000
MICRO_BATCH = 8
WORDS = ("a", "the", "red", "small", "dog", "cup", "table", "window", "man", "woman", "near", "behind", "under", "with")


@dataclass(frozen=True)
class LinesMeasured:
    """A file of JSON lines."""

    lines: int
    bytes: int
    seconds: float
    """To index it, its bytes being in the system's cache as far as they fit."""
    memory: int
    """Bytes that the process has more than before."""
    microseconds: float
    """To read and parse one record at random."""
    pickled: int
    """Bytes that go to a worker that is not forked."""
    pickling: float
    """Seconds to get them there."""


@dataclass(frozen=True)
class FeedMeasured:
    """A feed with so many workers."""

    workers: int
    images: float
    """A second."""

    def step(self, samples: int) -> float:
        """Seconds that a step of so many samples must take at least, not to wait for data."""
        return samples / self.images


def write_lines(path: Path, count: int) -> None:
    """Write a LLaVA file.

    Raises:
        DataError: the disk has no room for it.
    """
    if shutil.disk_usage(path.parent).free < 2 * LINE_BYTES * count:
        raise DataError(f"{path.parent}: {2 * LINE_BYTES * count / 1e9:.1f} GB must be free; give another --folder")
    draw = Random(0)
    answers = [" ".join(draw.choices(WORDS, k=draw.randint(20, 50))) for _ in range(1000)]
    phrase = {"message": 0, "start": 8, "end": 12, "segmentation": {"size": [480, 640], "counts": "YdX55j>2N2N2O1N2N2"}}
    with path.open("w", encoding="utf-8", buffering=1 << 20) as file:
        for i in range(count):
            said = [("human", "<image>\nWhat is in the image?"), ("gpt", answers[i % len(answers)])]
            turns = [{"from": who, "value": text} for who, text in said]
            record = {"id": f"{i:09d}", "image": f"train2017/{i % 118_000:012d}.jpg", "conversations": turns}
            file.write(json.dumps(record | {"phrases": [phrase]} if i % 10 == 0 else record) + "\n")


def measure_lines(path: Path) -> LinesMeasured:
    """Index a LLaVA file of JSON lines and read from it."""
    before, began = _memory(), time.perf_counter()
    source = LlavaSource(path, None)
    seconds, memory = time.perf_counter() - began, _memory() - before
    draw = Random(1)
    indices = [draw.randrange(len(source)) for _ in range(READS)]
    began = time.perf_counter()
    for index in indices:
        source.record(index)
    reading = time.perf_counter() - began
    began = time.perf_counter()
    sent = pickle.dumps(source)
    pickle.loads(sent)
    pickling = time.perf_counter() - began
    size = path.stat().st_size
    return LinesMeasured(len(source), size, seconds, memory, reading / READS * 1e6, len(sent), pickling)


def measure_feed(source: Source, side: int, workers: int, samples: int) -> FeedMeasured:
    """Feed samples to the processor of a tiny model of this image size.

    Args:
        source: of samples.
        side: of the model's input in pixels.
        workers: processes that read.
        samples: to measure, after those with which workers start.
    """
    from agevlm.checkpoints.tiny import AgeVlmShape, random_age_vlm
    from train.data.collate import Collator
    from train.data.feed import Feed, Portion

    _, processor = random_age_vlm(AgeVlmShape(image_size=side), 0)
    started = max(1, workers) * 2
    spec = StageSpec(
        name="measure",
        arm="none",
        init_from="none",
        out="none",
        stage=1,
        follows=(0,),
        fusion="cross",
        trainable={"none": ParameterGroup((), 0.0)},
        sources=(SourceSpec("llava"),),
        steps=started + samples // MICRO_BATCH,
        batch_size=MICRO_BATCH,
        micro_batch_size=MICRO_BATCH,
        workers=workers,
    )
    batches = Feed(spec, [source], Collator(processor, None, 2048)).batches(0)
    began, count = 0.0, 0
    for number, portion in enumerate(batches):
        if not isinstance(portion, Portion):
            raise portion
        if number == started - 1:
            began = time.perf_counter()
        count += MICRO_BATCH * (number >= started)
    return FeedMeasured(workers, count / (time.perf_counter() - began))


def _memory() -> int:
    """Bytes of this process that are no file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def _photos(images: Path, folder: Path) -> LlavaSource:
    """The images of a folder, with one conversation for all."""
    names = sorted(path.name for path in images.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not names:
        raise DataError(f"{images}: no JPEG or PNG file in it")
    turns = [{"from": "human", "value": "<image>\nWhat is in the image?"}, {"from": "gpt", "value": "A dog and a cup."}]
    path = folder / "photos.jsonl"
    path.write_text("".join(json.dumps({"image": name, "conversations": turns}) + "\n" for name in names))
    return LlavaSource(path, images)


@click.command()
@click.option("--lines", type=click.IntRange(1), help="Write, index and read a file of so many JSON lines.")
@click.option("--images", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Feed these images.")
@click.option(
    "--side", default=768, show_default=True, type=click.IntRange(32), help="Of the model's input, in pixels."
)
@click.option(
    "--samples", default=192, show_default=True, type=click.IntRange(MICRO_BATCH), help="To feed and measure."
)
@click.option(
    "--folder", type=click.Path(path_type=Path, exists=True), help="For the file.  [the system's temporary one]"
)
def main(lines: int | None, images: Path | None, side: int, samples: int, folder: Path | None) -> None:
    """Measure how fast training data come, on this machine as it is now."""
    if lines is None and images is None:
        raise click.UsageError("give --lines or --images")
    with tempfile.TemporaryDirectory(dir=folder) as room:
        if lines is not None:
            path = Path(room) / "lines.jsonl"
            write_lines(path, lines)
            found = measure_lines(path)
            click.echo(
                f"{found.lines:,} lines, {found.bytes / 1e9:.2f} GB: indexed in {found.seconds:.2f} s, "
                f"{found.memory / found.lines:.1f} bytes a line; {found.microseconds:.1f} microseconds a record; "
                f"{found.pickled / 1e6:.1f} MB pickled and back in {found.pickling:.2f} s"
            )
            path.unlink()
        if images is not None:
            source = _photos(images, Path(room))
            for workers in (0, 1, 2):
                fed = measure_feed(source, side, workers, samples)
                click.echo(
                    f"{workers} workers: {fed.images:.1f} images a second at {side} pixels, enough for micro-batches "
                    f"of {MICRO_BATCH} that take {fed.step(MICRO_BATCH):.2f} s or more"
                )


if __name__ == "__main__":
    main()
