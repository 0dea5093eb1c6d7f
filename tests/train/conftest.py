import pytest

from agevlm.cli import train_main
from tests.calling import caller


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `agevlm-train` with these arguments: exit code, stdout, stderr."""
    return caller(train_main, "agevlm-train", monkeypatch, capsys)
