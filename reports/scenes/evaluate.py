"""What a model knows of held-out scenes: existence, CV-Scenes, and where it looks; written into a folder once."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agevlm.errors import DataError
from agevlm.vlm.contract import Vlm
from reports.scenes.asking import AnswerRow, answer_scores, ask_all
from reports.scenes.causal import CausalRow, causal_scores, hide_and_ask
from reports.scenes.files import ANSWERS, CAUSAL, LOOKS, SCORES, read_rows, write_json, write_rows
from reports.scenes.intervals import DRAWS, image_draws
from reports.scenes.looks import LookRow, look_all, look_scores
from train.scenes.store import SceneStore

BATCH = 64
LOOK_SCENES, CAUSAL_SCENES = 500, 200
"""Of the test scenes, at most: those that are looked at, and those from which objects are hidden."""


def load_vlm(checkpoint: Path) -> Vlm:
    """A checkpoint folder in float32 on the CPU: every arm is measured alike."""
    from agevlm.vlm.hf.session import HfVlm

    return HfVlm.load(checkpoint, dtype="float32", device="cpu", batch_size=BATCH)


def evaluate(
    checkpoint: Path, test: SceneStore, validation: SceneStore, out: Path, images: int, seed: int = 0
) -> Mapping[str, Any]:
    """Measure one checkpoint on the first test scenes; what is in `out` already is not measured again.

    Writes answers.jsonl, looks.jsonl, causal.jsonl, and scores.json last: where that is, all of it is. Thresholds of
    attention come from the validation scenes, every number from the test scenes, every interval from resampling these.

    Args:
        checkpoint: folder of the model.
        test: held-out scenes.
        validation: other held-out scenes.
        out: folder.
        images: test scenes to use.
        seed: of which questions are asked.

    Returns:
        What scores.json holds.

    Raises:
        DataError: `out` holds the measurement of another checkpoint or of other scenes.
    """
    if (out / SCORES).is_file():
        before = read_scores(out)
        for name, now in (("checkpoint", str(checkpoint)), ("scenes", test.folder.name)):
            if before[name] != now:
                raise DataError(f"{out} was measured with {name} {before[name]}, not {now}; give another --out")
        return before
    images = min(images, len(test))
    vlm = load_vlm(checkpoint)
    began = time.process_time()
    answers = ask_all(vlm, test, images, seed)
    write_rows(out / ANSWERS, answers)
    asked = time.process_time()
    looks = look_all(vlm, test, min(images, LOOK_SCENES), validation)
    write_rows(out / LOOKS, looks.rows)
    looked = time.process_time()
    hidden = hide_and_ask(vlm, test, min(images, CAUSAL_SCENES), seed)
    write_rows(out / CAUSAL, hidden.rows)
    ended = time.process_time()
    weights = image_draws(images)
    scores = {
        "checkpoint": str(checkpoint),
        "fingerprint": vlm.fingerprint.digest,
        "images": images,
        "scenes": test.folder.name,
        "seed": seed,
        "intervals": f"95 %, {DRAWS} bootstrap draws of images",
        "answers": answer_scores(answers, weights),
        "looks": {
            "scenes": min(images, LOOK_SCENES),
            "objects": len(looks.rows),
            "attention": hidden.attention,
            "layers": looks.layers,
            "word_threshold": looks.word_threshold,
            "answer_threshold": looks.answer_threshold,
            "thresholds_chosen_on": f"{looks.tuning_scenes} scenes of {validation.folder.name}",
            **look_scores(looks.rows, image_draws(min(images, LOOK_SCENES))),
        },
        "hiding": {
            "scenes": min(images, CAUSAL_SCENES),
            "objects": len(hidden.rows),
            **hidden.counts,
            **causal_scores(hidden.rows, image_draws(min(images, CAUSAL_SCENES))),
        },
        "cpu_seconds": {"asking": asked - began, "looking": looked - asked, "hiding": ended - looked},
    }
    write_json(out / SCORES, scores)
    return read_scores(out)


def read_scores(folder: Path) -> Mapping[str, Any]:
    """scores.json of an evaluation."""
    scores: Mapping[str, Any] = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    return scores


def read_evaluation(folder: Path) -> tuple[list[AnswerRow], list[LookRow], list[CausalRow]]:
    """All rows of an evaluation."""
    answers, looks = read_rows(folder / ANSWERS, AnswerRow), read_rows(folder / LOOKS, LookRow)
    return answers, looks, read_rows(folder / CAUSAL, CausalRow)
