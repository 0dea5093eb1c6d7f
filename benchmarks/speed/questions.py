"""The fixture: images, and questions that repeat over the splits as those of POPE do."""

from __future__ import annotations

SPLITS = ("random", "popular", "adversarial")
PER_IMAGE = 18
DISTINCT_NEGATIVES = 7.25
"""Mean per image, of nine rows; with three positives POPE has 10.25 distinct questions in its 18 rows."""
OBJECTS = (
    "person", "umbrella", "dining table", "sports ball", "traffic light", "backpack", "bicycle", "chair", "car", "bus",
    "dog", "cat", "cup", "bottle", "bowl", "book",
)  # fmt: skip
"""Names that the tiny checkpoints' tokenizer holds whole, so that a question has about as many tokens as usual."""


def question_rows(index: int) -> list[str]:
    """The 18 questions of one image: three positives, repeated in every split, and negatives that splits partly share.

    Over images the distinct ones average `3 + DISTINCT_NEGATIVES`.
    """
    import random

    negatives = int((index + 1) * DISTINCT_NEGATIVES) - int(index * DISTINCT_NEGATIVES)
    objects = random.Random(index).sample(OBJECTS, 3 + negatives)
    positive, negative = objects[:3], objects[3:]
    # nine places, of which the last ones repeat a negative of an earlier split
    places = (negative + negative)[:9]
    return [
        f"Is there {'an' if name[0] in 'aeiou' else 'a'} {name} in the image?"
        for split in range(len(SPLITS))
        for name in positive + places[3 * split : 3 * split + 3]
    ]


def picture(index: int) -> bytes:
    """A seeded 640 x 480 JPEG file: soft colours under fine noise, so that it is neither flat nor incompressible."""
    import io

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(index)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (640, 480), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(coarse, dtype=np.int64) + rng.integers(-12, 13, (480, 640, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()
