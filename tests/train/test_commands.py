"""The commands as they are called: exit codes, one-line errors, what is printed."""

from __future__ import annotations

import json

import pytest

from tests.model.parts import convnext_folder, llama_folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return llama_folder(folder / "llama"), convnext_folder(folder / "convnext")


@pytest.fixture
def assemble(call, parts, tmp_path):
    def run(*more, out="made") -> tuple[int, str, str]:
        llama, vision = parts
        return call(
            "assemble", "--llama", llama, "--vision", vision, "--image-size", 96, "--out", tmp_path / out, *more
        )

    return run


def test_assemble_says_what_it_made_and_what_is_next(assemble, call, tmp_path):
    code, out, _ = assemble("--cross-layers", "1,4", "--no-cross-mlp", "--dtype", "bfloat16", "--resize", "squash")
    assert code == 0
    assert "3 x 3 = 9 visual tokens" in out
    assert "layers 1, 4 of 6 (from 0)" in out
    assert "loads as bfloat16" in out
    assert "every weight is in its place" in out
    last = out.splitlines()[-1]
    assert last.startswith("next: agevlm-train describe --ckpt ")
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert config["text_config"]["cross_attention_layers"] == [1, 4]
    assert config["text_config"]["cross_attention_mlp"] is False
    code, out, _ = call(*last.split()[2:])
    assert code == 0
    assert "cross-attention layers: 1, 4 of 6" in out


def test_every_option_arrives(assemble, tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}<image>{% endfor %}")
    code, out, err = assemble(
        "--fusion", "cross", "--cross-mlp", "--adapter", "linear", "--visual-positions", "learned", "--mask-padding",
        "--num-stages", "3", "--architecture", "convnext_atto", "--chat-template", template, "--seed", "5",
        "--no-verify",
    )  # fmt: skip
    assert code == 0, err
    assert "not loaded again" in out
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert (config["adapter"], config["visual_positions"], config["mask_padding"]) == ("linear", "learned", True)
    assert config["vision_config"]["num_stages"] == 3
    assert (tmp_path / "made" / "chat_template.jinja").read_text() == template.read_text()
    code, out, _ = assemble("--fusion", "concat", out="concat")
    assert code == 0
    assert "in the place of <image>" in out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--cross-layers", "0,3"), "layer 0"),
        (("--cross-layers", "2,2"), "twice"),
        (("--cross-layers", "77"), "outside"),
        (("--image-size", "100"), "stride 32"),
        (("--chat-template", "nowhere.jinja"), "nowhere.jinja"),
        (("--config", "nowhere.json"), "nowhere.json"),
        (("--vision", "nowhere"), "vision nowhere"),
        (("--llama", "nowhere"), "LLaMA nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(more, says, assemble, tmp_path):
    code, out, err = assemble(*more)
    assert (code, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not list(tmp_path.iterdir())


def test_usage_errors_exit_2(assemble, call):
    assert assemble("--cross-layers", "two")[0] == 2
    assert assemble("--dtype", "int8")[0] == 2
    assert call("assemble", "--out", "x")[0] == 2
    code, _, err = call("describe", "--backbone", "8b", "--config", "x")
    assert code == 2
    assert "give one of them" in err


def test_describe_shows_both_fusions_and_both_text_stacks(call):
    code, out, _ = call("describe")
    assert code == 0
    rows = {line.rsplit("  ", 2)[0].strip(): line.split()[-2:] for line in out.splitlines() if line}
    assert rows["text stack (LLaMA, cross-attention)"] == ["1,479.1", "1,235.8"]
    assert rows["one image"] == ["18.87", "MB"]
    assert "4.72 MB" in out
    assert "576 visual tokens" in out
    assert "1.48 B with an MLP branch" in out
    assert "1.28 B without (--no-cross-mlp); the paper says 1.2 B" in out


def test_describe_without_the_mlp_branch(call):
    code, out, _ = call("describe", "--no-cross-mlp", "--fusion", "cross")
    assert code == 0
    assert "concat" not in out
    assert "1.28 B without an MLP branch" in out
    assert "1.48" not in out


def test_json_is_alone_on_stdout_or_in_a_file_beside_the_tables(call, tmp_path):
    code, out, err = call("describe", "--json", "-", "--questions", 3, "--answer-tokens", 1, "--question-tokens", 7)
    assert (code, err) == (0, "")
    cross, concat = json.loads(out)
    assert (cross["fusion"], concat["fusion"]) == ("cross", "concat")
    assert (cross["questions"], cross["answer_tokens"], cross["question_tokens"]) == (3, 1, 7)
    operations = cross["operations"]
    assert operations["all_questions"] == operations["image"] + 3 * operations["prefill"]
    path = tmp_path / "costs.json"
    code, out, _ = call("describe", "--json", path)
    assert code == 0
    assert "visual tokens" in out
    assert len(json.loads(path.read_text())) == 2
    assert call("describe", "--json", tmp_path)[0] == 2


def test_describe_reads_a_configuration_and_says_what_is_none(call, tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "age_vlm", "fusion": "concat"}')
    code, out, _ = call("describe", "--config", path, "--fusion", "concat")
    assert code == 0
    assert "16 LLaMA layers" in out
    path.write_text('{"model_type": "llama"}')
    for option in ("--config", "--ckpt"):
        code, out, err = call("describe", option, path if option == "--config" else tmp_path)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert "'llama'" in err
