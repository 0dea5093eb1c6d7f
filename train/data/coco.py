"""COCO's captions as conversations, with the regions of the categories that their words name.

A sample is an image with at least one caption: the user asks for a description, the assistant gives one of the
captions. Words of the caption that name a category with instances in the image are a phrase, whose region is the union
of these instances.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from agevlm.data.annotations import Captions, Instances, load_captions, load_instances
from agevlm.errors import DataError
from train.data.files import Records, check_folder, check_size, decode_image, parts_of, read_image, read_region
from train.data.naming import Named, Names
from train.data.samples import BadSample, Message, Phrase, Sample
from train.validation import Where, build

INSTRUCTIONS = (
    "Describe the image.",
    "Describe what the image shows.",
    "What does the image show?",
    "What can be seen in the image?",
    "Give a short description of the image.",
    "Write a caption for the image.",
)


@dataclass(frozen=True)
class CocoOptions:
    """Which captions, and which regions."""

    captions: str
    """COCO-style captions.json."""
    instances: str
    """COCO-style instances.json."""
    images: str
    """Folder of the images that the captions' file names."""
    name: str = ""
    """Of the source; that of the captions' file if empty."""
    crowds: bool = True
    """Whether regions of crowds belong to a category's."""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further words for a category, as person: [man, woman]."""
    seed: int = 0
    """Of what is said."""


class CocoSource:
    """See the module.

    An image's captions follow each other from epoch to epoch, in an order drawn anew for each round. Where some of them
    name a category with a region, only these are given: the image is one of `guided` in every epoch.
    """

    def __init__(self, captions: Captions, instances: Instances, options: CocoOptions) -> None:
        self.images = Path(options.images).expanduser()
        self.name = options.name or captions.path.stem
        self.seed = options.seed
        categories = list(dict.fromkeys(instances.categories.values()))
        if unknown := sorted(set(options.words) - set(categories)):
            raise DataError(f"source coco: words: {instances.path} has no category {unknown[0]!r}")
        self.names = Names(categories, options.words)
        said = [captions.sha256, instances.sha256, options.crowds, options.words, options.seed]
        self.fingerprint = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        guided = array("q")
        self._records = Records(self._all(captions, instances, options.crowds, guided))
        self.guided: Sequence[int] = guided
        if not len(self):
            raise DataError(f"{captions.path}: no image with a caption in it")

    @classmethod
    def open(cls, options: Mapping[str, Any]) -> CocoSource:
        """From a stage's options: see `CocoOptions`.

        Raises:
            ConfigError: an unknown option, or one of a wrong type.
            DataError: a file or folder is missing, or not of COCO's format.
        """
        chosen: CocoOptions = build(CocoOptions, options, (), Where("source coco"))
        check_folder("coco", Path(chosen.images).expanduser())
        captions = load_captions(Path(chosen.captions).expanduser())
        instances = load_instances(Path(chosen.instances).expanduser())
        known = {image.id for image in instances.images}
        if captions.images and not any(image.id in known for image in captions.images):
            raise DataError(
                f"{chosen.instances} has none of the images of {chosen.captions}; give both files of the same split"
            )
        return cls(captions, instances, chosen)

    def __len__(self) -> int:
        return len(self._records)

    def _all(
        self, captions: Captions, instances: Instances, crowds: bool, guided: array[int]
    ) -> Iterator[dict[str, Any]]:
        """The records; those with regions are added to `guided`."""
        known = {image.id for image in instances.images}
        for index, image in enumerate(image for image in captions.images if image.captions):
            regions: dict[str, list[Any]] = {}
            named = {one.category for caption in image.captions for one in self.names.find(caption)}
            for annotation in instances.of_image(image.id) if image.id in known else ():
                if annotation.category in named and annotation.segmentation and (crowds or not annotation.iscrowd):
                    regions.setdefault(annotation.category, []).extend(parts_of(annotation.segmentation))
            if regions:
                guided.append(index)
            yield {
                "id": str(image.id),
                "file": image.file_name,
                "size": [image.width, image.height],
                "captions": image.captions,
                "regions": regions,
            }

    def read(self, index: int, epoch: int) -> Sample:
        """A sample.

        Raises:
            BadSample: its image or a region cannot be used.
            DataError: the folder of images is gone.
        """
        record = self._records[index]
        try:
            return self._sample(record, index, epoch)
        except BadSample as bad:
            raise bad.at(f"source {self.name}", record["id"]) from None

    def _sample(self, record: Mapping[str, Any], index: int, epoch: int) -> Sample:
        file = read_image(self.images, record["file"])
        image = decode_image(file)
        caption, named = self._caption(record, index, epoch)
        if named:
            check_size(image, record["size"])
        masks = {
            category: read_region(record["regions"][category], image, f"regions of {category}")
            for category in dict.fromkeys(one.category for one in named)
        }
        question = INSTRUCTIONS[Random(f"{self.seed}/{index}/{epoch}").randrange(len(INSTRUCTIONS))]
        return Sample(
            record["id"],
            (Message("user", question), Message("assistant", caption)),
            image,
            tuple(Phrase(1, one.start, one.end, masks[one.category]) for one in named),
            image_name=file.name,
            image_sha256=file.sha256,
        )

    def _caption(self, record: Mapping[str, Any], index: int, epoch: int) -> tuple[str, list[Named]]:
        """The epoch's caption, and where it names categories that have a region."""
        found = [
            (caption, [one for one in self.names.find(caption) if one.category in record["regions"]])
            for caption in record["captions"]
        ]
        found = [pair for pair in found if pair[1]] or found
        turn, place = divmod(epoch, len(found))
        order = Random(f"{self.seed}/{index}/captions/{turn}").sample(range(len(found)), len(found))
        return found[order[place]]
