"""Run folders made by the real commands on stubs, for all tests of reports."""

from tests.reports.runs.conftest import copy, made

__all__ = ["copy", "made"]
