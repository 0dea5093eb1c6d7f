"""Batches: labels and places by decoding, regions on the grid, images, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from agevlm.checkpoints.tiny import random_age_vlm
from agevlm.errors import DataError
from tests.train.toys import CELLS, SHAPE, Toys
from train.data.collate import IGNORED, Collator, tokens_of
from train.data.conversation import render
from train.data.samples import Message, Phrase, Sample
from train.spec import Guidance

LLAMA3_WORDS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def processor_of(layout: str, **changes):
    _, processor = random_age_vlm(replace(SHAPE, **changes), 0)
    if layout == "plain":
        return processor
    from agevlm.model import AgeVlmProcessor

    processor.tokenizer.add_tokens(LLAMA3_WORDS, special_tokens=True)
    processor.tokenizer.bos_token = LLAMA3_WORDS[0]
    return AgeVlmProcessor(processor.image_processor, processor.tokenizer, fusion=processor.fusion)


@pytest.fixture(scope="module", params=["plain", "llama3"])
def processor(request):
    return processor_of(request.param)


@pytest.fixture(scope="module")
def plain():
    return processor_of("plain")


def square(width=48, height=48, box=(0, 0, 16, 16)):
    mask = np.zeros((height, width), bool)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = True
    return mask


def sample(
    name="s", question="  Is there a red car, or two  dogs? ", answer=" No, there is not.\n", box=(0, 0, 16, 16)
):
    phrases = tuple(
        Phrase(1, question.index(words), question.index(words) + len(words), square(box=box))
        for words in ("a red car", "  dogs", "Is")
    )
    return Sample(
        name,
        (
            Message("system", "Answer the question."),
            Message("user", question),
            Message("assistant", answer),
            Message("user", "a red car?"),
            Message("assistant", "Yes"),
        ),
        Image.new("RGB", (48, 48), (200, 30, 90)),
        phrases,
    )


def test_the_text_is_what_the_processor_itself_renders(processor):
    one = sample()
    conversation = [
        {"role": m.role, "content": ([{"type": "image"}] if i == 1 else []) + [{"type": "text", "text": m.text}]}
        for i, m in enumerate(one.messages)
    ]
    expected = processor.apply_chat_template(conversation, tokenize=False)
    for guided in (True, False):
        assert render(processor, [one], [guided])[0].text == expected
    batch = Collator(processor, None, 999)([one], [False])
    whole = processor.apply_chat_template(
        [
            [
                {
                    "role": c["role"],
                    "content": [
                        {"type": "image", "image": one.image} if p["type"] == "image" else p for p in c["content"]
                    ],
                }
                for c in conversation
            ]
        ],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
    )
    assert batch.input_ids.tolist() == whole["input_ids"].tolist()
    assert torch.equal(batch.pixel_values, whole["pixel_values"])
    assert (batch.labels != IGNORED).long().tolist() == whole["assistant_masks"].tolist()


def test_labels_are_what_the_assistant_says(processor):
    batch = Collator(processor, None, 999)([sample(), Toys().read(4, 0)], [False, False])
    decode = processor.tokenizer.decode
    end = "<|eot_id|>" if "<|eot_id|>" in processor.tokenizer.get_vocab() else "</s>"
    said = decode(batch.labels[0][batch.labels[0] != IGNORED])
    assert said.replace(" ", "") == f"No,thereisnot.{end}Yes{end}"
    labelled = batch.labels != IGNORED
    assert torch.equal(batch.labels[labelled], batch.input_ids[labelled])
    # Padding is on the right, and never a label.
    assert batch.attention_mask.tolist() == sorted(batch.attention_mask.tolist(), key=lambda row: -sum(row))
    for row in batch.attention_mask.tolist():
        assert row == sorted(row, reverse=True)
    assert not bool(labelled[batch.attention_mask == 0].any())


@pytest.mark.parametrize("which", ["last", "first", "all"])
def test_places_are_the_phrases_tokens(processor, which):
    batch = Collator(processor, Guidance(tokens=which), 999)([sample(), sample("t")], [True, True])
    for row in (0, 1):
        held = (batch.rows == row).nonzero().squeeze(1)
        words = [processor.tokenizer.decode(batch.input_ids[row, [int(batch.positions[i])]]) for i in held]
        if which == "all":
            assert "".join(words).replace(" ", "") == "aredcardogsIs"
        else:
            ends = ["a", "d", "Is"] if which == "first" else ["r", "s", "Is"]
            for word, end in zip(words, ends, strict=True):
                assert word.strip().startswith(end) if which == "first" else word.endswith(end)
    assert batch.phrases == pytest.approx(6)
    assert batch.rows.tolist() == sorted(batch.rows.tolist())


def test_an_answers_place_predicts_its_first_word_with_the_union(processor):
    boxes = [(0, 0, 16, 16), (32, 0, 48, 16)]
    question = "Is there a dog or a cat?"
    phrases = tuple(
        Phrase(0, question.index(w), question.index(w) + 3, square(box=b))
        for w, b in zip(("dog", "cat"), boxes, strict=True)
    )
    one = Sample("u", (Message("user", question), Message("assistant", "Yes")), Image.new("RGB", (48, 48)), phrases)
    batch = Collator(processor, Guidance(answers=True), 999)([one], [True])
    assert len(batch.rows) == 3
    place = int(batch.positions[2])
    assert int(batch.labels[0, place]) == IGNORED
    first = processor.tokenizer.decode(batch.labels[0, [place + 1]]).strip()
    assert first
    assert "Yes".startswith(first)
    assert batch.coverage[2].tolist() == [1, 0, 1, 0, 0, 0, 0, 0, 0]
    assert batch.phrases == 3


def test_regions_lie_where_the_image_puts_them(plain):
    """Asymmetric: another result for every transposition and flip."""
    wide = np.zeros((24, 48), bool)
    wide[0:12, 32:48] = True
    one = Sample(
        "w",
        (Message("user", "a dog"), Message("assistant", "Yes")),
        Image.new("RGB", (48, 24)),
        (Phrase(0, 2, 5, wide),),
    )
    batch = Collator(plain, Guidance(), 999)([one], [True])
    # Letterboxed: rows 12 to 36 hold the image, so the region's 12 pixels are 12 to 24: 4 in the first row, 8 below.
    expected = torch.zeros(3, 3)
    expected[0, 2], expected[1, 2] = 4 / 16, 8 / 16
    assert torch.allclose(batch.coverage.reshape(3, 3), expected)
    assert batch.vision_token_mask.all()
    assert plain.image_processor.grid == (3, 3)


def test_thresholds_and_specks(plain):
    def coverage(guidance, box):
        one = sample("c", "a red car or two  dogs Is", box=box)
        return Collator(plain, guidance, 999)([one], [True])

    box = (0, 0, 24, 12)
    soft = coverage(Guidance(), box).coverage[0]
    assert soft[:3].tolist() == pytest.approx([0.75, 0.375, 0])
    assert coverage(Guidance(threshold=0.5), box).coverage[0].tolist() == [1] + [0] * 8
    assert coverage(Guidance(threshold=0.2), box).coverage[0].tolist() == [1, 1] + [0] * 7
    assert coverage(Guidance(form="literal"), box).coverage[0].tolist() == [1] + [0] * 8
    # Nothing is above: the best covered cell.
    assert coverage(Guidance(threshold=0.9), box).coverage[0].tolist() == [1] + [0] * 8
    nowhere = coverage(Guidance(), (0, 0, 0, 0))
    assert (len(nowhere.rows), nowhere.dropped, nowhere.phrases) == (0, 3, 0.0)
    assert nowhere.coverage.shape == (0, CELLS)


def test_text_alone_and_mixed(plain):
    toys = Toys()
    picked = [toys.read(i, 0) for i in (3, 4, 9)]
    batch = Collator(plain, Guidance(), 999)(picked, [True, True, False])
    assert batch.image_mask.tolist() == [True, False, False]
    assert not batch.pixel_values[1:].any()
    assert set(batch.rows.tolist()) == {0}
    alone = Collator(plain, Guidance(), 999)(picked[1:], [False, False])
    assert alone.pixel_values.shape == (2, 3, 48, 48)
    assert alone.tokens == batch.tokens - int((batch.labels[0] != IGNORED).sum())


def test_phrases_of_unguided_samples_are_not_read(plain):
    assert len(Collator(plain, Guidance(), 999)([sample()], [False]).rows) == 0
    assert len(Collator(plain, None, 999)([sample()], [True]).rows) == 0


@pytest.mark.parametrize("which", ["last", "all"])
def test_visual_tokens_in_the_sequence_shift_positions(which):
    cross, concat = processor_of("plain"), processor_of("plain", fusion="concat")
    batches = [Collator(p, Guidance(tokens=which, answers=True), 999)([sample()], [True]) for p in (cross, concat)]
    words = [
        [p.tokenizer.decode(b.input_ids[0, [int(i)]]) for i in b.positions]
        for p, b in zip((cross, concat), batches, strict=True)
    ]
    assert words[0] == words[1]
    assert (batches[1].positions - batches[0].positions).unique().tolist() == [CELLS]
    assert int((batches[1].input_ids == concat.image_token_id).sum()) == CELLS
    assert batches[0].tokens == batches[1].tokens


def test_bytes_of_one_character(plain):
    text = "Is there a 自行车 here?"
    one = Sample(
        "b",
        (Message("user", text), Message("assistant", "Yes")),
        Image.new("RGB", (48, 48)),
        (Phrase(0, text.index("自"), text.index("车") + 1, square()),),
    )
    batch = Collator(plain, Guidance(tokens="all"), 999)([one], [True])
    assert plain.tokenizer.decode(batch.input_ids[0, batch.positions]).strip() == "自行车"


def test_tokens_of():
    spans = np.array([[0, 0], [0, 3], [3, 7], [7, 7], [7, 8], [9, 9]])
    assert tokens_of(spans, 0, 3).tolist() == [1]
    assert tokens_of(spans, 2, 4).tolist() == [1, 2]
    assert tokens_of(spans, 4, 8).tolist() == [2, 4]


def refusals():
    image = Image.new("RGB", (48, 48))
    ask, yes = Message("user", "Is there a dog?"), Message("assistant", "Yes")
    yield "nothing for the assistant", Sample("x7", (ask,), image)
    yield "no user message", Sample("x7", (yes,), image)
    yield "role 'bot'", Sample("x7", (ask, Message("bot", "hm"), yes), image)
    yield "<image>", Sample("x7", (Message("user", "what is <image>?"), yes), image)
    yield "not there", Sample("x7", (ask, yes), image, (Phrase(0, 11, 99, square()),))
    yield "blank", Sample("x7", (ask, yes), image, (Phrase(0, 2, 3, square()),))
    yield "no image", Sample("x7", (ask, yes), None, (Phrase(0, 11, 14, square()),))
    yield "shape", Sample("x7", (ask, yes), image, (Phrase(0, 11, 14, square(40, 48)),))
    yield "max_length", Sample("x7", (ask, Message("assistant", "Yes, there is. " * 40)), image)


@pytest.mark.parametrize(("said", "bad"), list(refusals()), ids=lambda v: v if isinstance(v, str) else "")
def test_refusals_name_the_sample(plain, said, bad):
    with pytest.raises(DataError, match="x7") as caught:
        Collator(plain, Guidance(), 60)([Toys().read(0, 0), bad], [True, True])
    assert said in str(caught.value)


def test_a_template_without_marks_is_refused(plain):
    from agevlm.model import AgeVlmProcessor

    template = plain.chat_template.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
    bare = AgeVlmProcessor(plain.image_processor, plain.tokenizer, chat_template=template)
    with pytest.raises(DataError, match="generation"):
        Collator(bare, None, 99)([sample()], [False])
