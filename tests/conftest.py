"""What many tests share: the real public data beside the project (where it is there), and small question sets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says what else the machine does, not whether the code is right.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A merge must not depend on luck: CI tries the same examples every time, developers' runs keep exploring.
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real public data; the test is skipped where it is absent."""
    if not (SHARED / "pope").is_dir():
        pytest.skip(f"the public data folder {SHARED} is not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def numbers_in_words():
    """SmolVLM's processor asks for num2words, which it uses for videos alone, before it takes any image."""
    import transformers.models.smolvlm.processing_smolvlm as processing

    with pytest.MonkeyPatch.context() as patch:
        if processing.num2words is None:
            patch.setattr(processing, "num2words", str)
        yield
