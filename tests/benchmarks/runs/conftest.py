"""One tiny real checkpoint for all tests here."""

import pytest


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """A LLaVA that answers Yes or No."""
    from agevlm.checkpoints.tiny import build_tiny_llava

    return build_tiny_llava(tmp_path_factory.mktemp("tiny") / "checkpoint", seed=0, answers=True)


@pytest.fixture
def one_thread():
    """Sums in one order, as in the processes that these tests start."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
