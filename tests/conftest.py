"""What many tests share: the real public data beside the project (where it is there), and small question sets."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real public data; the test is skipped where it is absent."""
    if not (SHARED / "pope").is_dir():
        pytest.skip(f"the public data folder {SHARED} is not on this machine")
    return SHARED
