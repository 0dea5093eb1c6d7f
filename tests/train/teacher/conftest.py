"""Tiny models of the teacher, saved once per session, and pictures for them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.teacher import tiny


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_hash_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def _tiny_registry():
    """vit_b is tiny, vit_l a little larger; vit_h stays the real one."""
    from segment_anything import sam_model_registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sam_model_registry, "vit_b", tiny.original_sam)
        patch.setitem(sam_model_registry, "vit_l", partial(tiny.original_sam, layers=3))
        yield


@pytest.fixture(scope="session")
def detectors(tmp_path_factory) -> dict[str, str]:
    """Folder of each kind of detector."""
    folders = {}
    for kind in ("grounding-dino", "mm-grounding-dino"):
        folder = tmp_path_factory.mktemp(kind)
        for part in tiny.grounding_dino(kind):
            part.save_pretrained(folder)
        folders[kind] = str(folder)
    return folders


@pytest.fixture(scope="session")
def sam_file(tmp_path_factory, _tiny_registry) -> str:
    return str(tiny.save_original_sam(tmp_path_factory.mktemp("sam") / "sam_vit_b.pth"))


@pytest.fixture(scope="session")
def sam_folder(tmp_path_factory) -> str:
    return str(tiny.save_hf_sam(tmp_path_factory.mktemp("hf_sam")))


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Two of one size, a wide one and a tall one; coarse patterns, so that scaling keeps what is in them."""
    rng = np.random.default_rng(0)
    sizes = [(80, 64), (80, 64), (120, 70), (50, 64)]
    return [
        Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        for size in sizes
    ]
