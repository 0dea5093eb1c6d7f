"""What a few optimiser steps of a stage take on this machine: random weights, made-up samples of the planned length."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from agevlm.errors import TrainError
from agevlm.model import AgeVlmConfig
from train.checks import check_guidance
from train.data.collate import IGNORED, Batch
from train.freezing import freeze, resolve
from train.memory import is_half
from train.optimisation import build_optimizer
from train.plan import Plan
from train.sharding import blank, fill
from train.spec import StageSpec
from train.step import Scales, TrainingModule

EVERY = 0.005
"""Seconds between looks at the process's memory."""


@dataclass(frozen=True)
class Measured:
    """What was measured, of one process that holds the whole model."""

    device: str
    steps: int
    samples: int
    """Of a pass: the micro-batch."""
    text_tokens: int
    """Of a sample."""
    pass_seconds: float
    """Forward and backward of one micro-batch; the median over the steps."""
    update_seconds: float
    """Clipping and the optimiser's step; the median."""
    resting: int
    """Bytes between steps: weights and the optimiser's moments. On a GPU what torch has allocated, on a CPU the growth
    of what the process holds in memory."""
    peak: int
    """Bytes at most."""

    def seconds_per_step(self, plan: Plan) -> float:
        """Of an optimiser step as planned, without what processes tell each other and without waiting for data."""
        return plan.accumulation * self.pass_seconds + self.update_seconds

    def as_json(self, plan: Plan) -> dict[str, Any]:
        """Everything as plain numbers: bytes, seconds, 10^12 operations a second of a process."""
        step = self.seconds_per_step(plan)
        estimated = plan.seconds / plan.steps
        return asdict(self) | {
            "seconds_per_step": step,
            "samples_per_second": plan.batch_size / step,
            "text_tokens_per_second": plan.batch_size * plan.text_tokens / step,
            "tflops": plan.operations / plan.world_size / step / 1e12,
            "stage_seconds": plan.steps * step,
            "estimated_over_measured": {"seconds": estimated / step, "memory": plan.whole.total / self.peak},
        }


def measure_stage(spec: StageSpec, config: AgeVlmConfig, plan: Plan, steps: int = 3) -> Measured:
    """Run optimiser steps of a stage: one to warm up, then `steps` that count. No data and no checkpoint are needed.

    A step is made of one pass, or two where micro-batches are accumulated, and an update. Every text token is
    predicted, and in a guided stage one place a sample is taught where to look. It runs on the GPU, or else on the CPU,
    in a process of its own, which has no memory left over from anything else.

    Args:
        spec: the stage.
        config: of its model.
        plan: of the stage.
        steps: to measure.

    Raises:
        TrainError: there is too little memory.
    """
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        try:
            return pool.submit(_measure, spec, config, plan, steps).result()
        except (BrokenProcessPool, MemoryError, torch.OutOfMemoryError) as error:
            raise TrainError(
                f"stage {plan.stage} ({plan.name}) cannot be measured: its process was killed or ran out of memory; it "
                f"takes about {plan.whole.total / 1e9:,.1f} GB. Lower micro_batch_size"
            ) from error


def _measure(spec: StageSpec, config: AgeVlmConfig, plan: Plan, steps: int) -> Measured:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    memory = _Memory(device)
    # The collator's image tokens stand in the text; without a tokenizer any will do.
    config = copy.deepcopy(config)
    if config.image_token_id is None:
        config.image_token_id = 0
    check_guidance(spec, config)
    model = blank(config)
    groups = resolve(model, spec.trainable)
    _randomise(model, {name for group in groups for name in group.parameters}, spec, device)
    groups = resolve(model, spec.trainable)
    freeze(model, groups, spec.gradient_checkpointing)
    if device.type == "cpu":
        model.set_attn_implementation("eager")  # as in training
    module = TrainingModule(model, spec.guidance, spec.precision).to(device)
    optimizer = build_optimizer(groups, spec, device)
    trained = [parameter for group in groups for parameter in group.parameters.values()]
    batch = made_up(spec, config, plan.text_tokens).to(device)
    scales = Scales(1.0 / max(1, batch.tokens), 1.0 / max(1.0, batch.phrases))
    passes = min(2, plan.accumulation)
    each: list[float] = []
    updates: list[float] = []

    def step() -> None:
        for _ in range(passes):
            each.append(_seconds(device, lambda: module(batch, scales)[0].backward()))
        updates.append(_seconds(device, lambda: _update(trained, optimizer, spec)))

    step()
    each.clear()
    updates.clear()
    resting = memory.now()
    with memory.peak() as peak:
        for _ in range(steps):
            step()
    return Measured(
        device=_name(device),
        steps=steps,
        samples=spec.micro_batch_size,
        text_tokens=plan.text_tokens,
        pass_seconds=statistics.median(each),
        update_seconds=statistics.median(updates),
        resting=resting,
        peak=peak(),
    )


def _randomise(model: Any, trained: set[str], spec: StageSpec, device: torch.device) -> None:
    """Normal weights, in the dtype that training has them in; norms and layer scales are 1, gates half open."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        dtype = torch.bfloat16 if is_half(name, name in trained, spec) else torch.float32
        tensor = torch.empty(parameter.shape, dtype=dtype, device=device)
        if parameter.dim() >= 2:
            tensors[name] = tensor.normal_(std=0.02)
        else:
            tensors[name] = tensor.fill_(0.0 if name.endswith("bias") else 0.5 if name.endswith("gate") else 1.0)
    fill(model, tensors)


def made_up(spec: StageSpec, config: AgeVlmConfig, tokens: int) -> Batch:
    """A micro-batch of samples of so many text tokens, each with an image, and with a region if the stage is guided."""
    vision, rows = config.vision_config, spec.micro_batch_size
    visual, image = vision.num_visual_tokens, int(config.image_token_id or 0)
    words = torch.randint(1, config.text_config.vocab_size, (rows, tokens))
    words[words == image] = 0 if image else 1
    labels = words.clone()
    if config.fusion == "concat":
        places = torch.full((rows, visual), image)
        words, labels = torch.cat([places, words], 1), torch.cat([torch.full_like(places, IGNORED), labels], 1)
    taught = torch.arange(rows if spec.guidance is not None else 0)
    return Batch(
        ids=tuple(str(row) for row in range(rows)),
        input_ids=words,
        attention_mask=torch.ones_like(words),
        labels=labels,
        pixel_values=torch.randn(rows, 3, vision.image_size, vision.image_size),
        image_mask=torch.ones(rows, dtype=torch.bool),
        vision_token_mask=torch.ones(rows, visual, dtype=torch.bool),
        rows=taught,
        positions=torch.full_like(taught, tokens // 2),
        coverage=torch.rand(len(taught), visual),
        shares=torch.ones(len(taught)),
    )


def _update(trained: list[Any], optimizer: torch.optim.Optimizer, spec: StageSpec) -> None:
    torch.nn.utils.clip_grad_norm_(trained, spec.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _seconds(device: torch.device, act: Callable[[], Any]) -> float:
    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    settle()
    start = time.perf_counter()
    act()
    settle()
    return time.perf_counter() - start


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads > 1)}"


class _Memory:
    """Bytes that were taken since it was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = self._held()

    def _held(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        import psutil

        info = psutil.Process().memory_info()
        # Pages of libraries, which come in as they are used, are not the stage's.
        return int(info.rss - getattr(info, "shared", 0))

    def now(self) -> int:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            # Not what glibc keeps for later; elsewhere there is no such call.
            ctypes.CDLL(None).malloc_trim(0)
        return self._held() - self.before

    @contextmanager
    def peak(self) -> Iterator[Callable[[], int]]:
        """What was held at most inside; ask when it is over."""
        most = [self._held()]
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            yield lambda: torch.cuda.max_memory_allocated(self.device) - self.before
            return
        over = threading.Event()

        def look() -> None:
            while not over.wait(EVERY):
                most[0] = max(most[0], self._held())

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield lambda: most[0] - self.before
        finally:
            over.set()
            watcher.join()
