"""A training stage as data: what is trained, on what, how long, with which losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DICE_FORMS = ("literal", "area", "max", "squared", "mass")


@dataclass(frozen=True)
class ParameterGroup:
    """Module paths that train together."""

    modules: tuple[str, ...]
    """Paths of modules or parameters in `AgeVlmForConditionalGeneration`, each naming at least one parameter. A path
    component may be `*`: any one name. Matched by whole components, never by substring."""
    lr: float
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Never applied to vectors and scalars (norms, biases, gates)."""


@dataclass(frozen=True)
class Guidance:
    """Teaching where to look: a Dice loss between cross-attention and regions."""

    weight: float = 1.0
    """Of the guidance loss beside the language-modelling loss; 0 for none (measured and logged all the same)."""
    form: str = "squared"
    """literal: the paper's Dice of attention against a 0/1 mask; area: attention times the region's area, at most 1;
    max: attention over its maximum; squared: V-Net's Dice against the mask as a distribution; mass: -log of the
    attention inside."""
    layers: tuple[int, ...] | None = None
    """Cross-attention layers, as indices of the fused stack; None for all."""
    tokens: str = "last"
    """Which tokens of a phrase: last, first or all."""
    answers: bool = False
    """Also the position that predicts an answer's first word, with the union of the regions named in its question."""
    threshold: float | None = None
    """Make region cells 1 where their coverage is above this, else 0; None keeps the coverage."""
    noise: float = 0.0
    """Share of regions replaced by another sample's (an ablation: noisy masks)."""
    warmup_steps: int = 0
    """Steps over which the weight rises from 0."""


@dataclass(frozen=True)
class Regions:
    """Which samples come with their regions. Apart from guidance, so that arms without it see the same samples."""

    share: float = 0.1
    """Share of each source's samples with regions that keep them, chosen by the data seed; 1 for all there are."""
    batch_share: float | None = None
    """Share of such samples in every global batch (over-sampled to it); None: as they come."""


@dataclass(frozen=True)
class SourceSpec:
    """Where samples come from."""

    kind: str
    """scenes, llava, coco, grounded."""
    weight: float = 1.0
    """Share among the sources of a stage, relative to the others."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the kind needs: paths, mixes."""


@dataclass(frozen=True)
class StageSpec:
    """One stage of training one arm."""

    name: str
    """Of the stage, e.g. guide."""
    arm: str
    """age-vlm, ca-baseline, concat, concat-unfrozen, or an ablation's name."""
    stage: int
    """1 to 4."""
    follows: tuple[int, ...]
    """Stages whose checkpoint this one may start from; 0 is an assembled, untrained model."""
    init_from: str
    """Checkpoint folder to start from."""
    out: str
    """Run folder."""
    fusion: str
    """cross or concat: must be the checkpoint's."""
    trainable: Mapping[str, ParameterGroup]
    """Named groups; everything else is frozen."""
    sources: tuple[SourceSpec, ...]
    steps: int
    batch_size: int
    """Samples of one optimiser step, over all processes and accumulation."""
    micro_batch_size: int
    """Samples of one forward pass of one process; batch_size must be a multiple of micro_batch_size x processes."""
    seed: int = 0
    data_seed: int = 0
    """Of the order of the data and of which samples are guided."""
    warmup_share: float = 0.03
    """Share of the steps in which learning rates rise; then a cosine to `final_lr_share`."""
    final_lr_share: float = 0.1
    clip: float = 1.0
    """Largest norm of the gradient of one step."""
    betas: tuple[float, float] = (0.9, 0.999)
    precision: str = "float32"
    """float32, or bfloat16: autocast; trainable weights stay float32."""
    gradient_checkpointing: bool = False
    max_length: int = 2048
    """Tokens of a sample; a longer one is skipped."""
    regions: Regions = field(default_factory=Regions)
    guidance: Guidance | None = None
    """None: nothing is taught or measured of where the model looks."""
    text_loss_weight: float = 1.0
    workers: int = 0
    save_every: int = 500
    keep: int = 2
    """Training checkpoints kept."""
    log_every: int = 10
    overlay_every: int = 0
    """Steps between overlays of attention against regions; 0 for none."""
    overlay_images: int = 4
    wandb: bool = False
    language_texts: tuple[str, ...] = ()
    """What the language check after the stage reads, without an image, where the model it starts from brings no
    texts; none: eight sentences of everyday English."""
    max_bad_steps: int = 20
    """Steps in a row that may be skipped for a loss or gradient that is not finite."""
    max_bad_samples: float = 0.001
    """Share of a source's samples that may be skipped because they cannot be used; 20 of them may, whatever the share,
    unless it is 0."""
    planned_samples: int | None = None
    """Samples the stage was meant to see in the paper, for `plan`."""
    planned_guided: int | None = None
    tokens_per_sample: int | None = None
    """Text tokens of a sample as `plan` assumes them."""
