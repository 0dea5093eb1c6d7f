"""What the model is given: texts, visual tokens, images and the mask of the assistant's words."""

import itertools

import numpy as np
import pytest
import torch
from jinja2.exceptions import TemplateError
from tokenizers import pre_tokenizers, processors

from agevlm.checkpoints.tiny import build_tokenizer
from agevlm.errors import CheckpointError, DataError
from agevlm.model.image_processing import AgeVlmImageProcessor
from agevlm.model.processing import AgeVlmProcessor
from agevlm.model.templates import chat_template, end_token

LLAMA3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
CELLS = 4


def plain_tokenizer():
    return build_tokenizer(400)


def llama3_tokenizer():
    """LLaMA 3's special tokens, and its habit of putting a BOS in front of everything."""
    tokenizer = build_tokenizer(400)
    tokenizer.add_tokens(LLAMA3, special_tokens=True)
    tokenizer.bos_token = LLAMA3[0]
    bos = (LLAMA3[0], tokenizer.convert_tokens_to_ids(LLAMA3[0]))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos[0]} $A", pair=f"{bos[0]} $A {bos[0]} $B", special_tokens=[bos]
    )
    return tokenizer


def trimming_tokenizer():
    """GPT-2's habit: the space before a word is in its token but not in its offsets; no BOS."""
    tokenizer = build_tokenizer(400)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


TOKENIZERS = {"plain": plain_tokenizer, "llama3": llama3_tokenizer, "trimming": trimming_tokenizer}
everywhere = pytest.mark.parametrize(("kind", "fusion"), list(itertools.product(TOKENIZERS, ["cross", "concat"])))


def processor(kind="plain", fusion="cross", **settings):
    images = AgeVlmImageProcessor(image_size=32, stride=16)
    return AgeVlmProcessor(images, TOKENIZERS[kind](), fusion=fusion, **settings)


def image(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def user(text, shown=None):
    return {"role": "user", "content": [*([] if shown is None else [{"type": "image", "image": shown}]), says(text)]}


def assistant(text):
    return {"role": "assistant", "content": [says(text)]}


def says(text):
    return {"type": "text", "text": text}


def apply(made, chat, **options):
    settings = {"tokenize": True, "return_dict": True, "return_tensors": "pt", **options}
    return made.apply_chat_template(chat, **settings)


def words(made, ids):
    return made.tokenizer.decode(ids, skip_special_tokens=False)


def real(out, row=0):
    return out["input_ids"][row][out["attention_mask"][row].bool()]


# --- templates


def test_the_plain_template_reads_like_llava():
    made = processor()
    chat = [{"role": "system", "content": "Be brief."}, user("A dog?", image()), assistant("No"), user("A cat?")]
    text = made.apply_chat_template(chat, add_generation_prompt=True)
    assert text == "Be brief. USER: <image>A dog? ASSISTANT: No</s>USER: A cat? ASSISTANT:"


def test_the_llama_3_template_reads_like_llama_3_without_a_date():
    made = processor("llama3")
    chat = [{"role": "system", "content": "Be brief."}, user(" A dog?\n", image()), assistant("No"), user("A cat?")]
    text = made.apply_chat_template(chat, add_generation_prompt=True)

    def turn(role, said):
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n{said}"

    assert text == (
        "<|begin_of_text|>"
        + turn("system", "Be brief.<|eot_id|>")
        + turn("user", "<image> A dog?<|eot_id|>")
        + turn("assistant", "No<|eot_id|>")
        + turn("user", "A cat?<|eot_id|>")
        + turn("assistant", "")
    )


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_content_may_be_a_string_or_parts(kind):
    made = processor(kind)
    parts = [user("A dog?"), assistant("No")]
    strings = [{"role": "user", "content": "A dog?"}, {"role": "assistant", "content": "No"}]
    assert made.apply_chat_template(parts) == made.apply_chat_template(strings)


def test_the_image_stands_where_its_part_stands():
    chat = [{"role": "user", "content": [says("Look: "), {"type": "image"}, says(" A dog?")]}]
    assert processor().apply_chat_template(chat) == "USER: Look: <image> A dog? "


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_an_answer_may_be_continued(kind):
    made = processor(kind)
    text = made.apply_chat_template([user("A dog?"), assistant("Yes, there")], continue_final_message=True)
    assert text.endswith("Yes, there")


def test_content_and_roles_that_are_not_understood_are_refused():
    with pytest.raises(TemplateError, match="video"):
        processor().apply_chat_template([{"role": "user", "content": [{"type": "video"}]}])
    with pytest.raises(TemplateError, match="tool"):
        processor().apply_chat_template([{"role": "tool", "content": "4"}])


def test_any_image_token_survives_quoting():
    token = '<"im\\age\'é\U0001f600">'
    made = processor(image_token=token)
    assert made.apply_chat_template([user("A dog?", image())]) == f"USER: {token}A dog? "


def test_what_ends_a_turn():
    assert end_token(plain_tokenizer()) == "</s>"
    assert end_token(llama3_tokenizer()) == "<|eot_id|>"
    endless = plain_tokenizer()
    endless.eos_token = None
    for function in (end_token, lambda t: chat_template(t, "<image>")):
        with pytest.raises(CheckpointError, match="eos_token"):
            function(endless)


# --- text and visual tokens


@everywhere
def test_a_prompt_with_an_image(kind, fusion):
    made = processor(kind, fusion)
    out = apply(made, [user("A dog?", image())], add_generation_prompt=True)
    bare = apply(made, [user("A dog?")], add_generation_prompt=True)
    ids = out["input_ids"][0].tolist()
    if fusion == "cross":
        assert made.image_token_id is None
        assert ids == bare["input_ids"][0].tolist()
        assert "<image>" not in words(made, ids)
    else:
        assert ids.count(made.image_token_id) == CELLS == made.visual_tokens
        assert words(made, ids).count("<image>" * CELLS) == 1
        first = ids.index(made.image_token_id)
        assert words(made, ids[:first]).endswith("USER: " if kind != "llama3" else "\n\n")
    assert out["pixel_values"].shape == (1, 3, 32, 32)
    assert out["vision_token_mask"].shape == (1, CELLS)
    assert out["image_mask"].tolist() == [True]
    assert out["image_mask"].dtype == torch.bool
    assert set(out) == set(made.model_input_names)
    assert set(bare) == {"input_ids", "attention_mask"}


@everywhere
def test_one_bos_and_no_more(kind, fusion):
    made = processor(kind, fusion)
    bos = made.tokenizer.bos_token_id
    chat = [user("A dog?", image())]
    rendered = made.apply_chat_template(chat, add_generation_prompt=True)
    expected = [] if kind == "trimming" else [0]
    for out in (
        apply(made, chat, add_generation_prompt=True),
        made(image(), rendered, return_tensors="pt"),
        made([image()], [rendered], return_tensors="pt"),
    ):
        assert np.flatnonzero(out["input_ids"][0] == bos).tolist() == expected
    if kind == "llama3":
        doubled = made(image(), rendered, add_special_tokens=True)["input_ids"][0]
        assert doubled[:2] == [bos, bos]
    if kind == "plain":
        assert bos not in made(image(), rendered, add_special_tokens=False)["input_ids"][0]


def test_prompts_of_which_some_begin_with_bos_are_refused():
    with pytest.raises(DataError, match="only some of the prompts begin with <s>"):
        processor()(text=["<s>USER:", "USER:"])


@everywhere
def test_a_ragged_batch_is_what_its_rows_are(kind, fusion):
    made = processor(kind, fusion)
    chats = [
        [user("Is there a person in the image?", image(0))],
        [user("Yes or no?")],
        [user("A dog?", image(1)), assistant("No"), user("Is there a cat in the image?")],
    ]
    out = apply(made, chats, add_generation_prompt=True, processor_kwargs={"padding": True})
    assert out["image_mask"].tolist() == [True, False, True]
    for row, chat in enumerate(chats):
        alone = apply(made, chat, add_generation_prompt=True)
        assert real(out, row).tolist() == alone["input_ids"][0].tolist()
        assert out["attention_mask"][row, -1] == 1
    assert out["pixel_values"].shape[0] == 2
    for seed in (0, 1):
        assert torch.equal(
            out["pixel_values"][seed], made.image_processor(image(seed), return_tensors="pt")["pixel_values"][0]
        )


def test_images_flat_nested_or_alone():
    made = processor()
    prompts = ["<image>A dog?", "A dog?", "A cat?<image>"]
    flat = made([image(0), image(1)], prompts)
    for same in ([[image(0)], [], [image(1)]], (image(0), image(1)), np.stack([image(0), image(1)])):
        np.testing.assert_array_equal(made(same, prompts)["pixel_values"], flat["pixel_values"])
    assert flat["image_mask"].tolist() == [True, False, True]
    alone = made(image(0), prompts[0])
    for same in ([image(0)], [[image(0)]]):
        np.testing.assert_array_equal(made(same, prompts[0])["pixel_values"], alone["pixel_values"])
    for none in (None, [], [[], []]):
        assert set(made(none, ["A dog?", "A cat?"])) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("fusion", ["cross", "concat"])
@pytest.mark.parametrize(
    ("images", "text", "message"),
    [
        (lambda: [image(), image()], "<image><image>A dog?", "prompt 0 has 2 .*one image a prompt"),
        (lambda: image(), "A dog?", "1 images, but 0 of 1 prompts"),
        (lambda: None, "<image>A dog?", "0 images, but 1 of 1 prompts"),
        (lambda: [image()], ["<image>A", "<image>B"], "1 images, but 2 of 2 prompts"),
        (lambda: [[image()], [image()]], ["<image>A", "B"], "prompt 1 has 0 image tokens and 1 images"),
        (lambda: [[], [image()]], ["<image>A", "<image>B"], "prompt 0 has 1 image tokens and 0 images"),
        (lambda: [[image()]], ["<image>A", "B"], "1 lists of images for 2 prompts"),
        (lambda: image(), None, "no text"),
    ],
)
def test_images_and_tokens_that_do_not_match_are_refused(fusion, images, text, message):
    with pytest.raises(DataError, match=message):
        processor(fusion=fusion)(images(), text)


def test_other_modalities_are_refused():
    with pytest.raises(DataError, match="videos"):
        processor()(text="A dog?", videos=[image()])


def test_truncation_may_not_cut_visual_tokens():
    made = processor(fusion="concat")
    made.tokenizer.truncation_side = "right"
    with pytest.raises(DataError, match="raise max_length"):
        made(image(), "<image>A dog?", truncation=True, max_length=3)
    assert made(image(), "<image>A dog?", truncation=True, max_length=6)["input_ids"][0].count(made.image_token_id) == 4


def test_an_image_token_of_several_tokens_is_refused_for_concat_only():
    with pytest.raises(DataError, match=r"<picture> is not one token.*add_tokens"):
        processor(fusion="concat", image_token="<picture>")
    made = processor(image_token="<picture>")
    assert "picture" not in words(made, made(image(), "<picture>A dog?")["input_ids"][0])


def test_an_unknown_fusion_is_refused():
    with pytest.raises(ValueError, match="cross, concat"):
        processor(fusion="sum")


def test_inputs_come_as_lists_numpy_or_torch():
    made = processor()
    assert isinstance(made(image(), "<image>A dog?")["input_ids"], list)
    assert isinstance(made(image(), "<image>A dog?", return_tensors="np")["input_ids"], np.ndarray)
    assert isinstance(made(image(), "<image>A dog?", return_tensors="pt")["pixel_values"], torch.Tensor)
    padded = made(text=["A dog?", "A"], text_kwargs={"padding": "max_length", "max_length": 9})
    assert [len(row) for row in padded["input_ids"]] == [9, 9]


# --- the assistant's words


@everywhere
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_assistants_words_are_masked_and_nothing_else(kind, fusion, side):
    made = processor(kind, fusion)
    made.tokenizer.padding_side = side
    end = end_token(made.tokenizer)
    chats = [
        [
            user("Is there a person in the image?", image(0)),
            assistant("Yes, there is."),
            user("A dog?"),
            assistant("No"),
        ],
        [{"role": "system", "content": "Be brief."}, user("A dog?"), assistant("Yes")],
        [user("Is there a cat?", image(1)), assistant("Nö, keine 猫")],
        [{"role": "user", "content": [says("A bus?"), {"type": "image", "image": image(2)}]}, assistant("Yes")],
        [user("Is there a dining table?", image(3))],
    ]
    said = [["Yes, there is.", "No"], ["Yes"], ["Nö, keine 猫"], ["Yes"], []]
    gap = "" if kind == "llama3" else " "
    out = apply(made, chats, return_assistant_tokens_mask=True, processor_kwargs={"padding": True})
    assert out["assistant_masks"].shape == out["input_ids"].shape
    assert "offset_mapping" not in out
    for row, expected in enumerate(said):
        masked = out["input_ids"][row][torch.as_tensor(out["assistant_masks"][row]).bool()]
        assert words(made, masked) == "".join(gap + text + end for text in expected)
    if fusion == "concat":
        assert not out["assistant_masks"][out["input_ids"] == made.image_token_id].any()


@everywhere
def test_one_conversation_is_masked_too(kind, fusion):
    made = processor(kind, fusion)
    out = apply(made, [user("A dog?", image()), assistant("No")], return_assistant_tokens_mask=True)
    masked = out["input_ids"][0][torch.as_tensor(out["assistant_masks"][0]).bool()]
    assert words(made, masked).strip() == "No" + end_token(made.tokenizer)


@everywhere
@pytest.mark.parametrize("side", ["left", "right"])
def test_offsets_point_into_the_callers_text(kind, fusion, side):
    made = processor(kind, fusion)
    made.tokenizer.padding_side = side
    prompts = ["USER: Look:<image> a dog there? ASSISTANT: Yes", "USER: a cat? ASSISTANT:"]
    out = made(image(), prompts, padding=True, return_offsets_mapping=True)
    for ids, spans, prompt in zip(out["input_ids"], out["offset_mapping"], prompts, strict=True):
        starts = [start for start, _ in spans]
        assert starts == sorted(starts)
        for token, (start, end) in zip(ids, spans, strict=True):
            if start == end:
                assert token in made.tokenizer.all_special_ids
            elif token == made.image_token_id:
                assert prompt[start:end] == "<image>"
            else:
                assert prompt[start:end].replace("<image>", "") == words(made, [token])
    if fusion == "concat":
        assert out["input_ids"][0].count(made.image_token_id) == CELLS


# --- files


@everywhere
def test_everything_survives_saving(kind, fusion, tmp_path):
    made = processor(kind, fusion)
    made.save_pretrained(tmp_path)
    loaded = AgeVlmProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded.image_processor, AgeVlmImageProcessor)
    assert (loaded.fusion, loaded.image_token, loaded.image_token_id) == (fusion, "<image>", made.image_token_id)
    assert loaded.chat_template == made.chat_template
    assert loaded.image_processor.to_dict() == made.image_processor.to_dict()
    assert loaded.tokenizer.padding_side == "left"
    chats = [[user("A dog?", image()), assistant("No")], [user("Is there a cat?"), assistant("Yes")]]
    options = {"return_assistant_tokens_mask": True, "processor_kwargs": {"padding": True}}
    before, after = (apply(p, chats, **options) for p in (made, loaded))
    assert set(before) == set(after)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_other_templates_and_tokens_survive_saving(tmp_path):
    made = processor(image_token="<picture>", chat_template="{{ messages[0]['content'] }}")
    made.save_pretrained(tmp_path)
    loaded = AgeVlmProcessor.from_pretrained(tmp_path)
    assert (loaded.image_token, loaded.chat_template) == ("<picture>", "{{ messages[0]['content'] }}")
    assert AgeVlmProcessor.from_pretrained(tmp_path, fusion="cross", image_token="<image>").image_token == "<image>"
