"""A served model behind the contract."""

import hashlib
import io
import json
import math
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from agevlm.data.images import EncodedFile, decode
from agevlm.errors import EndpointError, NotSupported
from agevlm.vlm import Ask
from agevlm.vlm.choice import ModelChoice
from agevlm.vlm.contract import EncodedImages
from agevlm.vlm.served.transport import Rejected
from tests.benchmarks.runs.stub import digest, picture
from tests.vlm.served.server import MODEL, RuleVlm, rule

PROMPTS = [f"Is there a {name}?" for name in ("dog", "cat", "bus", "cup", "book", "car")]


def choice(server, model=MODEL, **settings):
    return ModelChoice(f"openai:{server.url}" + (f"#{model}" if model else ""), **settings)


@pytest.fixture
def vlm(server):
    made = []

    def make(**settings):
        made.append(choice(server, **settings).load())
        return made[-1]

    yield make
    for one in made:
        one.close()


def file_of(image, kind, **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def asks(image=0, prompts=PROMPTS):
    return [Ask(p, image, 8) for p in prompts]


def test_answers_and_logprobs_are_those_of_the_rule(server, vlm):
    one, images = vlm(), [picture(1), picture(2)]
    wanted = [*asks(0), *asks(1), *asks(None)]
    replies = one.answer(one.encode(images), wanted)
    local = RuleVlm()
    expected = local.answer(local.encode(images), wanted)
    assert [(r.text, r.stop) for r in replies] == [(r.text, r.stop) for r in expected]
    assert len({r.text for r in replies}) > 3
    for got, own in zip(replies, expected, strict=True):
        assert dict(got.logprobs) == pytest.approx(dict(own.logprobs))
        assert 0 < math.exp(got.logprobs["yes"]) + math.exp(got.logprobs["no"]) < 1
    assert all(r.body["logprobs"] is True and r.body["top_logprobs"] == 20 for r in server.received)
    assert all((r.body["temperature"], r.body["max_tokens"]) == (0.0, 8) for r in server.received)
    described = one.describe()
    assert described["logprobs"] == {"used": 18}
    # And one look at what is served.
    assert (described["requests"], described["retries"], described["replies"]) == (19, 0, 18)
    assert described["tokens"] == {"prompt": 7 * 18, "completion": 2 * 18, "cached": 3 * 18}
    assert (described["endpoint"], described["model"], described["answered_as"]) == (server.url, MODEL, MODEL)
    assert described["server"]["max_model_len"] == 4096
    json.dumps(described)


KINDS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_arrives_byte_for_byte(server, vlm, kind):
    data = file_of(picture(3, (50, 30)), kind)
    one = vlm()
    one.answer(one.encode([decode(EncodedFile("x", data))]), asks())
    assert {r.image for r in server.received} == {data}
    assert {r.media_type for r in server.received} == {KINDS[kind]}


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(picture(4, (50, 30)), "JPEG", exif=exif)


def animated():
    return file_of(picture(1), "PNG", save_all=True, append_images=[picture(2)])


OTHERS = {
    "EXIF orientation": rotated(),
    "several frames": animated(),
    "transparency": file_of(picture(5).convert("RGBA"), "PNG"),
    "palette": file_of(picture(5).quantize(16), "PNG"),
    "BMP": file_of(picture(5), "BMP"),
    "GIF": file_of(picture(5), "GIF"),
    "CMYK": file_of(picture(5).convert("CMYK"), "JPEG"),
    "16 bits": file_of(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "PNG"),
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_where_readers_could_differ_the_pixels_go_as_a_png_without_loss(server, vlm, data):
    image, one = decode(EncodedFile("x", data)), vlm()
    one.answer(one.encode([image]), asks(prompts=PROMPTS[:1]))
    (request,) = server.received
    assert request.image != data
    assert request.media_type == "image/png"
    assert digest(Image.open(io.BytesIO(request.image))) == digest(image)


def test_a_colour_file_of_16_bits_goes_as_it_is_with_the_pixels_that_pillow_reads(server, vlm):
    pixels = np.random.default_rng(0).integers(0, 2**16, (20, 30, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 30, 20, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    data = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    image, one = decode(EncodedFile("x", data)), vlm()
    assert (np.asarray(image) == pixels >> 8).all()
    one.answer(one.encode([image]), asks(prompts=PROMPTS[:1]))
    (request,) = server.received
    assert (request.image, request.media_type) == (data, "image/png")
    assert digest(Image.open(io.BytesIO(request.image)).convert("RGB")) == digest(image)


def test_an_image_that_was_changed_or_made_here_goes_as_it_is(server, vlm):
    original = decode(EncodedFile("x", file_of(picture(3, (50, 30)), "JPEG")))
    one = vlm()
    for image in (original.copy(), original.resize((20, 10)), original.rotate(90), picture(9), original.convert("L")):
        server.received.clear()
        one.answer(one.encode([image]), asks(prompts=PROMPTS[:1]))
        (request,) = server.received
        assert (request.media_type, digest(Image.open(io.BytesIO(request.image)))) == (
            "image/png",
            digest(image.convert("RGB")),
        )


def test_the_first_question_of_an_image_goes_alone_and_the_others_together(server, vlm):
    together = threading.Barrier(len(PROMPTS) - 1)

    def trouble(request, handler):
        if request.number == 0:
            assert server.in_flight == 1
        else:
            # All the others are under way at a time, or this never passes.
            together.wait(30)

    server.trouble = trouble
    one = vlm()
    replies = one.answer(one.encode([picture(1)]), asks())
    assert [r.text for r in replies] == [rule(digest(picture(1)), p)[0] for p in PROMPTS]
    assert server.received[0].prompt == PROMPTS[0]


def test_the_questions_of_an_image_are_adjacent_when_many_are_asked_at_a_time(server, vlm):
    one = vlm(concurrency=2)
    begin = threading.Event()
    server.trouble = lambda *_: begin.wait(30) and None
    threads = [
        threading.Thread(target=lambda n=n: one.answer(one.encode([picture(n)]), asks()), daemon=True) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    begin.set()
    for thread in threads:
        thread.join(60)
    seen = [hashlib.sha256(r.image).hexdigest() for r in server.received]
    spans = [len(seen) - 1 - seen[::-1].index(image) - seen.index(image) for image in set(seen)]
    assert (len(spans), len(seen)) == (8, 8 * len(PROMPTS))
    # 5 if each image waited for the one before it; 27 if requests went as they came, every image's first one first.
    assert sum(spans) / len(spans) < 16


def finish(reason, content):
    """Edits a reply so."""

    def edit(body):
        choice = {**body["choices"][0], "finish_reason": reason, "message": {"content": content}, "logprobs": None}
        return {**body, "choices": [choice]}

    return edit


def test_one_failing_question_costs_the_others_nothing_and_all_failing_is_an_exception(server, vlm):
    def trouble(request, handler):
        return handler.say(400, {"error": "bad"}) if request.prompt in (PROMPTS[0], PROMPTS[3]) else None

    server.trouble = trouble
    one = vlm()
    replies = one.answer(one.encode([picture(1)]), asks())
    assert [r.error is not None for r in replies] == [True, False, False, True, False, False]
    assert replies[0].text is None
    assert "HTTP 400: bad" in replies[0].error
    server.trouble = lambda _, handler: handler.say(400, {"error": "bad"})
    with pytest.raises(Rejected, match="HTTP 400: bad"):
        one.answer(one.encode([picture(1)]), asks())


NO_ANSWERS = {
    "filtered": (finish("content_filter", None), "content filter"),
    "null": (finish("stop", None), "null for it"),
    "no reason": (finish(None, "Yes"), "finish_reason"),
    "no choices": (lambda body: {**body, "choices": []}, "no choices"),
    "error in place of choices": (lambda body: {"error": {"message": "bad luck"}}, "bad luck"),
}


@pytest.mark.parametrize(("edit", "said"), NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_a_reply_without_an_answer_to_the_first_question_costs_the_others_nothing(server, vlm, edit, said):
    server.edit = lambda request, body: edit(body) if request.prompt == PROMPTS[0] else body
    one = vlm()
    first, *others = one.answer(one.encode([picture(1)]), asks())
    assert first.text is None
    assert said in first.error
    assert [r.text for r in others] == [rule(digest(picture(1)), p)[0] for p in PROMPTS[1:]]


def test_each_of_several_failing_questions_has_its_own_reason(server, vlm):
    server.edit = lambda request, body: finish("content_filter", None)(body) if request.prompt == PROMPTS[0] else body
    server.trouble = lambda request, h: h.say(400, {"error": "bad"}) if request.prompt != PROMPTS[0] else None
    one = vlm()
    first, *others = one.answer(one.encode([picture(1)]), asks())
    assert "content filter" in first.error
    assert all("HTTP 400: bad" in reply.error for reply in others)


def test_an_endpoint_that_refuses_everything_is_asked_once_an_image(server, vlm):
    server.trouble = lambda _, handler: handler.say(401, {"error": "who are you"})
    one = vlm()
    with pytest.raises(Rejected, match="who are you"):
        one.answer(one.encode([picture(1)]), asks())
    assert len(server.received) == 1


def test_a_name_that_is_not_listed_may_do_and_if_it_does_not_the_listed_ones_are_said(server):
    one = choice(server, "tiny/vml").load()
    assert one.answer(one.encode([]), asks(None))[0].text == rule(None, PROMPTS[0])[0]
    server.trouble = lambda _, handler: handler.say(404, {"error": "The model `tiny/vml` does not exist."})
    with pytest.raises(Rejected, match=r"`tiny/vml` does not exist.*The endpoint lists: tiny/vlm$"):
        one.answer(one.encode([]), asks(None))
    one.close()


def test_why_an_answer_ended(server, vlm):
    one = vlm()
    images = one.encode([picture(1)])
    server.edit = lambda _, body: finish("length", "Yes")(body)
    assert one.answer(images, asks())[0].stop == "length"
    server.edit = lambda _, body: finish("stop", "")(body)
    assert one.answer(images, asks())[0].text == ""
    for reason in ("content_filter", "tool_calls", "abort"):
        server.edit = lambda _, body, reason=reason: finish(reason, "Yes")(body)
        assert {r.text for r in one.answer(images, asks())} == {None}
        assert all(reason in r.error for r in one.answer(images, asks()))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"token": "Yes", "logprob": 0.5}, "0.5 is no log-probability"),
        ({"token": "Yes", "logprob": "high"}, "'high' is no log-probability"),
        ({"logprob": -0.5}, "a token is missing"),
        ({"token": "<think>", "logprob": -0.5}, "begin with '<think>'"),
    ],
)
def test_wrong_logprobs_are_left_out_and_counted(server, vlm, entry, problem):
    def edit(_, body):
        choice = {**body["choices"][0], "message": {"content": "Yes"}, "logprobs": {"content": [entry]}}
        return {**body, "choices": [choice]}

    server.edit = edit
    one = vlm()
    replies = one.answer(one.encode([picture(1)]), asks())
    assert [(r.text, dict(r.logprobs)) for r in replies] == [("Yes", {})] * len(PROMPTS)
    ((said, count),) = one.describe()["logprobs"].items()
    assert problem in said
    assert count == len(PROMPTS)


@pytest.mark.parametrize("mark", ["▁", "Ġ"])
def test_tokens_as_tokenizers_write_them_are_usable(server, vlm, mark):
    def edit(_, body):
        entry = {"token": f"{mark}Yes", "logprob": -0.5, "bytes": None}
        top = [entry, {"token": f"{mark}No", "logprob": -1.5, "bytes": None}]
        choice = {**body["choices"][0], "message": {"content": "Yes"}}
        return {**body, "choices": [{**choice, "logprobs": {"content": [{**entry, "top_logprobs": top}]}}]}

    server.edit = edit
    one = vlm()
    replies = one.answer(one.encode([picture(1)]), asks())
    assert [dict(r.logprobs) for r in replies] == [{"yes": -0.5, "no": -1.5}] * len(PROMPTS)
    assert one.describe()["logprobs"] == {"used": len(PROMPTS)}


def test_a_server_without_logprobs(server, vlm):
    server.trouble = lambda r, h: h.say(400, {"error": "no"}) if "logprobs" in r.body else None
    one = vlm()
    replies = one.answer(one.encode([picture(1)]), asks())
    assert all(r.text is not None and r.logprobs == {} for r in replies)
    assert len(server.received) == len(PROMPTS) + 1
    assert one.describe()["logprobs"] == "refused by the server"


def test_a_server_that_takes_no_temperature_and_the_limit_by_its_newer_name_is_noted(server, vlm):
    def trouble(request, handler):
        for name in ("max_tokens", "temperature"):
            if name in request.body:
                return handler.say(400, {"error": {"message": f"Unsupported parameter: '{name}'", "param": name}})
        return None

    server.trouble = trouble
    one = vlm()
    assert one.describe()["request_changes"] == []
    replies = one.answer(one.encode([picture(1)]), asks())
    assert [r.text for r in replies] == [rule(digest(picture(1)), p)[0] for p in PROMPTS]
    assert all(r.logprobs for r in replies)
    assert len(server.received) == len(PROMPTS) + 2
    assert one.describe()["request_changes"] == ["max_completion_tokens for max_tokens", "no temperature"]


def test_the_only_model_is_found_and_of_several_one_must_be_named(server, vlm):
    one = vlm(model=None)
    one.answer(one.encode([]), asks(None))
    assert {r.body["model"] for r in server.received} == {MODEL}
    assert one.fingerprint == vlm().fingerprint
    server.models = [*server.models, {"id": "tiny/lora", "parent": MODEL}]
    with pytest.raises(EndpointError, match=r"serves 2 models, name one \(tiny/vlm, tiny/lora\)"):
        choice(server, None).load()
    server.models = []
    with pytest.raises(EndpointError, match="lists no model"):
        choice(server, None).load()
    server.models = None
    with pytest.raises(EndpointError, match="does not say what it serves; name the model"):
        choice(server, None).fingerprint()
    assert choice(server).fingerprint().parts["model"] == MODEL


@pytest.mark.parametrize("code", [401, 403])
def test_a_key_that_may_not_list_models_may_ask_the_one_that_is_named(server, vlm, code):
    listed = vlm().fingerprint.parts
    server.refuse_models = code
    one = vlm()
    assert one.answer(one.encode([]), asks(None))[0].text == rule(None, PROMPTS[0])[0]
    assert one.fingerprint.changed(listed) == ["server_root"]
    assert choice(server).fingerprint() == one.fingerprint
    with pytest.raises(Rejected, match=f"HTTP {code}: not for this key; .*name the model: openai:URL#NAME") as caught:
        choice(server, None).load()
    assert caught.value.status == code
    server.refuse_models = 400
    with pytest.raises(Rejected, match="HTTP 400"):
        choice(server).load()


def test_the_fingerprint_stays_over_restarts_and_changes_with_what_the_server_says_of_the_weights(server):
    first = choice(server).fingerprint()
    assert first == choice(server, concurrency=2, timeout=5).fingerprint()
    server.models[0]["max_model_len"] = 8192
    assert first == choice(server).fingerprint()
    server.models[0]["root"] = "/weights/tiny-2"
    assert choice(server).fingerprint().changed(first.parts) == ["server_root"]
    assert choice(server, "other").fingerprint().changed(first.parts) == ["model", "server_root"]
    assert server.url not in json.dumps(dict(first.parts))


def test_options_of_models_that_run_here_are_refused(server):
    wrong = choice(server, dtype="bfloat16", batch_size=8, chat_template="x", device="cuda")
    with pytest.raises(EndpointError, match="--dtype, --device, --batch-size, --chat-template: a served model runs as"):
        wrong.fingerprint()
    with pytest.raises(EndpointError, match="--dtype"):
        choice(server, dtype="bfloat16").load()
    choice(server, device="cuda:1").load().close()
    assert choice(server).folder() is None


SECRETS = [
    "openai:http://user:hunter2@127.0.0.1:1/v1#m",
    "openai:http://hunter2@127.0.0.1:1/v1#m",
    "openai:http://user:hunter2@127.0.0.1:port/v1#m",
    "openai:http://127.0.0.1:1/v1?key=hunter2#m",
    "openai:user:hunter2@host/v1",
    "openai:ftp://host/hunter2",
    "openai:#hunter2",
    "openai:http://[hunter2/v1",
]


@pytest.mark.parametrize("name", SECRETS)
def test_urls_with_secrets_and_what_is_no_url_are_refused_and_not_repeated(name):
    for act in (ModelChoice(name).fingerprint, ModelChoice(name).load):
        with pytest.raises(EndpointError, match="openai:") as caught:
            act()
        assert "hunter2" not in str(caught.value)


def test_what_a_chat_endpoint_cannot_do_it_says(vlm):
    one = vlm()
    images = one.encode([picture(1)])
    assert one.capabilities == {"logprobs", "blind"}
    with pytest.raises(NotSupported, match="cannot rank"):
        one.rank(images, asks(), [["yes"]] * len(PROMPTS))
    with pytest.raises(IndexError):
        one.answer(images, asks(3))

    class Others(EncodedImages):
        def __len__(self):
            return 0

    with pytest.raises(TypeError):
        one.answer(Others(), asks())
