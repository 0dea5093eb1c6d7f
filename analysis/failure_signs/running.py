"""What `agevlm-eval failure-signs` does: runs what is missing of the analyses, and reads signs from their scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from agevlm.errors import DataError, NotSupported
from agevlm.terminal import write_json
from agevlm.vlm.choice import ModelChoice
from analysis.failure_signs import language
from analysis.failure_signs.showing import show
from analysis.failure_signs.signs import Measurement, Reading, Threshold, read
from analysis.failure_signs.sources import (
    BLACK,
    GROUNDING,
    NATIVE,
    PADDING,
    SIMILARITY,
    grounding_signs,
    missing,
    padding_signs,
    similarity_signs,
)
from analysis.failure_signs.used import Used
from analysis.launch import Analysis, AnalysisSettings, refuse_closed
from benchmarks.run_folder import RunFolder

NAME = "failure-signs"
SIGN_FOUND = 1
CHOICES = {
    "similarity": "hidden states after the last self-attention layer, mean pooling, other images' captions, one each",
    "padding": f"mean over layers and heads, images that are not square: {NATIVE}; {BLACK} where a model pads none",
    "grounding": "area-matched IoU of the phrase's last token, mean over heads and layers, corrected for chance (mean "
    "map of other images) and the grid's ceiling; objects less the group",
    "language": "cross-entropy of texts alone, from BOS (or EOS) on; exp of the difference over the base's tokens",
    "hallucination": "POPE's protocol `default`, share of yes where the right answer is no; unread is not yes",
    "verdict": "present or absent where the whole 95 % interval lies on one side of the threshold",
    "thresholds": "ours; arXiv 2511.17793 gives none",
}


@dataclass(frozen=True)
class SignsSettings(AnalysisSettings):
    """The options of `agevlm-eval failure-signs`."""

    thresholds: tuple[Threshold, ...]
    pairs: str | None
    captions: Path | None
    regions: str | None
    questions: tuple[str, ...]
    images: Path | None
    base: str | None
    texts: Path | None
    use: tuple[Path, ...]
    fail_on_sign: bool

    def common(self, model: ModelChoice, folder: Path) -> dict[str, Any]:
        """What the settings of each analysis of one model have in common."""
        return {
            "models": (model,),
            "out": folder,
            "fresh": self.fresh,
            "limit": self.limit,
            "seed": self.seed,
            "draws": self.draws,
            "json_out": None,
        }


class _NotMeasured(Exception):
    """There is nothing to measure on, or no way to; the message says what is missing."""


def find_signs(settings: SignsSettings, console: Console, notes: Console) -> int:
    """Measure, judge, print. Returns the exit code: 1 where a sign is present and that was asked for.

    Raises:
        AgeVlmError: bad input, a model that runs elsewhere, a folder in use.
    """
    refuse_closed(settings.models)
    used = Used(settings.use, settings.models)
    texts = None if settings.texts is None else language.read_texts(settings.texts)
    if settings.base is not None:
        language.base_identity(settings.base, settings.models[0].dtype)  # a wrong name is told before any work
    folder = settings.folder(NAME, "signs")
    analysis = Analysis(NAME, settings, folder, notes)
    extra = {"choices": CHOICES, "thresholds": {one.measure: one.value for one in settings.thresholds}}
    with analysis.open(_data(settings), extra):
        readings: list[Reading] = []
        for model in settings.models:
            measured = _Measuring(settings, model, used, analysis).all(texts)
            readings += read(model.name, measured, settings.thresholds)
        rows = [one.row() for one in readings]
        content = {
            "analysis": NAME,
            "limit": settings.limit,
            "draws": settings.draws,
            "seed": settings.seed,
            "choices": CHOICES,
            "thresholds": [
                {"measure": one.measure, "value": one.value, "side": one.side, "why": one.why}
                for one in settings.thresholds
            ],
            "readings": rows,
        }
        folder.write_json("scores.json", content)
    write_json(rows, settings.json_out)
    if settings.json_out != "-":
        show(readings, settings.limit, settings.draws, console)
    notes.print(f"run folder: {folder.path}")
    return SIGN_FOUND if settings.fail_on_sign and any(one.verdict == "present" for one in readings) else 0


def _data(settings: SignsSettings) -> list[dict[str, Any]]:
    given = {
        "pairs": settings.pairs,
        "captions": settings.captions,
        "regions": settings.regions,
        "questions": list(settings.questions) or None,
        "images": settings.images,
        "texts": settings.texts,
        "base": settings.base,
    }
    told: dict[str, Any] = {k: v if isinstance(v, list) else str(v) for k, v in given.items() if v is not None}
    return [{**told, "used": [str(path) for path in settings.use]}]


class _Measuring:
    """All measures of one model. Each analysis has a folder of its own below the run folder."""

    def __init__(self, settings: SignsSettings, model: ModelChoice, used: Used, analysis: Analysis) -> None:
        self.settings, self.model, self.used, self.analysis = settings, model, used, analysis
        self.notes, self.of_scenes = analysis.notes, model.name.startswith("scenes/")
        self.tables = Console(quiet=True)

    def all(self, texts: Sequence[str] | None) -> dict[str, Measurement]:
        """By measure."""
        name, least = self.model.name, {one.measure: one.value for one in self.settings.thresholds}
        return {
            **self._from("similarity", SIMILARITY, self._similarity, similarity_signs),
            **self._from("padding", PADDING, self._padding, padding_signs),
            **self._from("grounding", GROUNDING, self._grounding, lambda c, _: grounding_signs(c, name, least)),
            language.MEASURE: self._language(texts),
        }

    def _from(
        self,
        kind: str,
        measures: tuple[str, ...],
        run: Callable[[Path], object],
        signs: Callable[[Mapping[str, Any], str], dict[str, Measurement]],
    ) -> dict[str, Measurement]:
        """An analysis' measures, from a finished run or from one made now."""
        given = self.used.get(kind, self.model)
        if given is not None:
            self.notes.print(f"{self.model.name}: {kind} from {given[0]}")
            return signs(given[1], self.model.name)
        folder = self.analysis.folder.path / self.model.slug.replace("/", "_") / kind
        try:
            run(folder)
        except (_NotMeasured, NotSupported) as reason:
            return missing(measures, str(reason))
        return signs(json.loads((folder / "scores.json").read_text(encoding="utf-8")), self.model.name)

    def _source(self, given: str | None, what: str) -> str:
        if given is None and not self.of_scenes:
            raise _NotMeasured(f"nothing to measure on: give {what}")
        return given or "scenes"

    def _similarity(self, folder: Path) -> None:
        from analysis.similarity.running import SimilaritySettings, measure_similarity

        settings, pairs = self.settings, self.settings.pairs
        if settings.captions is None:
            pairs = self._source(pairs, "--captions FILE --images DIR, or --pairs FILE")
        measure_similarity(
            SimilaritySettings(
                **settings.common(self.model, folder),
                pairs=pairs,
                annotations=settings.captions,
                images=settings.images,
                instances=None,
                kinds=("other",),
                texts=1,
                prompt="{text}",
                pooling="mean",
                layer=None,
            ),
            self.tables,
            self.notes,
        )

    def _padding(self, folder: Path) -> None:
        from analysis.padding.command import PaddingSettings, run_padding
        from benchmarks.prompts import load_prompt

        settings = self.settings
        questions = settings.questions or (self._source(None, "POPE questions with --questions FILE --images DIR"),)
        run_padding(
            PaddingSettings(
                **settings.common(self.model, folder),
                questions=questions,
                images=settings.images,
                splits=(),
                annotations=None,
                prompt=load_prompt("default"),
                modes=("letterbox",),
                colours=("black",),
                max_new_tokens=16,
                allow_partial=True,
            ),
            self.tables,
            self.notes,
        )

    def _grounding(self, folder: Path) -> None:
        from analysis.grounding.run import GroundingSettings, ground

        settings = self.settings
        ground(
            GroundingSettings(
                common=AnalysisSettings(**settings.common(self.model, folder)),
                source=self._source(settings.regions, "--regions FILE --images DIR"),
                images=settings.images,
                instances=None,
                segments=None,
                prompt="default",
                heads=False,
                max_new_tokens=16,
                max_disk=1000.0,
                remove_sinks=False,
                noises=(),
            ),
            self.tables,
            self.notes,
        )

    def _language(self, texts: Sequence[str] | None) -> Measurement:
        settings, model = self.settings, self.model
        texts = texts or language.default_texts(model)
        try:
            held = self._kept(language.key_of(model.fingerprint().digest, texts, model.folder()), self._spoken(texts))
            spoken, base = language.Spoken.from_json(held), None
            if settings.base is not None and not spoken.before:
                base = self._base(settings.base, texts)
        except DataError as reason:
            return Measurement(note=str(reason))
        return language.language_sign(spoken, base, draws=settings.draws, seed=settings.seed)

    def _spoken(self, texts: Sequence[str]) -> Callable[[], dict[str, Any]]:
        def speak() -> dict[str, Any]:
            with self.notes.status(f"{self.model.name}: texts without image"):
                return language.speak(self.model, texts).to_json()

        return speak

    def _base(self, name: str, texts: Sequence[str]) -> language.Losses:
        def measure() -> dict[str, Any]:
            with self.notes.status(f"--base {name}: texts"):
                return language.Spoken(language.base_losses(name, self.model, texts)).to_json()

        identity = language.base_identity(name, self.model.dtype)
        return language.Spoken.from_json(self._kept(language.key_of(identity, texts, None), measure)).losses

    def _kept(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was measured by an earlier launch, or is now, kept in probes/language.json."""
        folder = RunFolder(self.analysis.folder.path / "probes")
        path = folder.path / "language.json"
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if key not in held:
            held[key] = measure()
            folder.path.mkdir(exist_ok=True)
            folder.write_json(path.name, held)
        found: dict[str, Any] = held[key]
        return found
