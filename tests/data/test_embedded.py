"""Checkpoints that come with the package: named without a path, sharing files, told apart by all their weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from agevlm.checkpoints.tiny import AgeVlmShape, build_age_vlm
from agevlm.data import checkpoint_files
from agevlm.data.checkpoint_files import INDEX, WEIGHTS, check_weights, embedded_names, find_folder
from agevlm.errors import CheckpointError
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.fingerprint import HashCache, fingerprint_folder, shared_weights
from agevlm.vlm.hf.checkpoint import find_checkpoint

SHARED = "shared.safetensors"
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_hash_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def share(folder: Path, of: str, place: str = f"../{SHARED}") -> None:
    """Move the weights whose names begin so to another file, which the index names."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    common = {name: w for name, w in weights.items() if name.startswith(of)}
    own = {name: w for name, w in weights.items() if name not in common}
    assert common
    assert own
    (folder / place).parent.mkdir(exist_ok=True)
    save_file(common, folder / place, metadata={"format": "pt"})
    save_file(own, folder / "own.safetensors", metadata={"format": "pt"})
    places = dict.fromkeys(common, place) | dict.fromkeys(own, "own.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return build_age_vlm(tmp_path_factory.mktemp("whole"), shape=AgeVlmShape())


@pytest.fixture
def package(whole, tmp_path, monkeypatch):
    """A package with two checkpoints that have their vision tower in common."""
    root = tmp_path / "checkpoints"
    for name in ("one", "two"):
        shutil.copytree(whole, root / "scenes" / name)
        share(root / "scenes" / name, "model.vision_tower.")
    (root / "scenes" / "no checkpoint").mkdir()
    monkeypatch.setattr(checkpoint_files, "EMBEDDED", root)
    return root / "scenes"


def test_names_are_those_that_stand_there(package):
    assert embedded_names() == ["scenes/one", "scenes/two"]
    assert find_folder("scenes/one", "checkpoint") == package / "one"
    assert find_checkpoint("scenes/two").folder == package / "two"


def test_where_none_comes_with_it_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "EMBEDDED", tmp_path)
    assert embedded_names() == []
    with pytest.raises(CheckpointError, match="it has none"):
        find_folder("scenes/one", "checkpoint scenes/one")


@pytest.mark.parametrize(
    "name",
    ["scenes/three", "scenes/", "scenes/one/", "scenes/../scenes/one", "scenes/no checkpoint", "scenes/one@main"],
)
def test_an_unknown_name_is_refused_with_those_there_are(package, name):
    with pytest.raises(CheckpointError) as error:
        find_folder(name, f"checkpoint {name}")
    assert str(error.value).startswith(f"checkpoint {name}: no such checkpoint comes with this package")
    assert "scenes/one, scenes/two" in str(error.value)
    assert f"./{name}" in str(error.value)


def test_a_folder_of_ones_own_is_reached_by_its_path(package, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, "scenes/mine")
    with pytest.raises(CheckpointError, match="comes with this package"):
        find_folder("scenes/mine", "checkpoint")
    assert find_folder("./scenes/mine", "checkpoint") == Path("scenes/mine")
    # The embedded one wins whatever lies here.
    shutil.copytree(whole, "scenes/one")
    assert find_folder("scenes/one", "checkpoint") == package / "one"


def test_a_run_is_named_after_the_checkpoint_wherever_one_is(package, tmp_path, monkeypatch):
    choice = ModelChoice("scenes/one")
    assert choice.slug == "scenes_one"
    assert choice.folder() == package / "one"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes" / "one").mkdir(parents=True)
    assert choice.slug == "scenes_one"
    assert ModelChoice("./scenes/one").slug.startswith("one.")


def test_weights_in_a_shared_file_load_as_if_they_were_its_own(package, whole):
    from agevlm.model import AgeVlmForConditionalGeneration

    assert not (package / "one" / WEIGHTS).exists()
    shared, alone = (AgeVlmForConditionalGeneration.from_pretrained(f) for f in (package / "one", whole))
    state = alone.state_dict()
    assert shared.state_dict().keys() == state.keys()
    for name, tensor in shared.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert any(bool(state[name].any()) for name in load_file(package / SHARED))


def test_it_answers_through_the_session_as_the_whole_one(package, whole):
    from PIL import Image

    from agevlm.vlm import Ask
    from agevlm.vlm.hf.session import HfVlm

    picture = Image.effect_noise((64, 48), 90).convert("RGB")
    replies = []
    for name in ("scenes/one", str(whole)):
        vlm = HfVlm.load(name, device="cpu")
        replies.append(vlm.answer(vlm.encode([picture]), [Ask("Is there a dog?", 0, 4)]))
    assert replies[0] == replies[1]
    assert not replies[0][0].error


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("file", [f"../{SHARED}", "own.safetensors"])
def test_a_changed_weight_in_either_file_changes_the_fingerprint(package, file):
    before = {name: ModelChoice(name).fingerprint() for name in embedded_names()}
    assert before["scenes/one"] == before["scenes/two"]
    flip_last_byte(package / "one" / file)
    after = {name: ModelChoice(name).fingerprint() for name in embedded_names()}
    assert after["scenes/one"].changed(before["scenes/one"].parts) == ["weights"]
    assert (after["scenes/two"] != before["scenes/two"]) == file.startswith("..")


def test_a_copy_elsewhere_has_the_same_fingerprint(package, tmp_path):
    before = ModelChoice("scenes/one").fingerprint()
    copy = tmp_path / "elsewhere"
    shutil.copytree(package, copy)
    assert ModelChoice(str(copy / "one")).fingerprint() == before


@pytest.mark.parametrize("place", ["parts/more.safetensors", "parts/../../more.safetensors"])
def test_weights_anywhere_outside_the_folder_itself_count(whole, tmp_path, place):
    folder = tmp_path / "a" / "b"
    shutil.copytree(whole, folder)
    (folder / "parts").mkdir()
    share(folder, "model.adapter.", place)
    assert shared_weights(folder) == [place]
    before = fingerprint_folder(folder, {}, HashCache(tmp_path / "cache.json"))
    flip_last_byte(folder / place)
    after = fingerprint_folder(folder, {}, HashCache(tmp_path / "cache.json"))
    assert after.changed(before.parts) == ["weights"]


def test_files_in_the_folder_are_counted_once(whole, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / "a"))
    assert shared_weights(folder) == []
    share(folder, "model.adapter.", "more.safetensors")
    assert shared_weights(folder) == []


def test_a_shared_file_that_is_not_there_is_named(package):
    (package / SHARED).unlink()
    with pytest.raises(CheckpointError, match=r"1 of 2 weight files are missing, first \.\./shared\.safetensors"):
        check_weights(package / "one", "checkpoint")
    with pytest.raises(CheckpointError, match="missing"):
        ModelChoice("scenes/one").fingerprint()


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"other": {}}'])
def test_an_index_that_cannot_be_read_names_no_shared_files(tmp_path, content):
    (tmp_path / INDEX).write_text(content)
    assert shared_weights(tmp_path) == []
    with pytest.raises(CheckpointError):
        check_weights(tmp_path, "checkpoint")
