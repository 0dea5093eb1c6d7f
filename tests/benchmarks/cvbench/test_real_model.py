"""`agevlm-eval cvbench` on real (tiny, random) checkpoints and on the trained ones that come with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agevlm.checkpoints.tiny import build_age_vlm, build_tiny_llava
from benchmarks.cvbench.ranked import RANKINGS, ranked_texts
from benchmarks.cvbench.readers import READERS
from tests.benchmarks.runs.launch import OPTIONS, answers, command_here

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def one_thread():
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def picture(number: int) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture
def questions(shared: Path, tmp_path: Path) -> Path:
    """Every fourth of the published questions, beside images that only have their names."""
    rows = [json.loads(line) for line in (shared / "cvbench/questions_sample.jsonl").read_text().splitlines()][::4]
    folder = tmp_path / "cv-bench"
    for number, row in enumerate(rows):
        file = folder / row["filename"]
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(file)
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def checkpoint(kind: str, folder: Path) -> Path:
    if kind == "llava":
        return build_tiny_llava(folder / "ckpt", seed=0)
    return build_age_vlm(folder / "ckpt", seed=0)


def rows(text: str, **want: object) -> list[dict[str, Any]]:
    return [r for r in json.loads(text) if all(r[key] == value for key, value in want.items())]


@pytest.mark.parametrize("kind", ["llava", "age_vlm"])
def test_published_questions_on_a_real_model_with_blind_control(kind: str, questions: Path, tmp_path: Path) -> None:
    from agevlm.vlm import Ask
    from agevlm.vlm.hf.session import HfVlm

    ckpt, out = checkpoint(kind, tmp_path), tmp_path / "run"
    counted: list[int] = []
    encode = HfVlm.encode

    def counting(self: HfVlm, images: Any) -> Any:
        counted.append(len(images))
        return encode(self, images)

    command = ["cvbench", "--ckpt", str(ckpt), "--questions", str(questions), "--out", str(out), *OPTIONS]
    command += ["--control", "blind", "--max-new-tokens", "4", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HfVlm, "encode", counting)
        done = command_here(*command, "--json", "-")
    assert done.returncode == 0, done.stderr
    asked = [json.loads(line) for line in (out / "questions.jsonl").read_text().splitlines()]
    assert sum(counted) == len({row["question"]["image"] for row in asked}) == 16
    for condition in ("image", "blind"):
        assert {r["reading"] for r in rows(done.stdout, condition=condition)} == set(READERS)
        (row,) = rows(done.stdout, condition=condition, reading="ranked-letter", score="row mean")
        assert (row["n"], row["missing"], row["unparsed"]) == (16, 0, 0)
    # What a record keeps of a ranking is what the model says when it is asked that alone.
    vlm = HfVlm.load(str(ckpt), device="cpu")
    records = answers(out)
    for row in asked[:3]:
        record = records[row["keys"]["image"]]
        texts = ranked_texts(row["question"]["options"])
        with Image.open(questions / row["question"]["image"]) as image:
            encoded = vlm.encode([image.convert("RGB")])
        (alone,) = vlm.rank(encoded, [Ask(record.prompt, 0)], [texts])
        assert [record.logprobs[text] for text in texts] == pytest.approx(alone, abs=1e-4)
        assert len({round(value, 3) for value in alone}) > 2, "the model tells its options apart"
    checked = command_here(*command, "--verify", "2")
    assert checked.returncode == 0, checked.stderr
    assert "by plain generate: 0 differ" in checked.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scenes/age-vlm", "scenes/concat"])
def test_cv_scenes_on_a_checkpoint_that_comes_with_the_package(name: str, tmp_path: Path) -> None:
    command = ["cvbench", "--ckpt", name, "--questions", "scenes:24", "--out", str(tmp_path / "run"), *OPTIONS]
    done = command_here(*command, "--control", "blind", "--device", "cpu", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert {r["dataset"] for r in json.loads(done.stdout)} == {"CV-Scenes"}
    (rules,) = rows(done.stdout, condition="image", reading="rules", score="row mean")
    assert rules["prompt"] == "plain"
    assert rules["unparsed"] == 0, "its answers, as in ( b ), are read"
    (strict,) = rows(done.stdout, condition="image", reading="strict", score="row mean")
    assert strict["unparsed"] == strict["n"] > 50, "and are not the letter as it was asked for"
    assert {r["reading"] for r in rows(done.stdout, condition="blind")} >= set(RANKINGS)
    again = command_here("score", "cvbench", "--answers", str(tmp_path / "run"), "--json", "-")
    assert again.stdout == done.stdout
