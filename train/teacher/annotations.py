"""Regions that are known: those of COCO-style annotations, for phrases that name a category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from agevlm.data.annotations import Annotation, InstanceImage, Instances
from agevlm.data.masks import Mask, box_of, decode_mask
from agevlm.errors import DataError
from train.data.naming import Names
from train.data.samples import BadSample
from train.teacher.loading import DIGITS
from train.teacher.producer import Detected, Found, Picture


@dataclass(frozen=True, eq=False)
class _Annotated:
    """Annotations, found by picture and phrase."""

    instances: Instances

    @property
    def version(self) -> str:
        """Hash of the annotation file."""
        return f"annotations {self.instances.sha256[:DIGITS]}"

    @cached_property
    def _by_name(self) -> dict[str, list[InstanceImage]]:
        """Images by file name, and by its last part."""
        found: dict[str, list[InstanceImage]] = {}
        for image in self.instances.images:
            for name in {image.file_name, PurePath(image.file_name).name}:
                found.setdefault(name, []).append(image)
        return found

    @cached_property
    def _names(self) -> Names:
        return Names(self.instances.categories.values())

    def image_of(self, picture: Picture) -> InstanceImage:
        """The annotated image that a picture is.

        Raises:
            BadSample: none or several images of its name, or one of another size.
        """
        path = self.instances.path
        named = self._by_name.get(picture.key) or self._by_name.get(PurePath(picture.key).name) or []
        exact = [image for image in named if image.file_name == picture.key]
        images = exact or named
        if len(images) != 1:
            wrong = f"{len(images)} images of that name" if images else "no image of that name"
            raise BadSample(f"image {picture.key}: {path} has {wrong}; give the annotations of these images", "image")
        if picture.image.size != (images[0].width, images[0].height):
            raise BadSample(
                f"image {picture.key}: is {picture.image.width} x {picture.image.height} pixels, but {path} says "
                f"{images[0].width} x {images[0].height}; its annotations would not fit",
                "image",
            )
        return images[0]

    def objects_of(self, picture: Picture) -> list[list[Annotation]]:
        """For each phrase of a picture the annotations of the category that it names, in the file's order."""
        objects = self.instances.of_image(self.image_of(picture).id)
        named = [self._names.meant(phrase) for phrase in picture.phrases]
        return [[each for each in objects if each.category == name] for name in named]

    def mask_of(self, picture: Picture, annotation: Annotation) -> Mask:
        """Where an object is. Raises BadSample if the file does not say."""
        where = f"image {picture.key}: an annotation of {annotation.category} in {self.instances.path}"
        if annotation.segmentation is None:
            raise BadSample(f"{where} has no segmentation", "region")
        try:
            return decode_mask(annotation.segmentation, picture.image.height, picture.image.width)
        except DataError as error:
            raise BadSample(f"{where}: {error}", "region") from None


class AnnotationDetector(_Annotated):
    """Boxes of annotated objects, each with score 1. Crowds, whose box is around many objects, are left out."""

    def detect(self, pictures: Sequence[Picture]) -> list[list[list[Detected]]]:
        """Boxes of the objects of the category that each phrase names; see `Names.meant`.

        Raises:
            BadSample: a picture that is not annotated or of another size, or an object with neither box nor region.
        """
        return [
            [
                [self._box_of(picture, each) for each in objects if not each.iscrowd]
                for objects in self.objects_of(picture)
            ]
            for picture in pictures
        ]

    def _box_of(self, picture: Picture, annotation: Annotation) -> Detected:
        if annotation.bbox is None:
            return Detected(box_of(self.mask_of(picture, annotation)), 1.0)
        x, y, width, height = annotation.bbox
        return Detected((x, y, x + width, y + height), 1.0)


class AnnotationProducer(_Annotated):
    """Regions exactly as annotated, crowds included: what a teacher would find that makes no mistake."""

    def produce(self, pictures: Sequence[Picture]) -> list[list[list[Found]]]:
        """Regions of the objects of the category that each phrase names; see `Names.meant`.

        Raises:
            BadSample: a picture that is not annotated or of another size, or an object without a region.
        """
        return [
            [[self._found(picture, each) for each in objects] for objects in self.objects_of(picture)]
            for picture in pictures
        ]

    def _found(self, picture: Picture, annotation: Annotation) -> Found:
        return Found.of(self.mask_of(picture, annotation))
