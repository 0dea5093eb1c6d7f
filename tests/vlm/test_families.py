"""Stand-ins of every family answer as their own processor and `generate` do, token for token in float32.

Tokenizers and chat templates are stand-ins with the family's image-token layout; models, image processors and
processors are transformers' own. The first tests prove that image, question, positions and masks matter.
"""

import functools
from pathlib import Path

import pytest
import torch

from agevlm.checkpoints.standins import STANDINS, build_standin
from agevlm.errors import CheckpointError, NotSupported
from agevlm.vlm import Ask, ProbeSpec
from agevlm.vlm.batching import AUTOMATIC
from agevlm.vlm.hf import plain
from agevlm.vlm.hf.devices import TOWERS
from agevlm.vlm.hf.reference import find_flips, plain_generate
from agevlm.vlm.hf.session import HfVlm
from agevlm.vlm.hf.sharing import CLOSE
from agevlm.vlm.hf.table import FAMILIES
from tests.vlm.conftest import QUESTIONS, asks_about
from tests.vlm.test_equality import QUESTION_FIRST
from tests.vlm.test_work import full_above

pytestmark = pytest.mark.usefixtures("numbers_in_words")
KINDS = sorted(STANDINS)
MROPE = ["qwen2_5_vl", "qwen2_vl", "qwen3_vl"]
PLACEHOLDER = dict.fromkeys(MROPE, "<|vision_start|><|image_pad|><|vision_end|>") | {
    "gemma3": "<start_of_image>",
    "internvl": "<IMG_CONTEXT>",
    "mllama": "<|image|>",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return functools.cache(lambda kind: build_standin(kind, tmp_path_factory.mktemp(kind), seed=1))


@pytest.fixture(scope="module")
def vlm(folder):
    """vlm(kind): a loaded stand-in; tests must leave it as it is."""
    return functools.cache(lambda kind: HfVlm.load(folder(kind), device="cpu"))


@pytest.fixture(scope="module")
def expected(vlm, pictures):
    """expected(kind, ask): what plain generation says, asked once."""
    return functools.cache(
        lambda kind, ask: plain_generate(vlm(kind), None if ask.image is None else pictures[ask.image], ask)[0]
    )


def shown_in(vlm, *images):
    """These images, and None (blind) where the model can be asked so."""
    return [*images, *([None] if "blind" in vlm.capabilities else [])]


def longhand(vlm, image, question, continuation=()):
    """Log-probabilities after the prompt and after each token of a continuation, by one whole forward pass."""
    inputs = dict(plain.plain_inputs(vlm, image, question))
    inputs.pop("labels", None)
    length, more = inputs["input_ids"].shape[1], len(continuation)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([list(continuation)]).long()], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    causal = vlm.model.config.model_type == "paligemma"
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            inputs[name] = torch.nn.functional.pad(inputs[name], (0, more), value=int(causal))
    if "cross_attention_mask" in inputs:
        mask = inputs["cross_attention_mask"]
        inputs["cross_attention_mask"] = torch.cat([mask, mask[:, -1:].expand(-1, more, -1, -1)], dim=1)
    if hasattr(vlm.model.model, "rope_deltas"):
        vlm.model.model.rope_deltas = None  # kept from the last call, whatever it was about
    with torch.inference_mode():
        return vlm.model(**inputs).logits[0, length - 1 :].log_softmax(-1)


def test_every_family_of_the_table_is_shown():
    tiny = {"age_vlm", "llava", "llava_next"}  # in test_equality
    assert {name.split("/")[0] for name in FAMILIES} == {*KINDS, *tiny}


def test_the_page_on_models_says_what_is_so(vlm):
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    for name, family in FAMILIES.items():
        blind = "blind" in vlm(name).capabilities if name in KINDS else family.blind
        cells = [
            f"`{name}`",
            "once",
            "once" if family.shares_prefix else "with each question",
            "one row" if family.plain_positions else "a batch",
            "yes" if blind else "no",
            "yes" if family.probes else "no",
        ]
        assert f"| {' | '.join(cells)} |" in page
    assert f"{AUTOMATIC['cuda']} questions on a GPU and {AUTOMATIC['cpu']} on the CPU" in page
    for dtype, close in CLOSE.items():
        assert f"{close * 100:g}%" in page, dtype


@pytest.mark.parametrize("kind", KINDS)
def test_another_image_or_question_changes_the_first_logits_and_the_tokens(vlm, pictures, expected, kind):
    model = vlm(kind)
    base = longhand(model, pictures[0], QUESTIONS[0])[0]
    for other in pictures[1:]:
        assert float((longhand(model, other, QUESTIONS[0])[0] - base).abs().max()) > 0.2
    for question in QUESTIONS[1:5]:
        assert float((longhand(model, pictures[0], question)[0] - base).abs().max()) > 0.2
    asks = [Ask(q, i, 6) for q in QUESTIONS for i in range(4)]
    assert len({expected(kind, Ask(QUESTIONS[0], i, 6)) for i in range(4)}) >= 2
    assert len({expected(kind, ask) for ask in asks}) >= 8


@pytest.mark.parametrize("batch_size", [4, 32])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_equal_plain_generation(vlm, pictures, expected, monkeypatch, kind, batch_size):
    model = vlm(kind)
    monkeypatch.setattr(model.batcher, "size", batch_size)
    # Where positions are plain the larger batches are packed into one row, the smaller ones are not.
    monkeypatch.setattr(model, "packing", model.packing and batch_size > 4)
    # Interleaved over the images; ragged, more than a batch, one question twice, one that begins with a line break.
    questions = [*QUESTIONS, "\nIs there a dog?"]
    asks = [Ask(q, i, 6) for q in questions for i in shown_in(model, 0, 3, 1, 2)]
    replies = model.answer(model.encode(pictures), asks)
    assert [r.token_ids for r in replies] == [expected(kind, a) for a in asks]
    for reply in replies:
        assert reply.text == model.tokenizer.decode(reply.token_ids, skip_special_tokens=True)
        assert reply.stop == ("eos" if reply.token_ids[-1] in model.end_ids else "length")


@pytest.mark.parametrize("kind", KINDS)
def test_asked_one_by_one_and_again_answers_are_the_same(vlm, pictures, expected, kind):
    model = vlm(kind)
    encoded = model.encode(pictures[:2])
    for question in QUESTIONS[:3]:
        for image in shown_in(model, 1, 0):
            ask = Ask(question, image, 6)
            assert model.answer(encoded, [ask])[0].token_ids == expected(kind, ask)


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_of_candidates_are_those_of_a_whole_pass(vlm, pictures, kind):
    model = vlm(kind)
    asks = [a for i in shown_in(model, 0, 3) for a in asks_about(i, 1)]
    for ask, reply in zip(asks, model.answer(model.encode(pictures), asks), strict=True):
        logprobs = longhand(model, None if ask.image is None else pictures[ask.image], ask.prompt)[0]
        assert set(reply.logprobs) == {"yes", "no"}
        for word, ids in model.candidate_ids(ask.candidates).items():
            assert reply.logprobs[word] == pytest.approx(float(logprobs[ids].logsumexp(0)), abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_rank_is_the_summed_log_probability_of_each_option(vlm, pictures, kind):
    model = vlm(kind)
    options = [" Yes", "No", " dining table and a backpack", "x"]
    asks = [Ask(q, i) for q in QUESTIONS[:4] for i in shown_in(model, 0, 1)]
    ranked = model.rank(model.encode(pictures), asks, [options[: 1 + n % 4] for n in range(len(asks))])
    for ask, scores in zip(asks, ranked, strict=True):
        for option, score in zip(options, scores, strict=False):
            ids = model.tokenizer.encode(option, add_special_tokens=False)
            logprobs = longhand(model, None if ask.image is None else pictures[ask.image], ask.prompt, ids)
            assert score == pytest.approx(sum(float(logprobs[n, i]) for n, i in enumerate(ids)), abs=2e-3)


def differs(model, pictures):
    """Whether answers or their first log-probabilities now differ from plain generation's."""
    asks = asks_about(1, 6)
    replies = model.answer(model.encode(pictures[:2]), asks)
    logprobs = [longhand(model, pictures[1], ask.prompt)[0] for ask in asks]
    yes = model.candidate_ids(("yes", "no"))["yes"]
    apart = [abs(r.logprobs["yes"] - float(p[yes].logsumexp(0))) for r, p in zip(replies, logprobs, strict=True)]
    return bool(find_flips(model, pictures[1], asks, replies)), max(apart) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_differs_and_positions_off_by_one_would_be_noticed(vlm, pictures, monkeypatch, kind):
    model = vlm(kind)
    monkeypatch.setattr(model, "packing", False)
    assert differs(model, pictures) == (False, False)
    shift = type(model.family).shift
    monkeypatch.setattr(type(model.family), "shift", lambda self, features: shift(self, features) + 1)
    flipped, moved = differs(model, pictures)
    # Rows of PaliGemma run whole: only the steps after the first use the shift.
    assert flipped
    assert moved == (kind != "paligemma")


@pytest.mark.parametrize(
    ("kind", "name", "mutant"),
    [
        *((kind, "positions", lambda self, ids, features: torch.arange(ids.shape[1])[None]) for kind in MROPE),
        ("qwen3_vl", "forward", lambda self, ids, features, **more: self.model(
            inputs_embeds=self.embed_rows(ids, features), **more)),
        ("gemma3", "beginning", lambda self, ids, features, prompts: {}),
        ("paligemma", "beginning", lambda self, ids, features, prompts: {}),
        ("paligemma", "shares_prefix", True),
        ("mllama", "further", lambda self, features, rows, length, past: {
            "cross_attention_mask": torch.ones_like(features.tiles).expand(rows, past + length, -1, -1)}),
    ],
)  # fmt: skip
def test_what_a_family_adds_would_be_missed(folder, pictures, monkeypatch, kind, name, mutant):
    """Positions in three axes, DeepStack, two-way attention, masks over tiles: without each of them answers differ."""
    monkeypatch.setattr(FAMILIES[kind], name, mutant)
    assert any(differs(HfVlm.load(folder(kind), device="cpu"), pictures))


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_is_encoded_once_and_the_prefix_run_once_where_it_is_shared(folder, pictures, kind):
    model = HfVlm.load(folder(kind), device="cpu")
    tower = next(found for n in TOWERS if (found := getattr(model.model.model, n, None)) is not None)
    runs = []
    tower.register_forward_hook(lambda *_: runs.append(1))
    encoded = model.encode(pictures)
    asks = [Ask(f"Is there a {thing}?", i, 2) for i in range(4) for thing in ("dog", "cat", "bus", "car", "cup")]
    model.answer(encoded, asks)
    model.rank(encoded, asks[:3], [[" Yes", " No"]] * 3)
    assert len(runs) == model.vision_calls == len(pictures)
    asks = [Ask(f"Is there a {thing}?", 0, 1) for thing in ("book", "bowl", "chair")]
    rows = [model.row(encoded, ask)[1].ids for ask in asks]
    shared = next(n for n in range(99) if len({row[n] for row in rows}) > 1) if kind != "paligemma" else 0
    encoded.prefixes.clear()
    before = model.language_positions
    model.answer(encoded, asks)
    suffixes = [len(row) - shared for row in rows]
    # Within a sliding window only rows of one length may meet: less padding.
    assert shared + sum(suffixes) <= model.language_positions - before <= shared + 3 * max(suffixes)
    assert (shared > rows[0].index(model.family.image_token_id)) == (kind != "paligemma")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_shared_and_what_is_not_is_told(vlm, kind):
    facts = vlm(kind).describe()["reuse"]
    assert facts["image"] is True
    assert facts["prefix"] is (kind != "paligemma")
    assert ("why" in facts) == (kind == "paligemma")
    assert vlm(kind).family.plain_positions == (kind in ("idefics3", "internvl", "llava_onevision", "smolvlm"))


@pytest.mark.parametrize("kind", ["internvl", "qwen2_vl"])
def test_where_a_family_cannot_show_attention_it_says_so(folder, pictures, monkeypatch, kind):
    monkeypatch.delitem(FAMILIES, kind)
    model = HfVlm.load(folder(kind), device="cpu")
    assert "probe" not in model.capabilities
    with pytest.raises(NotSupported, match=f"'{kind}'.*not known"):
        model.probe(model.encode(pictures[:1]), [Ask("Is there a dog?", 0)], [[]], ProbeSpec())


def test_a_family_that_needs_an_image_says_so(vlm, pictures):
    model = vlm("paligemma")
    assert "blind" not in model.capabilities
    assert all("blind" in vlm(kind).capabilities for kind in KINDS if kind != "paligemma")
    for ask in (model.answer, lambda encoded, asks: model.rank(encoded, asks, [[" Yes"]])):
        with pytest.raises(NotSupported, match="'paligemma' cannot be asked without an image"):
            ask(model.encode(pictures[:1]), [Ask("Is there a dog?", None)])


@pytest.mark.parametrize("kind", ["gemma3", "idefics3", "internvl", "mllama", "qwen2_vl", "qwen3_vl"])
def test_a_question_before_the_image_shares_nothing_and_still_equals_plain_generation(folder, pictures, kind):
    template = QUESTION_FIRST.replace("<image>", PLACEHOLDER.get(kind, "<image>"))
    begin = {"gemma3": "<bos>", "mllama": "<|begin_of_text|>"}.get(kind, "")
    model = HfVlm.load(folder(kind), device="cpu", chat_template=begin + template)
    encoded = model.encode(pictures[:2])
    for image in shown_in(model, 1, 0):
        asks = asks_about(image, 5)
        replies = model.answer(encoded, asks)
        assert find_flips(model, None if image is None else pictures[image], asks, replies) == []


def test_a_processor_that_lacks_a_package_says_which(folder, monkeypatch):
    path = folder("smolvlm")
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", None)
    with pytest.raises(CheckpointError, match="cannot load its processor: Package `num2words` is required"):
        HfVlm.load(path, device="cpu")


@pytest.mark.parametrize("kind", ["mllama", "paligemma", "qwen2_vl", "qwen3_vl"])
def test_with_room_for_two_rows_answers_are_the_same_and_the_size_is_remembered(
    folder, pictures, expected, monkeypatch, kind
):
    model = HfVlm.load(folder(kind), device="cpu")
    asks = [Ask(q, i, 6) for q in QUESTIONS for i in (0, 3, 1)]
    tries = full_above(model, monkeypatch, 2)
    replies = model.answer(model.encode(pictures), asks)
    assert max(tries) > 2
    assert [r.token_ids for r in replies] == [expected(kind, a) for a in asks]
    assert model.describe()["batch_size"]["fitted"] <= 2
    tries.clear()
    model.answer(model.encode(pictures), asks)
    assert max(tries) <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_family_that_the_table_forgot_is_asked_rightly_all_the_same(folder, pictures, expected, monkeypatch, kind):
    """What model and processor have says enough for most; for the others the check on the first question does."""
    monkeypatch.delitem(FAMILIES, kind)
    model = HfVlm.load(folder(kind), device="cpu")
    asks = [Ask(q, i, 6) for q in QUESTIONS[:4] for i in shown_in(model, 1, 0)]
    assert [r.token_ids for r in model.answer(model.encode(pictures), asks)] == [expected(kind, a) for a in asks]
    facts = model.describe()["reuse"]
    alone = ("gemma3", "mllama", "paligemma")
    assert (facts["image"], facts["prefix"]) == (kind not in alone, kind not in alone)
    assert ("why" in facts) == (kind in alone)


@pytest.mark.parametrize("kind", ["gemma3", "idefics3", "mllama", "paligemma", "qwen3_vl"])
def test_in_half_precision_flips_have_small_margins(folder, pictures, kind):
    model = HfVlm.load(folder(kind), device="cpu", dtype="bfloat16")
    for image in shown_in(model, 1):
        asks = asks_about(image, 6)
        replies = model.answer(model.encode(pictures[:2]), asks)
        assert all(reply.error is None and reply.token_ids for reply in replies)
        for flip in find_flips(model, None if image is None else pictures[image], asks, replies):
            assert 0 <= flip.margin < 0.25
