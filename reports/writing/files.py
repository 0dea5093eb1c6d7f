"""A report as files."""

from __future__ import annotations

from pathlib import Path

from reports.document import Report


def write_report(report: Report, folder: Path) -> Path:
    """Write the page and, beside it, tables and figures as files of their own; gives the page."""
    raise NotImplementedError
