from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def lmms_eval() -> ModuleType:
    """lmms-eval's own CV-Bench code, without importing the whole package."""
    package = importlib.util.find_spec("lmms_eval")
    if package is None or not package.submodule_search_locations:
        pytest.skip("lmms-eval is not installed")
    path = Path(package.submodule_search_locations[0]) / "tasks" / "cv_bench" / "utils.py"
    if not path.exists():
        pytest.skip(f"this lmms-eval has no {path}")
    spec = importlib.util.spec_from_file_location("lmms_eval_cv_bench", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
