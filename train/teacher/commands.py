"""`agevlm-train masks`. Heavy imports happen inside it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from agevlm.errors import DataError
from agevlm.terminal import DEVICE, DTYPE, JSON, consoles, stoppable, write_json

if TYPE_CHECKING:
    from agevlm.data.noise import Noise
    from train.data.samples import Source
    from train.teacher.gates import Gates
    from train.teacher.producer import MaskProducer

PRODUCERS = ("grounded-sam", "boxes-sam", "annotations", "own")
USED_BY = {
    "detector": PRODUCERS[:1],
    "detector_mode": PRODUCERS[:1],
    "sam": PRODUCERS[:2],
    "dtype": PRODUCERS[:2],
    "device": PRODUCERS[:2],
    "annotations": PRODUCERS[1:3],
}
"""Options that not every producer heeds, with those that do."""
USED_WITH = {"images": "data", "overrides": "config", "number": "config"}
"""Options of the samples, with the one that they belong to."""
NOT_AGAINST = ("data", "config", "overrides", "number", "phrases", "sheet", "share", "max_unread", "readers")


@click.command()
@click.option("--data", type=click.Path(path_type=Path), metavar="FILE", help="Conversations: LLaVA's JSON or JSONL.")
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR", help="Their images, or those of --against.")
@click.option("--config", metavar="FILE|NAME", help="A stage instead, whose source is taken; with --set and --source.")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Change a setting of the stage.")
@click.option("--source", "number", default=0, show_default=True, type=click.IntRange(0), help="Which of its sources.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the regions.")
@click.option(
    "--phrases",
    default="given",
    show_default=True,
    metavar="given|coco|FILE|spacy:PIPELINE",
    help="Which words to look for: those that the data name; COCO's categories; a file with a phrase a line; or the "
    "noun phrases of a spaCy pipeline.",
)
@click.option(
    "--producer",
    "kind",
    default=PRODUCERS[0],
    show_default=True,
    type=click.Choice(PRODUCERS),
    help="What finds regions: Grounding DINO's boxes and SAM's masks; SAM's masks of annotated boxes; annotated masks; "
    "or those that the data have themselves (rendered scenes, records with a segmentation).",
)
@click.option(
    "--detector",
    default="IDEA-Research/grounding-dino-tiny",
    show_default=True,
    metavar="FOLDER|ORG/NAME",
    help="A Grounding DINO.",
)
@click.option(
    "--detector-mode",
    default="rows",
    show_default=True,
    type=click.Choice(["rows", "joint"]),
    help="One phrase a row, or all phrases of an image in one text (faster; boxes go by the scores of token spans).",
)
@click.option(
    "--sam",
    default="facebook/sam-vit-huge",
    show_default=True,
    metavar="FOLDER|ORG/NAME|vit_h:FILE.pth",
    help="A SAM in safetensors, or one of segment-anything's files with its kind (vit_b, vit_l, vit_h).",
)
@click.option("--annotations", type=click.Path(path_type=Path), metavar="FILE", help="COCO-style instances.json.")
@click.option("--against", type=click.Path(path_type=Path), metavar="FILE", help="Score a producer instead: instances.")
@click.option(
    "--min-score", "score", type=click.FloatRange(0, 1), help="Least score of a box.  [0.3; annotations: none]"
)
@click.option("--min-iou", "predicted_iou", type=float, help="Least quality that SAM claims for a mask.  [0.7]")
@click.option("--min-stability", "stability", type=click.FloatRange(0, 1), help="Least stability of a mask.  [0.7]")
@click.option("--min-area", "least_area", type=click.FloatRange(0, 1), help="Least share of the image.  [0.002]")
@click.option("--max-area", "most_area", type=click.FloatRange(0, 1), help="Largest share of the image.  [0.9]")
@click.option("--min-box-iou", "box_iou", type=click.FloatRange(0, 1), help="Of the mask's own box and its box.  [0.5]")
@click.option("--max-regions", "most_regions", type=click.IntRange(1), help="A phrase with more is left out.  [20]")
@click.option(
    "--noise",
    type=(str, float),
    metavar="erode|dilate|shift|drop|swap LEVEL",
    help="Regions as a worse teacher's: see docs/masks.md.",
)
@click.option(
    "--sheet",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Draw some images with their regions once all parts are there.",
)
@click.option(
    "--share", default=1.0, show_default=True, type=click.FloatRange(0, 1, min_open=True), help="Of the samples."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of that share, and of the noise.")
@click.option("--batch-images", default=8, show_default=True, type=click.IntRange(1), help="Images at once.")
@click.option("--readers", default=4, show_default=True, type=click.IntRange(1), help="Threads that read images ahead.")
@click.option(
    "--max-unread",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of broken samples to bear.",
)
@click.option("--rank", type=click.IntRange(0), envvar="RANK", help="Of this process, from 0.  [torchrun's, or 0]")
@click.option("--ranks", type=click.IntRange(1), envvar="WORLD_SIZE", help="Processes at work.  [torchrun's, or 1]")
@DEVICE
@DTYPE
@JSON
@click.pass_context
def masks(
    context: click.Context,
    /,
    out: Path | None,
    against: Path | None,
    noise: tuple[str, float] | None,
    json_out: str | None,
    **options: Any,
) -> None:
    """Find the regions of phrases: the teacher of stages 3 and 4.

    Regions go to Parquet files in COCO's run lengths, part by part: what is done is not done again. A stage uses them
    with sources.N.options.masks=DIR. Several processes share the work, each with its --rank of --ranks, or by torchrun.

    \b
    agevlm-train masks --data llava.jsonl --images images --phrases coco --share 0.1 --out regions
    agevlm-train masks --data llava.jsonl --images images --phrases coco --sam vit_h:sam_vit_h_4b8939.pth --out regions
    agevlm-train masks --producer annotations --annotations instances.json --data captions.jsonl --images images --out r
    agevlm-train masks --against scenes/instances.json --detector ./dino --sam ./sam
    """
    from agevlm.data.noise import Noise

    made = None if noise is None else Noise(*noise)
    if (against is None) == (out is None):
        raise click.UsageError("give --out for the regions of --data or --config, or --against to score a producer")
    if against is not None:
        given = [name for name in NOT_AGAINST if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if given:
            named = next(p.opts[0] for p in context.command.params if p.name == given[0])
            raise click.UsageError(f"{named} says nothing to --against, which asks about the annotations' own images")
        if made is not None and made.kind == "swap":
            raise click.UsageError("--noise swap takes other samples' regions: it goes with --out, not with --against")
    _refuse_idle(context, options, against is not None)
    if options["ranks"] is not None and options["rank"] is None:
        raise click.UsageError("--ranks needs --rank, this process's number from 0")
    with stoppable():
        if against is not None:
            _score(against, made, json_out, options)
        else:
            assert out is not None
            _make(out, made, json_out, options)


def _refuse_idle(context: click.Context, options: dict[str, Any], scoring: bool) -> None:
    """An option that would change nothing is a misunderstanding."""
    opts = {str(p.name): p.opts[0] for p in context.command.params}
    given = {name for name in opts if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    for name, producers in USED_BY.items():
        if name in given and options["kind"] not in producers:
            raise click.UsageError(
                f"{opts[name]} says nothing to --producer {options['kind']}, but to {' and '.join(producers)}"
            )
    for name, other in USED_WITH.items():
        if name in given and options[other] is None and not scoring:
            raise click.UsageError(f"{opts[name]} goes with {opts[other]}, which is not given")


def _make(out: Path, noise: Noise | None, json_out: str | None, options: dict[str, Any]) -> None:
    from train.data.masked import MaskedSource
    from train.data.region_table import part_path, read_manifest
    from train.teacher.phrases import open_finder
    from train.teacher.report import print_summary
    from train.teacher.run import MaskSettings, make_masks
    from train.teacher.summary import summarise

    source = _source(options)
    settings = MaskSettings(
        finder=open_finder(options["phrases"]),
        producer=_producer(options, options["annotations"]),
        gates=_gates(options),
        noise=noise,
        share=options["share"],
        seed=options["seed"],
        batch_images=options["batch_images"],
        readers=options["readers"],
        most_unread=options["max_unread"],
    )
    rank, ranks = options["rank"] or 0, options["ranks"] or 1
    if rank >= ranks:
        raise click.UsageError(f"--rank {rank} of --ranks {ranks}: ranks are counted from 0")
    console, notes = consoles()
    with _bar("parts", notes, rank == 0) as progress:
        try:
            work = make_masks(source, settings, out, rank=rank, ranks=ranks, progress=progress)
        except KeyboardInterrupt:
            notes.print(f"interrupted: parts that are done are safe in {out}; the same command goes on")
            raise
    for one in work.unread[:10]:
        notes.print(f"left out: {one['reason']}")
    manifest = read_manifest(out)
    assert manifest is not None
    complete = all(part_path(out, part).is_file() for part in range(manifest.parts))
    # Whoever ends last finds all parts there, and speaks for all.
    if not complete:
        notes.print(f"{out}: {work.parts} parts are done by this process; those of the others are not all there yet")
        return
    summary = summarise(out, manifest)
    write_json([{**asdict(summary), "seconds_per_image": summary.seconds_per_image}], json_out)
    if json_out != "-":
        print_summary(console, summary, work, ranks)
        click.echo(f"wrote {out}")
    regions = MaskedSource(source, out)
    if options["sheet"] is not None:
        from train.teacher.sheet import write_sheet

        write_sheet(regions, options["sheet"], f"{source.name}: {settings.version}")
        if json_out != "-":
            click.echo(f"wrote {options['sheet']}")


def _score(against: Path, noise: Noise | None, json_out: str | None, options: dict[str, Any]) -> None:
    from agevlm.data.annotations import load_instances
    from train.teacher.against import TEXTS, has_mentions, questions, score_producer, scores
    from train.teacher.report import print_scores

    producer = _producer(options, options["annotations"] or against)
    if producer is None:
        raise click.UsageError("--producer own: there are no regions of their own to score; give another")
    instances = load_instances(against)
    images = options["images"] or against.parent
    texts = [path for name in TEXTS if (path := against.parent / name).is_file()]
    console, notes = consoles()
    for path in texts:
        if not has_mentions(path):
            notes.print(f"{path} is not read: it has no texts with mentions as agevlm-eval build-scenes writes them")
    asked = questions(instances, [path for path in texts if has_mentions(path)], options["seed"])
    with _bar("images", notes) as progress:
        outcomes = score_producer(
            instances,
            images,
            asked,
            producer,
            _gates(options),
            noise=noise,
            seed=options["seed"],
            batch_images=options["batch_images"],
            progress=progress,
        )
    found = scores(outcomes)
    write_json([asdict(score) for score in found], json_out)
    if json_out != "-":
        print_scores(console, found, len(asked), producer.version, noise)


def _source(options: dict[str, Any]) -> Source:
    """The samples that were named."""
    from train.config import load_stage
    from train.data.sources import open_source
    from train.spec import SourceSpec

    data, config = options["data"], options["config"]
    if (data is None) == (config is None):
        raise click.UsageError("give the conversations with --data FILE --images DIR, or a stage with --config")
    if data is not None:
        images = options["images"]
        return open_source(
            SourceSpec("llava", options={"path": data, **({} if images is None else {"images": images})})
        )
    spec = load_stage(config, options["overrides"])
    if options["number"] >= len(spec.sources):
        raise DataError(f"--source {options['number']}: stage {spec.name} has {len(spec.sources)}, counted from 0")
    chosen = spec.sources[options["number"]]
    return open_source(replace(chosen, options={k: v for k, v in chosen.options.items() if k != "masks"}))


def _gates(options: dict[str, Any]) -> Gates:
    from train.teacher.gates import EXACT, Gates

    if options["predicted_iou"] is not None and math.isnan(options["predicted_iou"]):
        raise click.UsageError("--min-iou nan is no limit")
    base = EXACT if options["kind"] in ("annotations", "own") else Gates()
    return replace(base, **{name: options[name] for name in asdict(base) if options[name] is not None})


def _producer(options: dict[str, Any], annotations: Path | None) -> MaskProducer | None:
    """What finds regions; None: the source itself knows them."""
    kind = options["kind"]
    if kind == "own":
        return None
    from agevlm.data.annotations import load_instances
    from train.teacher.annotations import AnnotationDetector, AnnotationProducer
    from train.teacher.producer import Grounded

    if kind in ("boxes-sam", "annotations") and annotations is None:
        raise click.UsageError(f"--producer {kind} needs --annotations instances.json")
    if kind == "annotations":
        assert annotations is not None
        return AnnotationProducer(load_instances(annotations))
    device = _device(options["device"], options["rank"] or 0)
    if kind == "boxes-sam":
        assert annotations is not None
        return Grounded(AnnotationDetector(load_instances(annotations)), _sam(options, device))
    from train.teacher.grounding_dino import GroundingDinoDetector

    score = options["score"]
    detector = GroundingDinoDetector.open(
        options["detector"],
        device=device,
        dtype=options["dtype"],
        mode=options["detector_mode"],
        **({} if score is None else {"threshold": score}),
    )
    return Grounded(detector, _sam(options, device))


def _sam(options: dict[str, Any], device: str) -> Any:
    name = options["sam"]
    kind, _, file = name.partition(":")
    if kind in ("vit_b", "vit_l", "vit_h") and file:
        from train.teacher.sam import SamSegmenter

        return SamSegmenter.open(Path(file).expanduser(), kind, device=device, dtype=options["dtype"])
    from train.teacher.hf_sam import HfSamSegmenter

    return HfSamSegmenter.open(name, device=device, dtype=options["dtype"])


def _device(name: str, rank: int) -> str:
    """As given; auto: this process's GPU, if there is any: torchrun's number of it, or one after the other by rank."""
    if name != "auto":
        return name
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', rank % torch.cuda.device_count())}"


@contextmanager
def _bar(name: str, console: Any, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, where that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: Sequence[Any] = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)
