"""What stands between the common model tests of transformers and ours: finding them, and judging what they skip."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import unittest
from collections.abc import Mapping
from fnmatch import fnmatchcase
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

from tests.model.common.fetch import FOLDER, PACKAGE


class Skip(NamedTuple):
    """A skip that is in order: part of what transformers says when it skips, and why the test does not apply to us."""

    said: str
    why: str


def unexplained(name: str, said: str, allowed: Mapping[str, Skip]) -> str | None:
    """What is wrong with a skipped test; None where a pattern of its name allows what it said."""
    if not said.strip():
        return f"{name} was skipped without a reason"
    if any(fnmatchcase(name, pattern) and skip.said in said for pattern, skip in allowed.items()):
        return None
    return f"{name} was skipped, and no entry of SKIPS in its file allows that: {said}"


def missing() -> str | None:
    """Why the common tests cannot be used; None where they can."""
    installed = importlib.metadata.version("transformers")
    if not (FOLDER / PACKAGE / "__init__.py").is_file():
        return f"the common model tests of transformers {installed} are not in {FOLDER}: run `make env`"
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    version = importlib.import_module(PACKAGE).__version__
    if version != installed:
        return (
            f"{FOLDER} has the common model tests of transformers {version}, installed is {installed}: run `make env`"
        )
    return None


def transformers_tests() -> ModuleType | SimpleNamespace:
    """The module test_modeling_common of the installed transformers.

    Where it is missing: stand-ins, with which every test fails and says so. Never a skip, and no error at collection,
    which would stop all other tests too.
    """
    wrong = missing()
    if wrong is None:
        return importlib.import_module(f"{PACKAGE}.test_modeling_common")

    class ModelTesterMixin:
        def setUp(self: unittest.TestCase) -> None:
            self.fail(wrong)

        def test_common_tests_are_there(self) -> None:
            """So that there is at least one."""

    return SimpleNamespace(ModelTesterMixin=ModelTesterMixin)
