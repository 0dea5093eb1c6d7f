"""Fingerprints follow content: every file that can change an answer, nothing else, and never a stale hash."""

import json
import os
import shutil
import time

import pytest

from agevlm.checkpoints.tiny import AgeVlmShape, build_age_vlm
from agevlm.vlm.fingerprint import HashCache, fingerprint_folder
from agevlm.vlm.hf.checkpoint import find_checkpoint


def fingerprint(folder, dtype="float32", template=None):
    return find_checkpoint(str(folder)).fingerprint(dtype, template)


def test_a_copy_has_the_same_fingerprint_and_another_seed_has_not(checkpoint, copy_of):
    original = fingerprint(checkpoint())
    assert fingerprint(copy_of()) == original
    assert fingerprint(checkpoint("llava", 1)).changed(original.parts) == ["weights"]


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def edit_json(path, edit):
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


CHANGES = {
    "weights": lambda f: flip_last_byte(f / "model.safetensors"),
    "config": lambda f: edit_json(f / "config.json", lambda c: c.update(vision_feature_layer=-1)),
    "generation_config": lambda f: edit_json(f / "generation_config.json", lambda c: c.update(eos_token_id=[2, 7])),
    "processor": lambda f: edit_json(f / "processor_config.json", lambda c: c["image_processor"].update(do_pad=True)),
    "tokenizer": lambda f: edit_json(f / "tokenizer_config.json", lambda c: c.update(add_bos_token=False)),
    "chat_template": lambda f: (f / "chat_template.jinja").write_text("{{ messages }}"),
}


AGE_VLM_CHANGES = [
    ("weights", CHANGES["weights"]),
    ("config", lambda f: edit_json(f / "config.json", lambda c: c.update(fusion="concat"))),
    ("config", lambda f: edit_json(f / "config.json", lambda c: c.update(mask_padding=True))),
    ("config", lambda f: edit_json(f / "config.json", lambda c: c["text_config"].update(cross_attention_layers=[2]))),
    ("generation_config", CHANGES["generation_config"]),
    ("processor", lambda f: edit_json(f / "processor_config.json", lambda c: c["image_processor"].update(SQUASH))),
    ("processor", lambda f: edit_json(f / "processor_config.json", lambda c: c.update(fusion="concat"))),
    ("tokenizer", CHANGES["tokenizer"]),
    ("chat_template", CHANGES["chat_template"]),
]
SQUASH = {"resize_mode": "squash"}


@pytest.mark.parametrize(
    ("kind", "part", "change"),
    [*(("llava", *c) for c in CHANGES.items()), *(("age_vlm", *c) for c in AGE_VLM_CHANGES)],
)
def test_a_change_to_a_part_changes_the_digest_and_is_named(copy_of, kind, part, change):
    folder = copy_of(kind=kind)
    before = fingerprint(folder)
    change(folder)
    after = fingerprint(folder)
    assert after.digest != before.digest
    assert after.changed(before.parts) == [part]


def test_letterbox_and_squash_checkpoints_of_equal_weights_differ_in_the_processor_alone(tmp_path, checkpoint):
    squash = build_age_vlm(tmp_path, shape=AgeVlmShape(resize_mode="squash"))
    assert fingerprint(squash).changed(fingerprint(checkpoint("age_vlm")).parts) == ["processor"]
    assert fingerprint(squash, "bfloat16").changed(fingerprint(squash).parts) == ["dtype"]
    assert fingerprint(squash, template="x").changed(fingerprint(squash).parts) == ["chat_template_given"]


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("preprocessor_config.json", "processor"),
        ("tokenizer.model", "tokenizer"),
        ("tekken.json", "tokenizer"),
        ("added_tokens.json", "tokenizer"),
        ("chat_template.json", "chat_template"),
        ("additional_chat_templates/tools.jinja", "chat_template"),
        ("model-00002-of-00002.safetensors", "weights"),
    ],
)
def test_a_further_file_of_a_part_counts(copy_of, file, part):
    folder = copy_of()
    before = fingerprint(folder)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text("{}")
    assert fingerprint(folder).changed(before.parts) == [part]


def test_the_same_content_under_another_name_is_another_fingerprint(copy_of):
    one, other = copy_of(), copy_of()
    (one / "special_tokens_map.json").write_text("{}")
    (other / "added_tokens.json").write_text("{}")
    assert fingerprint(one).changed(fingerprint(other).parts) == ["tokenizer"]


@pytest.mark.parametrize(
    "file",
    [
        "README.md",
        "trainer_state.json",
        "training_args.bin",
        "optimizer.pt",
        ".cache/huggingface/model.safetensors.metadata",
        "checkpoint-100/model.safetensors",
        "checkpoint-100/config.json",
    ],
)
def test_files_that_change_no_answer_do_not_count(copy_of, file):
    folder = copy_of()
    before = fingerprint(folder)
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text("something")
    assert fingerprint(folder) == before


def test_dtype_and_a_given_template_are_part_of_it(checkpoint):
    base = fingerprint(checkpoint())
    assert fingerprint(checkpoint(), "bfloat16").changed(base.parts) == ["dtype"]
    assert fingerprint(checkpoint(), template="x").changed(base.parts) == ["chat_template_given"]
    assert fingerprint(checkpoint(), template="x").digest != fingerprint(checkpoint(), template="y").digest


def test_quantisation_is_part_of_it(checkpoint, copy_of):
    changed = fingerprint(copy_of(config={"quantization_config": {"bits": 4}})).changed(fingerprint(checkpoint()).parts)
    assert changed == ["config", "quantisation"]


def test_a_hub_snapshot_of_links_into_blobs_has_the_fingerprint_of_the_plain_folder(tmp_path, checkpoint):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for n, path in enumerate(sorted(checkpoint().iterdir())):
        shutil.copy(path, blobs / f"{n:064x}")
        (snapshot / path.name).symlink_to(os.path.join("..", "..", "blobs", f"{n:064x}"))
    assert fingerprint(snapshot) == fingerprint(checkpoint())
    # Another revision links to another blob of the same size.
    weights = snapshot / "model.safetensors"
    other = blobs / "other"
    shutil.copy(weights.resolve(), other)
    flip_last_byte(other)
    weights.unlink()
    weights.symlink_to(os.path.join("..", "..", "blobs", "other"))
    assert fingerprint(snapshot).changed(fingerprint(checkpoint()).parts) == ["weights"]


def later(monkeypatch, seconds=10):
    now = time.time_ns
    monkeypatch.setattr("agevlm.vlm.fingerprint.time.time_ns", lambda: now() + seconds * 1_000_000_000)


def remembered(path):
    return json.loads(path.read_text()) if path.exists() else {}


def test_a_settled_file_is_read_once_even_across_caches(tmp_path, monkeypatch):
    later(monkeypatch)
    file, store = tmp_path / "w.safetensors", tmp_path / "cache" / "hashes.json"
    file.write_bytes(b"abc")
    cache = HashCache(store)
    digest = cache.sha256(file)
    cache.save()
    monkeypatch.setattr("agevlm.vlm.fingerprint.hashlib.file_digest", None)
    assert cache.sha256(file) == HashCache(store).sha256(file) == digest


def test_a_file_written_a_moment_ago_is_not_remembered(tmp_path):
    file, store = tmp_path / "w.safetensors", tmp_path / "hashes.json"
    file.write_bytes(b"abc")
    cache = HashCache(store)
    cache.sha256(file)
    cache.save()
    assert remembered(store) == {}


def test_an_edit_in_place_of_the_same_size_and_time_is_seen(tmp_path, monkeypatch):
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"abc")
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    later(monkeypatch)
    cache = HashCache(tmp_path / "hashes.json")
    before = cache.sha256(file)
    time.sleep(0.02)
    with file.open("r+b") as stream:
        stream.write(b"abd")
    os.utime(file, ns=times)
    assert cache.sha256(file) != before


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"x": 3}', "\x00\xff"])
def test_a_damaged_cache_is_ignored(tmp_path, damage):
    file, store = tmp_path / "w", tmp_path / "hashes.json"
    file.write_bytes(b"abc")
    store.write_bytes(damage.encode("latin-1"))
    assert HashCache(store).sha256(file).startswith("ba7816bf")


def test_a_cache_entry_of_another_form_is_ignored(tmp_path):
    file, store = tmp_path / "w", tmp_path / "hashes.json"
    file.write_bytes(b"abc")
    store.write_text(json.dumps({str(file.resolve()): ["wrong"]}))
    assert HashCache(store).sha256(file).startswith("ba7816bf")


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path, checkpoint):
    (tmp_path / "file").write_text("")
    cache = HashCache(tmp_path / "file" / "hashes.json")
    assert fingerprint_folder(checkpoint(), {}, cache).digest
