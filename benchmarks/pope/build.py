"""Building POPE questions from instance annotations, the way POPE itself samples them.

Per image the first `per_image` listed objects are asked about (yes), each followed at once by one absent object (no):

- random: any object of the sampled images' vocabulary;
- popular: the object that is in most of the sampled images;
- adversarial: the object that shares most images with the present object just asked about;

always one that is not in the image and was not asked about it before; popular and adversarial fall back to random when
their list has no such object. Objects of equal frequency keep the order in which they first appear.

Two things differ from POPE's own script. The images are put in the order of their file names before sampling and after
it, and every image draws from its own stream of the seed, so the order of the images in the annotation file has no
influence (the order of the annotations within an image has: it decides which objects are the first). And the article
is put right without touching the rest of the question (the script turned "image" into "imange").

Source: RUCAIBox/POPE 3df3ba1, main.py and utils.py; Li et al. 2023, arXiv 2305.10355.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from agevlm.data.annotations import InstanceImage, Instances
from agevlm.errors import DataError
from benchmarks.pope.types import SPLITS, Question
from benchmarks.pope.versions import content_sha256

TEMPLATE = "Is there a {} in the image?"
"""POPE's question."""

_ARTICLE = re.compile(r"\b([Aa])n?(?=\s+\{\})")


@dataclass(frozen=True)
class PopeBuild:
    """Built questions in all three splits, and what they were built from."""

    questions: tuple[Question, ...]
    """Grouped by split; ids count from 1 in each split, odd ids are yes and even ids no, as in POPE's files."""
    annotations: Path
    annotations_sha256: str
    seed: int
    per_image: int
    template: str
    images_total: int
    usable: tuple[str, ...]
    """File names of the images that questions can be asked about, sorted."""
    sampled: tuple[str, ...]
    """File names of the images that are asked about, sorted."""
    unusable: Mapping[str, int]
    """How many images cannot be asked about, by reason."""
    object_frequency: Mapping[str, int]
    """In how many sampled images each object is, most frequent first."""
    fallbacks: Mapping[str, int]
    """How many negatives of each split were drawn at random because its own list had no absent object left."""
    content_sha256: str

    def rows(self) -> list[dict[str, object]]:
        """One row of plain values for each split, for `--json`."""
        shared = {"images": self.images_total, "usable": len(self.usable), "sampled": len(self.sampled)}
        return [
            {
                "benchmark": "pope",
                "split": split,
                "questions": sum(q.split == split for q in self.questions),
                **shared,
                "unusable": dict(self.unusable),
                "fallbacks": self.fallbacks.get(split, 0),
                "seed": self.seed,
                "content_sha256": self.content_sha256,
            }
            for split in SPLITS
        ]


def build_pope(
    instances: Instances,
    *,
    num_images: int | None = None,
    per_image: int = 3,
    seed: int = 0,
    template: str = TEMPLATE,
) -> PopeBuild:
    """Sample images and build the random, popular and adversarial questions about them.

    Args:
        instances: the annotated images.
        num_images: how many images to sample; None takes every usable one.
        per_image: present objects per image and split, each with one absent object.
        seed: of the sampling; the same annotations and seed give the same questions.
        template: the question with one `{}` for the object; an article right before it becomes "a" or "an".

    Raises:
        DataError: two images of one file name, no or too few usable images, a vocabulary too small to leave
            `per_image` absent objects for every image, or a bad template or count.
    """
    if template.count("{}") != 1:
        raise DataError(f"question template {template!r}: it must hold {{}} exactly once, where the object goes")
    if per_image < 1 or (num_images is not None and num_images < 1):
        raise DataError(f"{num_images} images with {per_image} objects each: both numbers must be at least 1")
    usable, unusable = _usable(instances, per_image)
    sampled = usable
    if num_images is not None:
        if num_images > len(usable):
            raise DataError(
                f"{instances.path}: {num_images} images asked for, {len(usable)} of {len(instances.images)} are usable "
                f"({_reasons(unusable)}); ask for at most {len(usable)} images or fewer objects per image"
            )
        sampled = sorted(Random(f"{seed}:images").sample(usable, num_images), key=lambda image: image.file_name)
    frequency = _most_frequent_first(obj for image in sampled for obj in image.objects)
    for image in sampled:
        absent = len(frequency.keys() - set(image.objects))
        if absent < per_image:
            raise DataError(
                f"{instances.path}: the {num_images} sampled images have {len(frequency)} kinds of objects together, "
                f"of which {image.file_name} lacks {absent}, and {per_image} are needed; sample more images, take "
                "another seed or ask about fewer objects per image"
            )
    ask = _asker(template)
    questions: list[Question] = []
    fallbacks = {}
    for split, ranking in _rankings(sampled, frequency).items():
        rows, fallbacks[split] = _split_questions(split, sampled, list(frequency), ranking, per_image, seed, ask)
        questions.extend(rows)
    return PopeBuild(
        questions=tuple(questions),
        annotations=instances.path,
        annotations_sha256=instances.sha256,
        seed=seed,
        per_image=per_image,
        template=template,
        images_total=len(instances.images),
        usable=tuple(image.file_name for image in usable),
        sampled=tuple(image.file_name for image in sampled),
        unusable=unusable,
        object_frequency=frequency,
        fallbacks=fallbacks,
        content_sha256=content_sha256(questions),
    )


def write_pope(build: PopeBuild, out: str | Path, *, name: str | None = None) -> tuple[Path, ...]:
    """Write `<name>_pope_<split>.json` (JSON lines as POPE's own) and the manifest `pope.json` into folder `out`.

    Files of the same names are replaced. `name` is the folder's name unless given; it becomes the questions' family.

    Returns:
        The written files, the manifest last.

    Raises:
        DataError: the folder cannot be made or written, or the name has a slash in it.
    """
    out = Path(out)
    name = name if name is not None else out.resolve().name
    if not name or "/" in name or "\\" in name:
        raise DataError(f"name {name!r}: it becomes the beginning of file names; give one without slashes")
    texts = {}
    counts = {}
    for split in SPLITS:
        rows = [question for question in build.questions if question.split == split]
        texts[out / f"{name}_pope_{split}.json"] = "".join(json.dumps(_row(question)) + "\n" for question in rows)
        counts[split] = len(rows)
    texts[out / "pope.json"] = json.dumps(_manifest(build, name, counts), indent=2) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise DataError(f"{error.filename or out}: cannot be written: {error.strerror or error}") from None
    return tuple(texts)


def _row(question: Question) -> dict[str, object]:
    label = "yes" if question.label else "no"
    return {"question_id": int(question.question_id), "image": question.image, "text": question.text, "label": label}


def _manifest(build: PopeBuild, name: str, counts: Mapping[str, int]) -> dict[str, object]:
    return {
        "kind": "pope-build",
        "name": name,
        "annotations": {"file": build.annotations.name, "sha256": build.annotations_sha256},
        "seed": build.seed,
        "per_image": build.per_image,
        "template": build.template,
        "images": {
            "total": build.images_total,
            "usable": len(build.usable),
            "sampled": len(build.sampled),
            "unusable": dict(build.unusable),
        },
        "object_frequency": dict(build.object_frequency),
        "questions": dict(counts),
        "random_fallbacks": dict(build.fallbacks),
        "content_sha256": build.content_sha256,
    }


def _usable(instances: Instances, per_image: int) -> tuple[list[InstanceImage], dict[str, int]]:
    images: dict[str, InstanceImage] = {}
    for image in instances.images:
        other = images.setdefault(image.file_name, image)
        if other is not image:
            raise DataError(
                f"{instances.path}: images {other.id!r} and {image.id!r} have the same file name {image.file_name}; "
                "questions name images by file, so file names must be unique"
            )
    few = [name for name, image in images.items() if len(image.objects) < per_image]
    unusable = {f"fewer than {per_image} different objects": len(few)} if few else {}
    usable = [images[name] for name in sorted(images.keys() - set(few))]
    crowded = 0
    while True:
        # dropping an image can take objects out of the vocabulary, so look again until nothing changes
        vocabulary = {obj for image in usable for obj in image.objects}
        kept = [image for image in usable if len(vocabulary) - len(image.objects) >= per_image]
        if len(kept) == len(usable):
            break
        crowded += len(usable) - len(kept)
        usable = kept
    if crowded:
        unusable[f"fewer than {per_image} absent objects in the vocabulary"] = crowded
    if not usable:
        raise DataError(
            f"{instances.path}: none of {len(images)} images is usable ({_reasons(unusable)}); annotate more kinds of "
            "objects or ask about fewer objects per image"
        )
    return usable, unusable


def _reasons(unusable: Mapping[str, int]) -> str:
    return ", ".join(f"{count} with {reason}" for reason, count in unusable.items()) or "there are no more"


def _most_frequent_first(objects: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for obj in objects:
        counts[obj] = counts.get(obj, 0) + 1
    # the sort is stable: ties stay in the order of first appearance
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _rankings(
    images: Sequence[InstanceImage], frequency: Mapping[str, int]
) -> dict[str, Callable[[str], Sequence[str]]]:
    """For each split: from the present object just asked about to the absent objects that are preferred, best first."""
    popular = list(frequency)
    companions: dict[str, list[str]] = {obj: [] for obj in frequency}
    for image in images:
        for obj in image.objects:
            companions[obj].extend(other for other in image.objects if other != obj)
    beside = {obj: list(_most_frequent_first(others)) for obj, others in companions.items()}
    return {"random": lambda _: (), "popular": lambda _: popular, "adversarial": lambda obj: beside[obj]}


def _split_questions(
    split: str,
    images: Sequence[InstanceImage],
    vocabulary: Sequence[str],
    ranking: Callable[[str], Sequence[str]],
    per_image: int,
    seed: int,
    ask: Callable[[str], str],
) -> tuple[list[Question], int]:
    rows: list[Question] = []
    fallbacks = 0
    for image in images:
        random = Random(f"{seed}:{split}:{image.file_name}")
        taken = set(image.objects)
        for present in image.objects[:per_image]:
            absent = next((obj for obj in ranking(present) if obj not in taken), None)
            if absent is None:
                fallbacks += split != "random"
                absent = random.choice([obj for obj in vocabulary if obj not in taken])
            taken.add(absent)
            for obj, label in ((present, True), (absent, False)):
                identity, where = str(len(rows) + 1), f"built from {image.file_name}"
                rows.append(Question(split, identity, image.file_name, ask(obj), label, obj, image.file_name, where))
    return rows, fallbacks


def _asker(template: str) -> Callable[[str], str]:
    """The template as a function of the object; only an article that stands right before `{}` is changed."""
    import inflect

    engine = inflect.engine()

    def ask(obj: str) -> str:
        ending = "n" if str(engine.a(obj)).startswith("an ") else ""
        return _ARTICLE.sub(rf"\g<1>{ending}", template).replace("{}", obj)

    return ask
