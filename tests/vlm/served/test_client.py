"""The client against a server that misbehaves in every way we could think of."""

import contextlib
import json
import pickle
import threading
import time as real_time
from email.utils import formatdate

import pytest

from agevlm.errors import EndpointError
from agevlm.vlm.served.client import Client, Request
from agevlm.vlm.served.retry import AT_ONCE, Patience
from agevlm.vlm.served.transport import Closed, Rejected
from tests.vlm.served.conftest import KEY
from tests.vlm.served.server import MODEL, completion, rule

CHAT = [{"role": "user", "content": "Is there a dog?"}]
TEXT = rule(None, "Is there a dog?")[0]
REQUEST = Request(max_tokens=8)


def failing(times, act):
    """Misbehave so many times, then behave."""
    left = times

    def trouble(request, handler):
        nonlocal left
        left -= 1
        return act(request, handler) if left >= 0 else None

    return trouble


def status(code, headers=None, message="no"):
    return lambda _, handler: handler.say(code, {"error": {"message": message}}, headers)


def raw(data, **settings):
    return lambda _, handler: handler.say(200, data, **settings)


def test_a_text_chat_needs_no_image_and_no_logprobs(server, client):
    got = client().chat(CHAT, REQUEST)
    assert (got.text, got.finish, got.model, got.tries, got.logprobs) == (TEXT, "stop", MODEL, 1, ())
    (request,) = server.received
    assert request.body == {"model": MODEL, "messages": CHAT, "temperature": 0.0, "max_tokens": 8, "seed": 0}
    assert request.headers["Authorization"] == f"Bearer {KEY}"


def test_more_fields_may_be_sent_and_a_seed_left_out(server, client):
    shape = {"response_format": {"type": "json_object"}}
    client().chat(CHAT, Request(max_tokens=8, seed=None, temperature=0.5, extra=shape))
    body = server.received[0].body
    assert (body["response_format"], body["temperature"], "seed" in body) == ({"type": "json_object"}, 0.5, False)


def test_without_a_key_no_header_is_sent_and_a_key_of_our_own_comes_first(server, client, monkeypatch):
    monkeypatch.setenv("AGEVLM_API_KEY", "ours-ours-ours\n")
    client().chat(CHAT, REQUEST)
    monkeypatch.delenv("AGEVLM_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    client().chat(CHAT, REQUEST)
    assert [r.headers.get("Authorization") for r in server.received] == ["Bearer ours-ours-ours", None]


PASSING = {
    "429": status(429),
    "500": status(500),
    "503 page": lambda _, h: h.say(503, b"<html>loading</html>", kind="text/html"),
    "529": status(529),
    "408": status(408),
    "connection reset": lambda _, h: h.reset(),
    "truncated JSON": raw(b'{"choices": [{"message": {"content": "Yes"'),
    "nothing": raw(b""),
    "body shorter than announced": lambda _, h: h.say(200, b'{"choi', {"Content-Length": "400"}) and h.reset(),
}


@pytest.mark.parametrize("act", PASSING.values(), ids=PASSING)
def test_troubles_that_pass_are_waited_for_ever_longer(server, client, time, act):
    server.trouble = failing(4, act)
    one = client()
    got = one.chat(CHAT, REQUEST)
    assert (got.text, got.tries) == (TEXT, 5)
    assert len(server.received) == 5
    assert len(time.slept) == 4
    for pause, longest in zip(time.slept, (0.5, 1, 2, 4), strict=True):
        assert longest / 2 <= pause <= longest
    assert (one.tally.requests, one.tally.retries, one.tally.replies) == (5, 4, 1)


@pytest.mark.parametrize("asked", ["17", "date"])
def test_the_server_says_how_long_to_wait(server, client, time, asked):
    header = formatdate(time.now + 17, usegmt=True) if asked == "date" else asked
    server.trouble = failing(2, status(429, {"Retry-After": header}))
    client().chat(CHAT, REQUEST)
    # The date is the same moment for both tries.
    assert sum(time.slept) >= (17 if asked == "date" else 34)
    assert 17 <= time.slept[0] <= 17.5


def test_a_server_that_asks_for_an_hour_is_asked_again_sooner_and_patience_ends(server, client, time):
    server.trouble = status(429, {"Retry-After": "3600"}, "busy")
    patience = Patience(tries=100, seconds=450, longest_asked=120)
    with pytest.raises(EndpointError, match="is in trouble: HTTP 429: busy"):
        client(patience=patience).chat(CHAT, REQUEST)
    assert all(120 <= pause <= 150 for pause in time.slept)
    assert sum(time.slept) <= 450
    assert len(server.received) == len(time.slept) + 1 == 4


def test_after_its_last_try_the_trouble_is_raised_and_while_it_lasts_others_do_not_wait_as_long(server, client, time):
    server.trouble = status(502, message="bad gateway")
    one = client(patience=Patience(tries=6))
    with pytest.raises(EndpointError, match="HTTP 502: bad gateway") as caught:
        one.chat(CHAT, REQUEST)
    assert caught.value.kind == "HTTP 502"
    assert len(server.received) == 6
    with pytest.raises(EndpointError):
        one.chat(CHAT, REQUEST)
    assert len(server.received) == 6 + AT_ONCE.tries
    server.trouble = failing(1, status(502))
    one.chat(CHAT, REQUEST)
    server.trouble = failing(5, status(502))
    assert one.chat(CHAT, REQUEST).tries == 6


FINAL = {
    400: "HTTP 400: no$",
    401: "HTTP 401: no; set the right key in the environment",
    403: "may not use this model",
    404: "no such model or no such path.*ends in /v1",
    413: "smaller images",
    301: "the URL that it leads to",
    501: "HTTP 501",
}


@pytest.mark.parametrize("code", FINAL)
def test_refusals_are_not_repeated_and_say_what_to_do(server, client, time, code):
    server.trouble = status(code)
    with pytest.raises(Rejected, match=FINAL[code]) as caught:
        client().chat(CHAT, REQUEST)
    assert caught.value.status == code
    assert (len(server.received), time.slept) == (1, [])


def test_a_used_up_quota_is_no_passing_trouble(server, client, time):
    body = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    server.trouble = lambda _, h: h.say(429, body)
    with pytest.raises(Rejected, match="quota is used up"):
        client().chat(CHAT, REQUEST)
    assert time.slept == []


BROKEN = {
    "a web page": (raw(b"<!DOCTYPE html><html>Sign in</html>", kind="text/html"), "web page.*ends in /v1"),
    "empty choices": (raw({"choices": []}), "no choices"),
    "null": (raw(b"null"), "no choices"),
    "a list": (raw([1]), "no choices"),
    "null content": (raw({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}), "no text"),
    "filtered": (raw({"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}), "filter"),
    "reasoned too long": (raw({"choices": [{"message": {"content": None}, "finish_reason": "length"}]}), "allow more"),
    "no reason": (raw({"choices": [{"message": {"content": "Yes"}}]}), "finish_reason"),
    "deep": (raw(b"[" * 100_000), "no whole JSON"),
}


@pytest.mark.parametrize(("act", "said"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_answer_is_an_error(server, client, act, said):
    server.trouble = act
    with pytest.raises(EndpointError, match=said):
        client().chat(CHAT, REQUEST)


SAYING = {
    "error": ({"error": {"message": f"no room\n for {KEY}", "code": 500}}, r"no choices.*: no room for \[key\]$"),
    "error as text": ({"error": "no room"}, "no choices.*: no room$"),
    "long error": ({"error": "no room " * 100}, r"no choices.*: no room .{280,295}\.\.\.$"),
    "refusal": (
        {"choices": [{"message": {"content": None, "refusal": "I cannot help"}, "finish_reason": "stop"}]},
        "no text .*: the model refuses: I cannot help$",
    ),
    "refusal beside an empty text": (
        {"choices": [{"message": {"content": "", "refusal": "I cannot help"}, "finish_reason": "stop"}]},
        "no text .*: the model refuses: I cannot help$",
    ),
}


@pytest.mark.parametrize(("body", "said"), SAYING.values(), ids=SAYING)
def test_what_the_server_says_in_place_of_an_answer_is_said(server, client, body, said):
    server.trouble = raw(body)
    with pytest.raises(EndpointError, match=said):
        client().chat(CHAT, REQUEST)


LOCATIONS = {
    f"https://me:hunter2@other.example/v1/chat?token=hunter2&k={KEY}#hunter2": "it leads to https://other.example/v1/chat;",
    f"/{KEY}/v1": r"it leads to /\[key\]/v1;",
    "http://[hunter2": "give the URL that it leads to",
    "?hunter2": "give the URL that it leads to",
}


@pytest.mark.parametrize("location", LOCATIONS)
def test_where_a_redirect_leads_is_said_without_secrets(server, client, location):
    server.trouble = status(307, {"Location": location})
    with pytest.raises(Rejected, match=LOCATIONS[location]) as caught:
        client().chat(CHAT, REQUEST)
    assert "hunter2" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_an_endless_reply_ends(server, client, monkeypatch):
    monkeypatch.setattr("agevlm.vlm.served.transport.LARGEST", 1000)
    server.trouble = raw(b" " * 2000)
    with pytest.raises(EndpointError, match="longer than"):
        client().chat(CHAT, REQUEST)


def test_another_models_answer_is_refused_and_a_dated_version_is_not(server, client):
    server.edit = lambda _, body: {**body, "model": "other/vlm"}
    with pytest.raises(EndpointError, match="'tiny/vlm' was asked, but 'other/vlm' answered") as caught:
        client().chat(CHAT, REQUEST)
    assert caught.value.kind == "another model"
    one = client()
    server.edit = lambda _, body: {**body, "model": f"{MODEL}-2025-01-31"}
    assert one.chat(CHAT, REQUEST).model == one.answered_as == f"{MODEL}-2025-01-31"
    server.edit = lambda _, body: {**body, "model": f"{MODEL}-2025-02-28"}
    with pytest.raises(EndpointError, match="before: 'tiny/vlm-2025-01-31'"):
        one.chat(CHAT, REQUEST)
    server.edit = lambda _, body: {k: v for k, v in body.items() if k != "model"}
    assert one.chat(CHAT, REQUEST).model is None


@pytest.mark.parametrize("code", [400, 422])
def test_a_server_without_logprobs_is_asked_again_without_them_once(server, client, code):
    def trouble(request, handler):
        return handler.say(code, {"error": "logprobs are not supported"}) if "logprobs" in request.body else None

    server.trouble = trouble
    one = client()
    for _ in range(3):
        assert one.chat(CHAT, Request(8, top_logprobs=20)).text == TEXT
    assert ["logprobs" in r.body for r in server.received] == [True, False, False, False]
    assert one.logprobs_refused


def test_a_refusal_for_another_reason_is_the_one_that_is_raised_and_logprobs_are_asked_for_again(server, client):
    server.trouble = status(400, message="the prompt is too long")
    one = client()
    with pytest.raises(Rejected, match="the prompt is too long"):
        one.chat(CHAT, Request(8, top_logprobs=20))
    server.trouble = lambda *_: None
    assert one.chat(CHAT, Request(8, top_logprobs=20)).logprobs
    assert not one.logprobs_refused


def test_a_server_that_wants_the_limit_by_its_newer_name_gets_it(server, client):
    def trouble(request, handler):
        said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return handler.say(400, {"error": {"message": said}}) if "max_tokens" in request.body else None

    server.trouble = trouble
    one = client()
    assert one.chat(CHAT, Request(8, top_logprobs=20)).logprobs
    one.chat(CHAT, REQUEST)
    assert [r.body.get("max_completion_tokens") for r in server.received] == [None, 8, 8]


def picky(*complaints):
    """A server that knows some parameters not, and says so of one at a time."""

    def trouble(request, handler):
        for name, body in complaints:
            if name in request.body:
                return handler.say(422 if isinstance(body, dict) and "detail" in body else 400, body)
        return None

    return trouble


NEWER = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
ONE = "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
EXTRA = {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}
TOKENS = {"detail": [{"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "Extra inputs are not allowed"}]}
PICKY = {
    "temperature": ([("temperature", {"error": {"message": ONE}})], ("no temperature",)),
    "seed": ([("seed", EXTRA)], ("no seed",)),
    "limit": ([("max_tokens", TOKENS)], ("max_completion_tokens for max_tokens",)),
    "all": (
        [
            ("max_tokens", {"error": NEWER}),
            ("temperature", {"error": ONE}),
            ("seed", EXTRA),
            ("logprobs", {"error": "?"}),
        ],
        ("max_completion_tokens for max_tokens", "no seed", "no temperature"),
    ),
}


@pytest.mark.parametrize(("complaints", "changes"), PICKY.values(), ids=PICKY)
def test_parameters_that_a_server_does_not_take_are_left_out_once_and_for_all(server, client, complaints, changes):
    server.trouble = picky(*complaints)
    one = client()
    assert one.changes == ()
    for _ in range(3):
        assert one.chat(CHAT, Request(8, top_logprobs=20)).text == TEXT
    assert len(server.received) == len(complaints) + 3
    assert one.changes == changes
    assert one.logprobs_refused is ("logprobs" in dict(complaints))
    taken = {"temperature", "seed", "max_tokens", "max_completion_tokens", "logprobs"} & server.received[-1].body.keys()
    everything = {"temperature", "seed", "max_tokens", "logprobs"}
    renamed = {"max_completion_tokens"} if "max_tokens" in dict(complaints) else set()
    assert taken == everything - dict(complaints).keys() | renamed


@pytest.mark.parametrize("said", ["8 max_tokens are too many beside 4090 of the prompt", "odd seed, odd temperature"])
def test_what_does_not_help_is_not_remembered_and_a_limit_is_never_lost(server, client, said):
    server.trouble = status(400, message=said)
    one = client()
    with pytest.raises(Rejected, match=said):
        one.chat(CHAT, Request(8, top_logprobs=20))
    assert all(r.body.get("max_tokens") == 8 for r in server.received)
    assert one.changes == ()
    server.trouble = lambda *_: None
    one.chat(CHAT, REQUEST)
    assert server.received[-1].body == {
        "model": MODEL,
        "messages": CHAT,
        "temperature": 0.0,
        "max_tokens": 8,
        "seed": 0,
    }


def test_as_many_requests_as_allowed_are_under_way_and_never_more(server, client):
    together = threading.Barrier(3)

    def trouble(request, handler):
        if request.number < 3:
            together.wait(30)

    server.trouble, server.delay = trouble, 0.005
    one = client(concurrency=3)
    prompts = [f"question {n}" for n in range(20)]
    futures = [one.submit([{"role": "user", "content": p}], REQUEST) for p in prompts]
    assert [f.result(60).text for f in futures] == [rule(None, p)[0] for p in prompts]
    assert (len(server.received), server.most_in_flight) == (20, 3)


def test_waiting_requests_go_in_their_order_whenever_they_came(server, client):
    begin = threading.Event()
    server.trouble = lambda *_: begin.wait(30) and None
    one = client(concurrency=1)
    orders = [3, 5, 1, 4, 2, 3, 1]
    futures = [one.submit([{"role": "user", "content": f"{n} {o}"}], REQUEST, o) for n, o in enumerate(orders)]
    begin.set()
    for future in futures:
        future.result(60)
    assert [r.prompt for r in server.received] == ["0 3", "2 1", "6 1", "4 2", "5 3", "3 4", "1 5"]


def test_a_slow_server_is_timed_out_even_if_it_sends_a_little_now_and_then(server):
    def dribble(request, handler):
        body = b" " * 50 + json.dumps(completion(request)).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        with contextlib.suppress(ConnectionError):
            for at in range(50):
                handler.wfile.write(body[at : at + 1])
                real_time.sleep(0.02)
            handler.wfile.write(body[50:])
        return True

    def slow_headers(request, handler):
        body = json.dumps(completion(request)).encode()
        with contextlib.suppress(ConnectionError):
            handler.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n".encode())
            for n in range(50):
                handler.wfile.write(f"X-{n}: .\r\n".encode())
                real_time.sleep(0.02)
            handler.wfile.write(b"\r\n" + body)
        return True

    def late_in_two_steps(request, handler):
        body = json.dumps(completion(request)).encode()
        with contextlib.suppress(ConnectionError):
            real_time.sleep(0.15)
            handler.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            real_time.sleep(0.15)
            handler.wfile.write(body)
        return True

    def silent(request, handler):
        real_time.sleep(1)
        return True

    for trouble in (dribble, slow_headers, late_in_two_steps, silent):
        server.trouble = trouble
        server.received.clear()
        one = Client(server.url, MODEL, timeout=0.2, patience=Patience(tries=2, base=0.01))
        with pytest.raises(EndpointError, match=r"did not answer within 0.2 s; raise --timeout"):
            one.chat(CHAT, REQUEST)
        assert len(server.received) == 2
        one.close()


def test_a_server_that_is_not_there(client, server, time):
    one = Client("http://127.0.0.1:1/v1", MODEL, clock=time.clock)
    with pytest.raises(EndpointError, match=r"http://127.0.0.1:1/v1 cannot be reached: .*refused.*is the server run"):
        one.models()
    assert sum(time.slept) < 2
    one.close()


def test_closing_ends_pauses_and_waiting_and_nothing_is_sent_any_more(server):
    entered = threading.Event()

    def trouble(request, handler):
        entered.set()
        return handler.say(503, {})

    server.trouble = trouble
    one = Client(server.url, MODEL, concurrency=1, patience=Patience(base=1000, longest=1000, seconds=10**6))
    futures = [one.submit(CHAT, REQUEST) for _ in range(5)]
    assert entered.wait(10)
    one.close()
    for future in futures:
        with pytest.raises(Closed):
            future.result(10)
    with pytest.raises(Closed):
        one.submit(CHAT, REQUEST)
    assert len(server.received) == 1


def test_errors_survive_being_sent_to_other_processes():
    for error in (EndpointError("m", "k"), Rejected("m", 404), Closed()):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.kind) == (type(error), str(error), error.kind)


ECHOES = [f"Incorrect API key provided: {KEY}", f"header was 'Bearer {KEY}'"]


@pytest.mark.parametrize("said", ECHOES)
@pytest.mark.parametrize("code", [401, 400, 500])
def test_a_key_that_the_server_repeats_is_in_no_error(server, client, code, said):
    one = client(patience=Patience(tries=1))
    for body in ({"error": {"message": said}}, {"detail": [said]}, said.encode(), {said: said}):
        server.trouble = lambda _, h, body=body: h.say(code, body)
        with pytest.raises(EndpointError) as caught:
            one.chat(CHAT, REQUEST)
        assert "[key]" in str(caught.value)
        assert KEY not in repr(caught.getrepr(showlocals=False, style="long")) + str(caught.value)
    assert KEY not in f"{one!r} {vars(one)!r} {vars(one._transport)['_http']!r} {one._transport._http.headers!r}"


@pytest.mark.parametrize("code", [302, 400, 500])
def test_a_key_in_a_status_line_is_in_no_error(server, client, code):
    def trouble(_, handler):
        handler.send_response(code, f"No key {KEY}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    server.trouble = trouble
    with pytest.raises(EndpointError, match=rf"HTTP {code}: No key \[key\]"):
        client(patience=Patience(tries=1)).chat(CHAT, REQUEST)


def test_a_key_in_what_is_no_http_is_in_no_error(server, client):
    server.trouble = lambda _, h: h.wfile.write(f"{KEY} is no status line\r\n\r\n".encode()) and h.reset()
    with pytest.raises(EndpointError, match="cannot be reached") as caught:
        client(patience=Patience(tries=1)).chat(CHAT, REQUEST)
    assert "[key]" in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_key_that_the_server_puts_into_a_reply_is_in_no_reply(server, client):
    def echo(request, body):
        body = completion(request)
        body["choices"][0]["message"]["content"] = f"Yes {KEY}"
        body["choices"][0]["finish_reason"] = KEY
        return body

    server.edit = echo
    got = client().chat(CHAT, REQUEST)
    assert (got.text, got.finish) == ("Yes [key]", "[key]")


def test_a_placeholder_for_a_key_is_taken_out_of_no_answer(server, client, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "Yes")
    server.edit = lambda _, body: {**body, "choices": [{"message": {"content": "Yes"}, "finish_reason": "stop"}]}
    assert client().chat(CHAT, REQUEST).text == "Yes"


@pytest.mark.parametrize("key", ["line\nbreak-in-a-key", "schlüssel-schlüssel", "with space"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(EndpointError, match="OPENAI_API_KEY holds characters") as caught:
        Client("http://127.0.0.1:1/v1", MODEL)
    assert key not in str(caught.value)
