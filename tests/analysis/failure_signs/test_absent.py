"""How often what is absent is affirmed: `padding`'s records counted longhand."""

import json

import pyarrow.parquet as pq
import pytest

from agevlm.vlm.choice import ModelChoice
from tests.analysis.padding.stub import StubVlm, uniform


def test_yes_to_what_is_absent_is_counted_as_pope_pools_it(here, tmp_path, monkeypatch):
    known = {
        "scenes/yes": StubVlm(uniform, "yes", lambda *_: True),
        "scenes/some": StubVlm(uniform, "some", lambda _, ask: len(ask.prompt) % 2 == 0),
    }
    monkeypatch.setattr(ModelChoice, "fingerprint", lambda self: known[self.name].fingerprint)
    monkeypatch.setattr(ModelChoice, "load", lambda self: known[self.name])
    models = [part for name in known for part in ("--ckpt", name)]
    found = here("padding", *models, "--questions", "scenes:6", "--mode", "squash", "--draws", 100, "--out", tmp_path)
    assert found.code == 0, found.err
    rows = {row["checkpoint"]: row for row in json.loads((tmp_path / "scores.json").read_text())["absent"]}
    assert rows["scenes/yes"]["yes"]["value"] == 1
    records = pq.read_table(next((tmp_path / "probes").glob("scenes_some-*.parquet"))).to_pylist()
    absent = [r for r in records if r["condition"] == "native" and not r["label"]]
    asked = sum(len(r["splits"]) for r in absent)
    said = sum(len(r["splits"]) for r in absent if r["answer"] == "Yes")
    assert 0 < said < asked
    assert any(len(r["splits"]) > 1 for r in absent)
    assert rows["scenes/some"]["yes"]["value"] == pytest.approx(said / asked)
    assert (rows["scenes/some"]["questions"], rows["scenes/some"]["images"]) == (len(absent), 6)
