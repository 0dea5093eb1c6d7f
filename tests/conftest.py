"""What many tests share: the real public data beside the project (where it is there), and small question sets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A merge must not depend on luck: CI tries the same examples every time, developers' runs keep exploring.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real public data; the test is skipped where it is absent."""
    if not (SHARED / "pope").is_dir():
        pytest.skip(f"the public data folder {SHARED} is not on this machine")
    return SHARED
