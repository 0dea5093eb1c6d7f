"""One stage of training, from its starting checkpoint to the trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from agevlm.errors import AgeVlmError, TrainError
from train import metrics, state, weights
from train.checks import check_batch
from train.data.collate import Collator
from train.data.feed import Feed, Portion
from train.data.samples import Source
from train.folder import MODEL, Lock, Start, begin
from train.hooks import Tracker
from train.lineage import read_record
from train.mixture import Mixture
from train.model import load, spread
from train.optimisation import set_rates
from train.processes import PATIENCE, agree, check_same, company, connect, together
from train.sharding import assembled, full
from train.spec import StageSpec
from train.step import LOOKS, Scales

GRACE = 50
"""Steps in which a guided stage must have met a phrase."""


@dataclass(frozen=True)
class StageResult:
    """How a stage ended."""

    out: Path
    model: Path
    """The trained checkpoint."""
    steps: int
    """In total."""
    skipped: int
    """Of these, for a loss or gradient that was not finite."""
    metrics: Mapping[str, float]
    """The last row that was logged by this call; empty if there was nothing left to do."""
    sources: Mapping[str, Mapping[str, Any]]
    """What each source gave: see `train.mixture.Mixture.summary`."""


def run_stage(
    spec: StageSpec,
    sources: Sequence[Source],
    *,
    resume: bool = False,
    trackers: Sequence[Tracker] = (),
    progress: Callable[[int, int], None] | None = None,
    sharding: str | None = None,
    patience: timedelta = PATIENCE,
) -> StageResult:
    """Train a stage.

    Under torchrun or `accelerate launch` all processes call this alike; what is trained depends neither on how many
    there are nor on the sharding.

    Args:
        spec: the stage.
        sources: its data, in the order of `spec.sources`.
        resume: go on where the run folder's last checkpoint ends; without one, start. A finished stage is left alone.
        trackers: are told how it goes, on the first process.
        progress: called there with (steps done, steps in all).
        sharding: none or full; None for what the accelerate configuration says (see `train.processes.connect`).
        patience: how long a process waits for another.

    Raises:
        TrainError: the stage cannot start or go on as asked; processes that differ in settings, data or code; a guided
            stage without regions; too many steps whose loss is not finite, or too many samples that cannot be used.
        DataError: a source that cannot be used, as its folder of images is gone.
        CheckpointError: `init_from` cannot be loaded.
        OSError: the disk is full or failing; the last checkpoint stays.
    """
    accelerator, sharded = connect(sharding, patience)
    check_batch(spec, accelerator.num_processes)
    locks: list[Lock] = []

    def find_start() -> Start:
        locks.append(Lock(Path(spec.out).expanduser()))
        return begin(spec, sources, resume)

    try:
        with company(Path(spec.out)):
            check_same(spec, sources, sharded)
            start = agree(find_start)
            if start.finished:
                return _finished(spec)
            return _Run(spec, sources, accelerator, sharded, start, trackers, progress).run()
    finally:
        for tracker in trackers if accelerator.is_main_process else ():
            tracker.close()
        for lock in locks:
            lock.release()


class _Run:
    """A stage that is being trained by this process, and maybe others."""

    def __init__(
        self,
        spec: StageSpec,
        sources: Sequence[Source],
        accelerator: Any,
        sharded: bool,
        start: Start,
        trackers: Sequence[Tracker],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.spec, self.accelerator, self.start, self.out = spec, accelerator, start, Path(spec.out).expanduser()
        self.sharded = sharded
        self.main: bool = accelerator.is_main_process
        self.trackers, self.progress = (trackers, progress) if self.main else ((), None)
        torch.manual_seed(spec.seed)
        self.loaded = together(lambda: load(spec, accelerator.device, with_weights=self.main))
        self.model, self.processor, self.module = self.loaded.model, self.loaded.processor, self.loaded.module
        context = self.model.config.text_config.max_position_embeddings
        collator = Collator(self.processor, spec.guidance, min(spec.max_length, context))
        self.feed = Feed(spec, sources, collator, accelerator.process_index, accelerator.num_processes)
        if spec.guidance is not None and spec.guidance.weight and not self.feed.order.guided_samples:
            raise TrainError(f"stage {spec.name} teaches where to look, but no sample of its data has a known region")
        self.spread = spread(self.loaded, spec, accelerator, sharded)
        self.parameters, self.optimizer = self.spread.parameters, self.spread.optimizer
        self.counters = metrics.Counters()
        if start.checkpoint is not None:
            held = state.restore(start.checkpoint, self.parameters, self.optimizer)
            self.counters = metrics.Counters.from_dict(held["counters"])
        self.mixture = Mixture(spec, sources, self.counters, accelerator)
        self.bad_ids: list[str] = []

    def run(self) -> StageResult:
        """All steps that are left, then the model."""
        for tracker in self.trackers:
            tracker.begin(self.start.step)
        self.mixture.begin(self.start.step)
        batches = self.feed.batches(self.start.step, pin=self.accelerator.device.type == "cuda")
        row: dict[str, float] = {}
        clock = metrics.Clock()
        for step in range(self.start.step, self.spec.steps):
            rates = set_rates(self.optimizer, step, self.spec)
            sums = self._step(step, batches, clock)
            metrics.count(self.counters, sums)
            self._guard(step)
            done = step + 1
            last = done == self.spec.steps
            if self.progress is not None:
                self.progress(done, self.spec.steps)
            if done % self.spec.log_every == 0 or last:
                row = metrics.row(self.counters, LOOKS, self.module.layers if self.spec.guidance else ())
                row |= metrics.gates(self.model) | {f"lr/{name}": value for name, value in rates.items()}
                row |= {"guidance_weight": sums.guidance_weight} | self.mixture.row()
                row |= clock.read(self.spec.batch_size)
                for tracker in self.trackers:
                    tracker.log(done, row)
            if self.spec.overlay_every and done % self.spec.overlay_every == 0:
                self._look(done)
            if done % self.spec.save_every == 0 or last:
                self._save(done)
        model = self._finish()
        return StageResult(self.out, model, self.spec.steps, self.counters.skipped, row, self.mixture.summary())

    def _step(self, step: int, batches: Iterator[Portion | AgeVlmError], clock: metrics.Clock) -> metrics.StepSums:
        """Forward, backward, and the optimiser's step unless something is not finite."""
        clock.waiting()
        own = [next(batches) for _ in range(self.feed.accumulation)]
        clock.working()
        tokens, phrases, dropped = self.mixture.take(own)
        guidance_weight = self._guidance_weight(step)
        processes = self.accelerator.num_processes
        # Gradients are averaged over processes, hence the factor.
        scales = Scales(
            text=self.spec.text_loss_weight * processes / max(1.0, tokens),
            guidance=guidance_weight * processes / phrases if phrases else 0.0,
        )
        exact = torch.float32 if self.accelerator.device.type == "mps" else torch.float64
        sums = torch.zeros(len(self.module.sums) + 1, dtype=exact, device=self.accelerator.device)
        for number, portion in enumerate(own):
            assert isinstance(portion, Portion)
            last = number == len(own) - 1
            # Sharded gradients are added up in shards, pass by pass: whole ones are what the memory is saved for.
            with nullcontext() if last or self.sharded else self.accelerator.no_sync(self.spread.wrapped):
                loss, part = self.spread.wrapped(portion.batch.to(self.accelerator.device), scales)
                self.accelerator.backward(loss)
            sums[:-1] += part
        sums[:-1] = self.accelerator.reduce(sums[:-1], reduction="sum")
        sums[-1] = full(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.spec.clip))
        *losses, norm = sums.tolist()
        found = metrics.StepSums(
            tokens=tokens,
            phrases=phrases,
            dropped=dropped,
            samples=self.spec.batch_size,
            losses=dict(zip(self.module.sums, losses, strict=True)),
            norm=norm,
            text_weight=self.spec.text_loss_weight,
            guidance_weight=guidance_weight,
        )
        if found.finite:
            self.optimizer.step()
        else:
            self.bad_ids = [name for portion in own if isinstance(portion, Portion) for name in portion.batch.ids]
        self.optimizer.zero_grad(set_to_none=True)
        return found

    def _guidance_weight(self, step: int) -> float:
        guidance = self.spec.guidance
        if guidance is None:
            return 0.0
        return guidance.weight * min(1.0, step / guidance.warmup_steps if guidance.warmup_steps else 1.0)

    def _guard(self, step: int) -> None:
        """Stop a run that learns nothing."""
        if self.counters.skipped_in_a_row > self.spec.max_bad_steps:
            from accelerate.utils import gather_object

            ids = gather_object(self.bad_ids)
            raise TrainError(
                f"step {step + 1}: loss or gradient not finite for {self.counters.skipped_in_a_row} steps in a row. "
                "Lower the learning rates, or look at the samples of the last one: "
                f"{', '.join(map(str, ids[:64]))}{', ...' if len(ids) > 64 else ''}"
            )
        guidance = self.spec.guidance
        checked = step + 1 in (GRACE, self.spec.steps)
        if guidance is not None and guidance.weight and checked and not self.counters.phrases:
            raise TrainError(
                f"stage {self.spec.name} teaches where to look, but in {step + 1} steps no phrase had a region "
                f"({self.counters.dropped} were dropped, as no cell sees theirs); see regions.share, .batch_share"
            )

    def _look(self, done: int) -> None:
        model = assembled(self.model) if self.sharded else self.model
        if not self.main:
            return
        modes = [(module, module.training) for module in model.modules()]
        model.to(self.accelerator.device).eval()
        with torch.no_grad():
            for tracker in self.trackers:
                tracker.look(done, model, self.processor)
        for module, mode in modes:
            module.training = mode

    def _record(self, steps: int) -> dict[str, Any]:
        """training.json after so many steps."""
        spec, identity = self.spec, self.start.identity
        return {
            "arm": spec.arm,
            "stage": spec.stage,
            "name": spec.name,
            "steps": steps,
            "planned_steps": spec.steps,
            "seed": spec.seed,
            "data_seed": spec.data_seed,
            "counters": {k: v for k, v in self.counters.as_dict().items() if k not in ("window", "steps", "sources")},
            "sources": self.mixture.summary(),
            "guided_samples": self.feed.order.guided_samples if spec.guidance is not None else 0,
            **{key: identity[key] for key in ("spec_hash", "init_from", "base", "data", "agevlm")},
            "lineage": list(self.start.lineage),
        }

    def _save(self, done: int) -> None:
        kept = {
            "counters": self.counters.as_dict(),
            "trained": list(self.parameters),
            "record": self._record(done),
            **self.start.identity,
        }
        state.save(self.out, done, self.parameters, self.optimizer, kept, self.spec.keep)

    def _finish(self) -> Path:
        target, record = self.out / MODEL, self._record(self.spec.steps)
        model = assembled(self.model) if self.sharded else self.model
        agree(lambda: weights.write_model(target, model, self.processor, record, self.loaded.stored))
        return target


def _finished(spec: StageSpec) -> StageResult:
    out = Path(spec.out).expanduser()
    record = read_record(out / MODEL) or {}
    skipped = int(record.get("counters", {}).get("skipped", 0))
    return StageResult(out, out / MODEL, spec.steps, skipped, {}, record.get("sources", {}))
