import sys

import pytest

from agevlm.cli import train_main


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `agevlm-train` with these arguments: exit code, stdout, stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["agevlm-train", *map(str, arguments)])
        code = 0
        try:
            train_main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
