"""A small model on the CPU runs on one thread, unless the user has said how many."""

import pytest
import torch

from agevlm.vlm import choice
from agevlm.vlm.choice import ModelChoice


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("said", "small", "threads"), [(None, 20_000_000, 1), ("2", 20_000_000, 2), (None, 1000, 2)])
def test_threads_suit_the_model(monkeypatch, said, small, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    monkeypatch.setattr(choice, "SMALL", small)
    ModelChoice("scenes/age-vlm", device="cpu").load()
    assert torch.get_num_threads() == threads
