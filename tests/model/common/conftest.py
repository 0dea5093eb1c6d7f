"""A skipped common test must be explained: an unexplained one fails."""

import pytest

from tests.model.common.harness import unexplained

MARKERS = ("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test")
"""What the common tests mark themselves with, beside `slow`."""


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: set by the common tests of transformers")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped:
        said = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr or "")
        wrong = unexplained(item.name, said.removeprefix("Skipped: "), getattr(item.module, "SKIPS", {}))
        if wrong is not None:
            report.outcome, report.longrepr = "failed", wrong
    return report
