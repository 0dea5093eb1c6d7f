"""Candidate and option log-probabilities against longhand full passes, and which tokens stand for a candidate."""

import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from agevlm.vlm import Ask
from agevlm.vlm.hf import prompts
from agevlm.vlm.hf.candidates import candidate_logprobs, candidate_token_ids
from agevlm.vlm.hf.session import HfVlm
from tests.vlm.conftest import KINDS, QUESTIONS, asks_about


def longhand(vlm, image, question, continuation=()):
    """Log-probabilities after the prompt and after each token of a continuation, by one whole forward pass."""
    text = prompts.render(vlm.processor, question, with_image=image is not None)
    inputs = vlm.processor(text=text, images=image, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    more = torch.tensor([list(continuation)], dtype=torch.long)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], more], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.inference_mode():
        return vlm.model(**inputs).logits[0, length - 1 :].log_softmax(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_yes_and_no_log_probabilities_come_with_every_reply_and_sum_over_forms(vlm, pictures, kind):
    model = vlm(kind)
    vocabulary = model.tokenizer.get_vocab()
    forms = {w: [s + f for s in ("", "Ġ") for f in (w, w.capitalize(), w.upper())] for w in ("yes", "no")}
    present = {w: [vocabulary[f] for f in fs if f in vocabulary] for w, fs in forms.items()}
    assert all(len(ids) >= 3 for ids in present.values())
    asks = [a for i in (0, 3, None) for a in asks_about(i, 1)]
    for ask, reply in zip(asks, model.answer(model.encode(pictures), asks), strict=True):
        logprobs = longhand(model, None if ask.image is None else pictures[ask.image], ask.prompt)[0]
        assert set(reply.logprobs) == {"yes", "no"}
        for word, ids in present.items():
            expected = math.log(sum(math.exp(float(logprobs[i])) for i in ids))
            assert reply.logprobs[word] == pytest.approx(expected, abs=1e-4)


def test_other_candidates_are_scored_where_a_first_token_tells_them(vlm, pictures):
    model = vlm()
    reply = model.answer(model.encode(pictures[:1]), [Ask("?", 0, 1, candidates=("dog", "cat"))])[0]
    logprobs = longhand(model, pictures[0], "?")[0]
    ids = model.candidate_ids(("dog", "cat"))
    assert ids["dog"]
    assert not set(ids["dog"]) & set(ids["cat"])
    for word in ("dog", "cat"):
        assert reply.logprobs[word] == pytest.approx(float(logprobs[ids[word]].logsumexp(0)), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_rank_is_the_summed_log_probability_of_each_option(vlm, pictures, monkeypatch, kind, batch_size):
    model = vlm(kind)
    monkeypatch.setattr(model.batcher, "size", batch_size)
    options = [" Yes", "No", " dining table and a backpack", " traffic light", "x"]
    asks = [Ask(q, i) for q in QUESTIONS[:4] for i in (0, None, 1)]
    given = [options[: 1 + n % 5] for n in range(len(asks))]
    ranked = model.rank(model.encode(pictures), asks, given)
    lengths = set()
    for ask, texts, scores in zip(asks, given, ranked, strict=True):
        assert len(scores) == len(texts)
        for text, score in zip(texts, scores, strict=True):
            ids = model.tokenizer.encode(text, add_special_tokens=False)
            lengths.add(len(ids))
            logprobs = longhand(model, None if ask.image is None else pictures[ask.image], ask.prompt, ids)
            expected = sum(float(logprobs[n, i]) for n, i in enumerate(ids))
            assert score == pytest.approx(expected, abs=1e-3)
    assert len(lengths) >= 3


@pytest.mark.parametrize("kind", ["llava", "age_vlm_mask"])
def test_rank_after_answer_on_the_same_images_uses_the_same_prefix_rightly(vlm, pictures, kind):
    model = vlm(kind)
    encoded = model.encode(pictures[:1])
    asks = asks_about(0, 3)
    fresh = model.rank(model.encode(pictures[:1]), asks, [[" Yes", " No"]] * len(asks))
    model.answer(encoded, asks[:1])
    assert model.rank(encoded, asks, [[" Yes", " No"]] * len(asks)) == [pytest.approx(r, abs=1e-4) for r in fresh]


ENDS_INSIDE_A_WORD = (
    "USER: {% for p in messages[0]['content'] %}{{ '<image>' if p['type'] == 'image' else p['text'] }} {% endfor %}Y"
)


@pytest.mark.parametrize("kind", ["llava", "age_vlm", "age_vlm_concat"])
def test_an_option_that_would_merge_with_the_prompt_is_tokenised_by_itself(checkpoint, pictures, kind):
    model = HfVlm.load(checkpoint(kind), device="cpu", chat_template=ENDS_INSIDE_A_WORD)
    text, row = model.row(model.encode(pictures[:1]), Ask("Is there a dog?", 0))
    assert prompts.token_ids(model.tokenizer, text + "es")[: len(row.ids)] != row.ids, "the fixture no longer merges"
    ids = model.tokenizer.encode("es", add_special_tokens=False)
    score = model.rank(model.encode(pictures[:1]), [Ask("Is there a dog?", 0)], [["es"]])[0][0]
    logprobs = longhand(model, pictures[0], "Is there a dog?", ids)
    assert score == pytest.approx(sum(float(logprobs[n, i]) for n, i in enumerate(ids)), abs=1e-3)


def test_an_option_without_tokens_is_an_error(vlm):
    with pytest.raises(ValueError, match="no tokens"):
        vlm().rank(vlm().encode([]), [Ask("?", None)], [[""]])


def word_pieces(vocabulary, *, space):
    """A tokenizer over exactly these pieces (and single characters), SentencePiece-like or byte-level."""
    pieces = ["<unk>", *vocabulary]
    tokenizer = Tokenizer(models.Unigram([(p, -1.0) for p in pieces], unk_id=0))
    if space == "▁":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Replace("▁", " ")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_an_option_right_after_the_prompt_gets_no_space_that_its_tokenizer_puts_before_a_text():
    tokenizer = word_pieces(["▁A:", "Yes", "▁Yes", *"A:Yes", "▁"], space="▁")
    for option, piece in [("Yes", "Yes"), (" Yes", "▁Yes")]:
        ids = prompts.continuation_ids(tokenizer, "A:", prompts.token_ids(tokenizer, "A:"), option)
        assert tokenizer.convert_ids_to_tokens(ids) == [piece]


@pytest.mark.parametrize("space", ["▁", "Ġ"])
def test_all_case_and_leading_space_forms_of_a_candidate_are_found_and_nothing_else(space):
    forms = ["Yes", f"{space}Yes", f"{space}yes", "YES", "No", f"{space}no"]
    tokenizer = word_pieces([*forms, f"{space}yesterday", "None", f"{space}not", *"yYeEsSnNoO", space], space=space)
    names = {c: tokenizer.convert_ids_to_tokens(i) for c, i in candidate_token_ids(tokenizer, ("yes", "no")).items()}
    assert {c: set(n) for c, n in names.items()} == {"yes": set(forms[:4]), "no": set(forms[4:])}


@pytest.mark.parametrize("space", ["▁", "Ġ"])
def test_a_candidate_without_a_form_of_its_own_is_told_by_its_first_piece_but_never_by_a_bare_space(space):
    tokenizer = word_pieces([*"yYeEsSnNoOaAbB", space], space=space)
    names = {c: tokenizer.convert_ids_to_tokens(i) for c, i in candidate_token_ids(tokenizer, ("yes", "no")).items()}
    assert all(space not in n for n in names.values())
    if space == "Ġ":
        assert {c: set(n) for c, n in names.items()} == {"yes": {"y", "Y"}, "no": {"n", "N"}}


def test_a_bare_space_never_stands_for_the_one_candidate_without_a_form_of_its_own():
    tokenizer = word_pieces(["▁Yes", *"yesnoYESNO", "▁"], space="▁")
    ids = candidate_token_ids(tokenizer, ("yes", "no"))
    assert tokenizer.convert_ids_to_tokens(ids["yes"]) == ["▁Yes"]
    assert "▁" not in tokenizer.convert_ids_to_tokens(ids["no"])


def test_the_first_piece_with_a_leading_space_counts_too():
    tokenizer = word_pieces(["Ġy", "ĠY", "Ġn", "ĠN", *"yYeEsSnNoO", "Ġ"], space="Ġ")
    names = {c: tokenizer.convert_ids_to_tokens(i) for c, i in candidate_token_ids(tokenizer, ("yes", "no")).items()}
    assert {"Ġy", "ĠY"} <= set(names["yes"])
    assert {"Ġn", "ĠN"} <= set(names["no"])


def test_candidates_that_share_their_first_piece_cannot_be_told_apart():
    tokenizer = word_pieces([*"abcdABCD", "Ġ"], space="Ġ")
    ids = candidate_token_ids(tokenizer, ("ab", "ac"))
    assert ids == {"ab": [], "ac": []}
    assert candidate_logprobs(torch.zeros(2, len(tokenizer)), ids) == [{}, {}]


def test_half_precision_logits_are_summed_in_single_precision():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).bfloat16() * 10
    found = candidate_logprobs(logits, {"yes": [3, 4], "no": [5], "none": []})
    expected = logits.double().log_softmax(-1)
    for row, one in enumerate(found):
        assert set(one) == {"yes", "no"}
        assert one["yes"] == pytest.approx(float(expected[row, 3:5].logsumexp(0)), abs=1e-5)
        assert one["no"] == pytest.approx(float(expected[row, 5]), abs=1e-5)
