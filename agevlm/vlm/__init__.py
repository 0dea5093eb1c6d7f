"""One way to look through any vision-language model."""

from agevlm.vlm.contract import (
    Ask,
    Capability,
    EncodedImages,
    Fingerprint,
    Prepared,
    Probe,
    ProbedToken,
    ProbeSpec,
    Reply,
    Vlm,
)

__all__ = [
    "Ask",
    "Capability",
    "EncodedImages",
    "Fingerprint",
    "Prepared",
    "Probe",
    "ProbeSpec",
    "ProbedToken",
    "Reply",
    "Vlm",
]
