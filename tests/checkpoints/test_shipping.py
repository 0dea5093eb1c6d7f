import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from agevlm.checkpoints import shipping
from agevlm.checkpoints.tiny import AgeVlmShape, build_age_vlm
from agevlm.model import AgeVlmForConditionalGeneration


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two arms that differ in one adapter weight, and one of another fusion with the same vision tower."""
    root = tmp_path_factory.mktemp("models")
    first = build_age_vlm(root / "first", seed=1)
    model = AgeVlmForConditionalGeneration.from_pretrained(first)
    with torch.no_grad():
        model.model.adapter.linear_1.weight.mul_(1.5)
    model.save_pretrained(root / "second")
    for file in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (root / "second" / file).write_bytes((first / file).read_bytes())
    save_file({"logits.0": torch.zeros(3)}, first / "language.safetensors")
    third = build_age_vlm(root / "third", seed=2, shape=AgeVlmShape(fusion="concat"))
    return {"first": first, "second": root / "second", "third": third}


@pytest.fixture(scope="module")
def shipped(models, tmp_path_factory):
    out = tmp_path_factory.mktemp("shipped") / "scenes"
    return out, shipping.ship(models, out, {name: f"card of {name}\n" for name in models})


def test_what_is_shipped_is_the_model_halved(models, shipped):
    out, _ = shipped
    for name, folder in models.items():
        wanted = AgeVlmForConditionalGeneration.from_pretrained(folder).state_dict()
        found = AgeVlmForConditionalGeneration.from_pretrained(out / name, dtype=torch.float32).state_dict()
        assert wanted.keys() == found.keys()
        for key, tensor in wanted.items():
            assert torch.equal(found[key], tensor.half().float()), key


def test_equal_weights_are_stored_once(models, shipped):
    out, sizes = shipped
    own = load_file(out / "second" / shipping.OWN)
    assert list(own) == ["model.adapter.linear_1.weight"]
    alone = sum(
        t.numel() * t.element_size() // 2
        for folder in models.values()
        for t in load_file(folder / "model.safetensors").values()
    )
    assert sum(sizes.values()) < 0.75 * alone
    held = [key for path in out.rglob("*.safetensors") for key in load_file(path)]
    index = json.loads((out / "first" / "model.safetensors.index.json").read_text())["weight_map"]
    assert index["model.adapter.linear_1.weight"] == shipping.OWN
    assert index["model.adapter.linear_2.weight"] == "../shared-by-first-and-second.safetensors"
    assert held.count("model.adapter.linear_2.weight") == 2  # of the pair, and of the third


def test_a_card_and_no_pickle_lie_beside_the_weights(shipped):
    out, _ = shipped
    assert (out / "third" / "README.md").read_text() == "card of third\n"
    assert {path.suffix for path in out.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".md", ".jinja"}


def test_too_much_is_refused(models, tmp_path, monkeypatch):
    shipping.ship(models, tmp_path / "scenes", dict.fromkeys(models, "before"))
    before = {path: path.read_bytes() for path in (tmp_path / "scenes").rglob("*") if path.is_file()}
    monkeypatch.setattr(shipping, "LIMIT", 1000)
    with pytest.raises(ValueError, match="more than 1,000"):
        shipping.ship(models, tmp_path / "scenes", dict.fromkeys(models, "after"))
    # What was shipped before stays as it was, and nothing else is there.
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_would_overflow_in_half_precision_keeps_its_own(models, tmp_path):
    model = AgeVlmForConditionalGeneration.from_pretrained(models["first"])
    with torch.no_grad():
        model.model.adapter.linear_1.weight[0, 0] = 1e6
    model.save_pretrained(tmp_path / "large")
    shipping.ship({"large": tmp_path / "large"}, tmp_path / "scenes", {"large": ""})
    held = load_file(tmp_path / "scenes" / "large" / shipping.OWN)
    assert held["model.adapter.linear_1.weight"].dtype is torch.float32
    assert held["model.adapter.linear_2.weight"].dtype is torch.float16
