"""The common tests can neither be left out unseen nor skip unseen."""

import io
import sys
import tarfile
import unittest

import pytest

from tests.model.common import fetch, harness

ALLOWED = {"test_flash_*": harness.Skip("requires Flash", "not here")}


@pytest.mark.parametrize(
    ("name", "said", "wrong"),
    [
        ("test_flash_2", "test requires Flash Attention", None),
        ("test_flash_2", "", "without a reason"),
        ("test_flash_2", " ", "without a reason"),
        ("test_flash_2", "does not support attention", "no entry of SKIPS"),
        ("test_sdpa", "test requires Flash Attention", "no entry of SKIPS"),
    ],
)
def test_a_skip_is_in_order_only_by_name_and_reason(name, said, wrong) -> None:
    judged = harness.unexplained(name, said, ALLOWED)
    assert judged is None if wrong is None else wrong in judged


@pytest.mark.parametrize("present", [None, "0.0.1"])
def test_missing_or_foreign_common_tests_fail_one_test(present, tmp_path, monkeypatch) -> None:
    package = "transformers_tests_of_another_version"
    monkeypatch.setattr(harness, "FOLDER", tmp_path)
    monkeypatch.setattr(harness, "PACKAGE", package)
    monkeypatch.setattr(sys, "path", [*sys.path])
    if present:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f'__version__ = "{present}"\n')

    class Tests(harness.transformers_tests().ModelTesterMixin, unittest.TestCase):
        pass

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Tests).run(result)
    assert (result.testsRun, len(result.failures), len(result.skipped)) == (1, 1, 0)
    assert "run `make env`" in result.failures[0][1]


def archive(path, names):
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(f"transformers-1.0/{name}"), io.BytesIO())
    return path


def test_only_tests_are_kept_and_only_what_is_absent_is_stubbed(tmp_path) -> None:
    names = ["src/a.py", "tests/test_modeling_common.py", "tests/generation/test_utils.py"]
    fetch.extract(archive(tmp_path / "a.tar.gz", names), "1.0", tmp_path / "out")
    texts = {str(p.relative_to(tmp_path / "out")): p.read_text() for p in (tmp_path / "out").rglob("*.py")}
    assert texts == {
        "__init__.py": fetch.marker("1.0"),
        "test_modeling_common.py": "",
        "generation/test_utils.py": "",
        "exporters/test_export.py": fetch.STUBS["exporters/test_export.py"],
    }


def test_a_source_distribution_without_the_tests_is_refused(tmp_path) -> None:
    with pytest.raises(SystemExit, match=r"has no tests/test_modeling_common\.py"):
        fetch.extract(archive(tmp_path / "a.tar.gz", ["tests/other.py"]), "1.0", tmp_path / "out")
