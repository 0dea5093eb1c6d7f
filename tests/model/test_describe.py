"""Costs: known figures, and formulas written out by hand beside what the counter counts on the model."""

from __future__ import annotations

import json

import pytest

from agevlm.errors import CheckpointError
from agevlm.model import AgeVlmConfig, AgeVlmForConditionalGeneration, AgeVlmTextConfig, AgeVlmVisionConfig
from agevlm.model.describe import (
    BACKBONES,
    backbone_config,
    count_parameters,
    describe,
    on_meta,
    read_age_vlm_config,
    variant,
)
from tests.model.parts import CONVNEXT_ARGS, llama_config


@pytest.fixture(scope="module")
def paper():
    config = backbone_config("1b")
    return {
        "cross": describe(config),
        "concat": describe(variant(config, fusion="concat")),
        "slim": describe(variant(config, fusion="cross", cross_mlp=False)),
    }


@pytest.fixture
def tiny() -> AgeVlmConfig:
    """Queries are wider than the hidden states, and no two sizes are alike."""
    return AgeVlmConfig(
        text_config=AgeVlmTextConfig.from_llama(llama_config(head_dim=24), cross_attention_layers=[1, 4]),
        vision_config=AgeVlmVisionConfig.from_timm("convnext_atto", image_size=96, model_args=CONVNEXT_ARGS),
    )


def test_the_papers_model_has_the_known_number_of_parameters(paper):
    counts = paper["cross"].parameters
    assert counts.llama == 1_235_814_400
    assert counts.embeddings == 128256 * 2048
    assert counts.cross_attention == 4 * 2048 * (2048 + 512 + 512 + 2048) == 41_943_040
    assert counts.cross_mlp == 4 * 3 * 2048 * 8192 == 201_326_592
    # Gates (2), norms of queries and keys (64 each), norms of the two branches.
    assert counts.cross_gates_and_norms == 4 * (2 + 2 * 64 + 2 * 2048)
    assert counts.cross_layers / 1e6 == pytest.approx(243.3, abs=0.05)
    assert counts.text_stack / 1e6 == pytest.approx(1479.1, abs=0.05)
    assert counts.language_head == 0
    assert counts.adapter == 1536 * 2048 + 2048 + 2048 * 2048 + 2048
    assert counts.new == counts.adapter + counts.cross_layers
    # timm's convnext_large_mlp has 200.1 M with its head, whose norm and layers are left out.
    assert counts.vision_tower == 200_128_168 - (2 * 1536 + 1536 * 1536 + 1536 + 1536 * 1000 + 1000)
    assert paper["slim"].parameters.text_stack / 1e6 == pytest.approx(1277.8, abs=0.05)
    assert paper["slim"].parameters.cross_mlp == 0
    concat = paper["concat"].parameters
    assert concat.text_stack == concat.llama == counts.llama
    assert concat.new == concat.adapter == counts.adapter


@pytest.mark.parametrize(
    ("backbone", "llama", "head"),
    [("3b", 3_212_749_824, 0), ("8b", 8_030_261_248, 128256 * 4096), ("70b", 70_553_706_496, 128256 * 8192)],
)
def test_larger_backbones_have_llamas_known_sizes_and_take_no_memory(backbone, llama, head):
    model = on_meta(backbone_config(backbone))
    assert all(parameter.is_meta for parameter in model.parameters())
    counts = count_parameters(model)
    assert (counts.llama, counts.language_head) == (llama, head)
    assert counts.total == sum(parameter.numel() for parameter in model.parameters())
    layers = model.config.text_config.cross_attention_layers
    assert len(layers) == BACKBONES[backbone]["num_hidden_layers"] // 4


def test_cache_of_an_image_and_of_a_token(paper):
    cross, concat = paper["cross"].costs, paper["concat"].costs
    # 4 layers x keys and values x 8 heads x 64 x 576 tokens x 2 bytes.
    assert cross.image_cache_bytes == 4 * 2 * 8 * 64 * 576 * 2 == 4_718_592
    assert concat.image_cache_bytes == 16 * 2 * 8 * 64 * 576 * 2 == 576 * 32 * 1024
    assert cross.token_cache_bytes == concat.token_cache_bytes == 32 * 1024
    assert paper["slim"].costs.image_cache_bytes == cross.image_cache_bytes


# --- operations, by hand


def convnext_operations(side: int, depths: list[int], dims: list[int]) -> int:
    cells = (side // 4) ** 2
    total = 2 * cells * dims[0] * 3 * 4 * 4
    for stage, (depth, width) in enumerate(zip(depths, dims, strict=True)):
        if stage:
            cells //= 4
            total += 2 * cells * width * dims[stage - 1] * 2 * 2
        depthwise, up, down = 2 * cells * width * 7 * 7, 2 * cells * width * 4 * width, 2 * cells * 4 * width * width
        total += depth * (depthwise + up + down)
    return total


def llama_layer(text, tokens: int, before: int) -> int:
    h, d = text.hidden_size, text.head_dim
    queries, groups = text.num_attention_heads * d, text.num_key_value_heads * d
    projections = 2 * tokens * h * (queries + groups + groups) + 2 * tokens * queries * h
    looking = 2 * 2 * tokens * (before + tokens) * queries
    return projections + looking + 3 * 2 * tokens * h * text.intermediate_size


def cross_layer(text, tokens: int, image: int) -> int:
    h, queries = text.hidden_size, text.num_attention_heads * text.head_dim
    looking = 2 * tokens * h * queries + 2 * 2 * tokens * image * queries + 2 * tokens * queries * h
    return looking + (3 * 2 * tokens * h * text.intermediate_size if text.cross_attention_mlp else 0)


def reading(config: AgeVlmConfig, tokens: int, before: int, logits: int = 1) -> int:
    text, image = config.text_config, config.vision_config.num_visual_tokens
    own, crossing = len(text.self_attention_layers), len(text.cross_attention_layers)
    return (
        own * llama_layer(text, tokens, before)
        + crossing * cross_layer(text, tokens, image)
        + logits * 2 * text.hidden_size * text.vocab_size
    )


def same(counted: int, by_hand: int, text, tokens: int) -> bool:
    """Some versions of transformers make rotary angles by a matrix product, frequencies by positions; it counts."""
    return counted - by_hand in (0, 2 * tokens * text.head_dim // 2)


def check(config: AgeVlmConfig, depths: list[int], dims: list[int], question: int) -> None:
    costs, text, image = describe(config, question).costs, config.text_config, config.vision_config.num_visual_tokens
    assert costs.vision_tower == convnext_operations(config.vision_config.image_size, depths, dims)
    h = text.hidden_size
    second = h * h if config.adapter == "mlp" else 0
    assert costs.adapter == 2 * image * (dims[-1] * h + second)
    if config.fusion == "cross":
        groups = text.num_key_value_heads * text.head_dim
        assert costs.image_in_cache == len(text.cross_attention_layers) * 2 * image * h * 2 * groups
        before = 0
    else:
        assert same(costs.image_in_cache, reading(config, image, 0, logits=0), text, image)
        before = image
    assert same(costs.prefill, reading(config, question, before), text, question)
    assert same(costs.decode, reading(config, 1, before + question), text, 1)


LARGE = ([3, 3, 27, 3], [192, 384, 768, 1536])


@pytest.mark.parametrize("fusion", ["cross", "concat"])
@pytest.mark.parametrize("backbone", ["1b", "8b"])
def test_operations_are_those_of_the_formulas_at_full_size(backbone, fusion):
    check(variant(backbone_config(backbone), fusion=fusion), *LARGE, question=32)


@pytest.mark.parametrize("fusion", ["cross", "concat"])
@pytest.mark.parametrize("question", [1, 13])
def test_operations_are_those_of_the_formulas_at_odd_sizes(tiny, fusion, question):
    check(variant(tiny, fusion=fusion), CONVNEXT_ARGS["depths"], CONVNEXT_ARGS["dims"], question)


def test_operations_without_the_mlp_branch_and_with_a_linear_adapter(tiny):
    tiny.adapter = "linear"
    check(variant(tiny, fusion="cross", cross_mlp=False), CONVNEXT_ARGS["depths"], CONVNEXT_ARGS["dims"], 5)


def test_sums_over_questions(paper):
    costs = paper["cross"].costs
    one = costs.vision_tower + costs.adapter + costs.image_in_cache + costs.prefill + costs.decode
    assert costs.answered(1, 2) == one
    assert costs.answered(18, 3) == one + 17 * costs.prefill + 35 * costs.decode
    rows = paper["concat"].as_json(18, 2)
    assert json.loads(json.dumps(rows)) == rows
    operations = rows["operations"]
    assert operations["all_questions_without_reuse"] == 18 * operations["one_question"]
    assert operations["all_questions"] == paper["concat"].costs.answered(18, 2)
    assert rows["parameters"]["total"] == paper["concat"].parameters.total


# --- variants and files


def test_a_variant_keeps_the_parts_and_leaves_its_origin_alone(tiny):
    before = tiny.to_json_string()
    concat = variant(tiny, fusion="concat")
    assert tiny.to_json_string() == before
    assert concat.text_config.num_hidden_layers == 4
    assert concat.text_config.num_attention_heads == tiny.text_config.num_attention_heads
    assert concat.vision_config.to_dict() == tiny.vision_config.to_dict()
    assert variant(tiny, fusion="cross").text_config.cross_attention_layers == [1, 4]
    # From a concat model, cross-attention goes where it goes by default.
    assert variant(concat, fusion="cross").text_config.cross_attention_layers == [2]
    tiny.visual_positions, tiny.mask_padding = "learned", True
    assert variant(tiny, fusion="cross").visual_positions == "learned"
    assert variant(tiny, fusion="concat").visual_positions == "learned"
    assert not variant(tiny, fusion="concat").mask_padding


def test_what_is_described_is_the_model_itself(tiny):
    real = AgeVlmForConditionalGeneration(tiny)
    assert describe(tiny).parameters == count_parameters(real)
    assert describe(tiny).parameters.total == sum(p.numel() for p in real.parameters())


def test_counting_leaves_the_configuration_as_it_was(tiny):
    before = tiny._attn_implementation, tiny.text_config._attn_implementation, tiny.to_json_string()
    describe(tiny)
    assert (tiny._attn_implementation, tiny.text_config._attn_implementation, tiny.to_json_string()) == before


def test_configurations_are_read_from_folders_and_files(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    for path in (tmp_path, tmp_path / "config.json"):
        assert read_age_vlm_config(path).to_dict() == tiny.to_dict()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read"),
        ("{", "cannot read"),
        ("[]", "model_type is None"),
        ('{"model_type": "llava"}', "'llava'"),
        ('{"model_type": "age_vlm", "fusion": "sum"}', "fusion 'sum'"),
        ('{"model_type": "age_vlm", "text_config": {"hidden_size": "big"}}', "hidden_size"),
    ],
)
def test_files_that_are_no_configuration(content, says, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError) as error:
        read_age_vlm_config(tmp_path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_configuration_that_no_model_fits_is_said(tiny):
    tiny.vision_config.hidden_size = 99
    with pytest.raises(CheckpointError, match="hidden_size 99"):
        describe(tiny)
