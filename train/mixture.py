"""What each source of a stage gives: counts for checkpoints and logs, skipped samples on disk, and when to stop.

skipped.jsonl in the run folder has a line for every sample that was drawn and could not be used: see
`train.data.skipping.Skipped`. The first process writes those of all; a resumed run cuts the lines that come again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from agevlm.errors import AgeVlmError, TrainError
from train.data.feed import Portion
from train.data.samples import Source
from train.data.skipping import Skipped, most
from train.logs import append_log, cut_log
from train.metrics import Counters, SourceCounts
from train.processes import agree
from train.spec import StageSpec

SKIPPED = "skipped.jsonl"
NAMED = 5
"""Skipped samples of a source that the message names when a run stops."""


class Mixture:
    """Follows the sources of a run; every process has one, and all of them the same counts.

    Args:
        spec: of the stage.
        sources: as the spec names them.
        counters: of the run; what the sources give is added to them.
        accelerator: of accelerate.
    """

    def __init__(self, spec: StageSpec, sources: Sequence[Source], counters: Counters, accelerator: Any) -> None:
        self.spec, self.accelerator = spec, accelerator
        self.log = Path(spec.out).expanduser() / SKIPPED
        self.sizes = {source.name: len(source) for source in sources}
        for name in self.sizes:
            counters.sources.setdefault(name, SourceCounts())
        self.counts = counters.sources

    def begin(self, step: int) -> None:
        """Cut the log of skipped samples behind `step` steps done."""
        if self.accelerator.is_main_process:
            cut_log(self.log, step)

    def take(self, own: Sequence[Portion | AgeVlmError]) -> tuple[float, float, float]:
        """Count the micro-batches of a step.

        Args:
            own: those of this process.

        Returns:
            Tokens, phrases and dropped phrases of the step over all processes.

        Raises:
            AgeVlmError: what is among them instead of a micro-batch, on this process or another.
            TrainError: too many samples of a source cannot be used.
            OSError: the log cannot be written.
        """
        good = [portion for portion in own if isinstance(portion, Portion)]
        drawn = [one for portion in good for one in portion.drawn]
        skipped = [one for portion in good for one in portion.skipped]
        counts = [
            sum(portion.batch.tokens for portion in good),
            sum(portion.batch.phrases for portion in good),
            sum(portion.batch.dropped for portion in good),
            len(own) - len(good),
            len(skipped),
            *(sum(one.source == number for one in drawn) for number in range(len(self.sizes))),
            *(sum(one.source == number and one.guided for one in drawn) for number in range(len(self.sizes))),
        ]
        summed = torch.tensor(counts, dtype=torch.float32, device=self.accelerator.device)
        tokens, phrases, dropped, failed, bad, *given = self.accelerator.reduce(summed, reduction="sum").tolist()
        if failed:
            for portion in own:
                if isinstance(portion, AgeVlmError):
                    raise portion
            raise TrainError("another process met data that it cannot use; its message says which")
        for number, count in enumerate(self.counts[name] for name in self.sizes):
            count.samples += int(given[number])
            count.guided += int(given[len(self.sizes) + number])
        if bad:
            self._note(skipped)
        return tokens, phrases, dropped

    def _note(self, own: list[Skipped]) -> None:
        from accelerate.utils import gather_object

        skipped = sorted(gather_object(own), key=lambda one: one.slot)
        agree(lambda: append_log(self.log, map(asdict, skipped)))
        for one in skipped:
            count = self.counts[one.source]
            count.skipped[one.reason] = count.skipped.get(one.reason, 0) + 1
            count.first = [*count.first, f"{one.id} ({one.says})"][:NAMED]
        for name in dict.fromkeys(one.source for one in skipped):
            self._check(name)

    def _check(self, name: str) -> None:
        count, share = self.counts[name], self.spec.max_bad_samples
        bad = sum(count.skipped.values())
        if bad <= most(share, count.samples):
            return
        reasons = ", ".join(f"{number} {reason}" for reason, number in Counter(count.skipped).most_common())
        raise TrainError(
            f"source {name}: {bad} of {count.samples:,} samples that were drawn cannot be used ({reasons}), more than "
            f"max_bad_samples {share:g} allows. The first: {'; '.join(count.first)}. All are in {self.log}; mend the "
            "data, or raise max_bad_samples"
        )

    def row(self) -> dict[str, float]:
        """Counts so far, as `train.metrics` lists them."""
        return {
            f"source/{name}/{what}": float(sum(value.values()) if what == "skipped" else value)
            for name, given in self.summary().items()
            for what, value in given.items()
            if what != "size"
        }

    def summary(self) -> dict[str, dict[str, Any]]:
        """Of each source: samples drawn, its size, how often it was gone through, guided samples, skipped by reason."""
        return {
            name: {
                "samples": self.counts[name].samples,
                "size": size,
                "epochs": self.counts[name].samples / size,
                "guided": self.counts[name].guided,
                "skipped": dict(sorted(self.counts[name].skipped.items())),
            }
            for name, size in self.sizes.items()
        }


def told(sources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A summary in words, a line a source."""
    lines = []
    for name, given in sources.items():
        reasons = ", ".join(f"{number} {reason}" for reason, number in given["skipped"].items())
        skipped = f"; skipped: {reasons}" if reasons else ""
        lines.append(
            f"source {name}: {given['samples']:,} samples, {given['epochs']:.2f} times its {given['size']:,}; "
            f"{given['guided']:,} with regions{skipped}"
        )
    return lines
