"""A served model behind the contract. The server does the vision work, and reuses it by its own caches."""

from __future__ import annotations

import base64
import io
import itertools
import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from agevlm.data.images import original_bytes
from agevlm.errors import EndpointError, NotSupported
from agevlm.vlm.contract import Ask, EncodedImages, Fingerprint, Prepared, Reply, Vlm, pictures
from agevlm.vlm.fingerprint import fingerprint_parts
from agevlm.vlm.served.address import parse_address
from agevlm.vlm.served.candidates import candidate_logprobs, first_token_problem
from agevlm.vlm.served.client import Client, Message, Request
from agevlm.vlm.served.reply import Completion, NoAnswer
from agevlm.vlm.served.transport import Rejected

if TYPE_CHECKING:
    from PIL.Image import Image

    from agevlm.vlm.choice import ModelChoice

TOP_LOGPROBS = 20
"""Alternatives asked for per token: the most that OpenAI's API allows, and vLLM's default limit."""
REQUEST = {"api": "chat/completions", "temperature": "0", "seed": "0", "image": "data URL before the question"}
"""What is the same in all requests and can change an answer."""
OWN_OPTIONS = ("name", "concurrency", "timeout")
TELLING = ("root", "parent")
"""What a server says of a model that stays the same while the model does: the weights' path and a LoRA's base. Not
`created`, which vLLM sets anew at each request, nor the context length, which changes no answer that fits."""
STOPS: Mapping[str, Literal["eos", "length"]] = {"stop": "eos", "length": "length"}
"""Finish reasons of whole answers, and of those cut at their limit."""
LISTED = 20
"""Most model names in a message."""


@dataclass(frozen=True)
class Served:
    """A model as its endpoint describes it."""

    name: str
    facts: Mapping[str, Any]
    """Its entry in /models; empty where the endpoint does not list it."""
    others: tuple[str, ...] = ()
    """What the endpoint lists in its place."""

    @property
    def fingerprint(self) -> Fingerprint:
        """By name: an endpoint does not show its weights."""
        told = {f"server_{key}": str(self.facts[key]) for key in TELLING if self.facts.get(key)}
        request = json.dumps(REQUEST, sort_keys=True)
        return fingerprint_parts({"adapter": "openai", "model": self.name, "request": request, **told})


def fingerprint(choice: ModelChoice) -> Fingerprint:
    """What can be known of a served model; asks the endpoint what it serves.

    Raises:
        EndpointError: it cannot be reached, refuses, or serves no or several models and none was named; or an option
            was given that only models run here have.
    """
    _refuse_options(choice)
    client = _client(choice)
    try:
        return _served(client).fingerprint
    finally:
        client.close()


def load(choice: ModelChoice) -> ServedVlm:
    """The model, ready to answer. Raises EndpointError, as `fingerprint` does."""
    # Under a launcher each process has a device of its own; here it means nothing.
    _refuse_options(replace(choice, device=type(choice).device))
    client = _client(choice)
    try:
        return ServedVlm(client, _served(client))
    except BaseException:
        client.close()
        raise


def _client(choice: ModelChoice) -> Client:
    address = parse_address(choice.name)
    return Client(address.url, address.model, concurrency=choice.concurrency, timeout=choice.timeout)


def _refuse_options(choice: ModelChoice) -> None:
    given = [f for f in fields(choice) if f.name not in OWN_OPTIONS and getattr(choice, f.name) != f.default]
    if given:
        names = ", ".join("--" + f.name.replace("_", "-") for f in given)
        raise EndpointError(f"{names}: a served model runs as its server was told to; leave it out, and set it there")


def _served(client: Client) -> Served:
    """The model that the client is to ask; its name where none was given."""
    listed = _listed(client)
    if client.model is not None:
        found = next((m for m in listed or () if m["id"] == client.model), None)
        # Not refused here: hosted endpoints answer to names that they do not list.
        return Served(client.model, found or {}, () if found else tuple(m["id"] for m in listed or ()))
    if listed is None:
        raise EndpointError(f"{client.url} does not say what it serves; name the model: openai:URL#NAME")
    if len(listed) != 1:
        names = _some(tuple(m["id"] for m in listed))
        which = f"serves {len(listed)} models, name one ({names})" if names else "lists no model, name one"
        raise EndpointError(f"{client.url} {which}: openai:URL#NAME")
    client.model = listed[0]["id"]
    return Served(listed[0]["id"], listed[0])


def _listed(client: Client) -> list[Mapping[str, Any]] | None:
    """What the endpoint serves; None where it does not say, or not to this key and a model is named."""
    try:
        return client.models()
    except Rejected as refusal:
        # Keys may be good for asking a model and for nothing else.
        if refusal.status not in (401, 403):
            raise
        if client.model is None:
            raise Rejected(
                f"{refusal}; or, if it is only the list of models that it refuses, name the model: openai:URL#NAME",
                refusal.status,
            ) from None
        return None


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:LISTED], *["..."] * (len(names) > LISTED)])


class ServedImages(EncodedImages):
    """Images as data URLs."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = tuple(urls)

    def __len__(self) -> int:
        return len(self.urls)


def data_url(image: Image) -> str:
    """An image as a data URL: its file's own bytes where it was decoded from one, else a lossless PNG."""
    original = original_bytes(image)
    if original is not None:
        data, media_type = original.data, original.media_type
    else:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "PNG")
        data, media_type = buffer.getvalue(), "image/png"
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


class ServedVlm(Vlm):
    """Asks a served model. Its methods may be called from many threads."""

    capabilities = frozenset({"logprobs", "blind"})

    def __init__(self, client: Client, served: Served) -> None:
        self.client, self.served = client, served
        self.fingerprint = served.fingerprint
        # Groups may have one question each: as many groups as requests keep the server busy. Those begun go first.
        self.parallel_groups = client.concurrency
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._logprobs: Counter[str] = Counter()

    def encode(self, images: Sequence[Image | Prepared]) -> ServedImages:
        return ServedImages([data_url(image) for image in pictures(images)])

    def answer(self, encoded: EncodedImages, asks: Sequence[Ask]) -> list[Reply]:
        """Greedy answers as the server gives them.

        The first question of each image goes alone, so that the image and the prompt's beginning are in the server's
        prefix cache when the others follow, all together. (It also shows at the price of one request that a server
        refuses everything.)

        An ask that fails while others are answered is a `Reply.failed`; if all fail with the same sort of trouble, the
        first one's error is raised.
        """
        if not isinstance(encoded, ServedImages):
            raise TypeError(f"these images were encoded by another adapter: {type(encoded).__name__}")
        order = next(self._order)
        first: dict[int | None, int] = {}
        for i, ask in enumerate(asks):
            first.setdefault(ask.image, i)
        leading = list(first.values())
        results = self._together(encoded, asks, leading, order)
        # What lies in one request (its length, a filter) says nothing of the others.
        if not all(isinstance(r, EndpointError) and not _of_the_request(r) for r in results.values()):
            others = [i for i in range(len(asks)) if i not in results]
            results |= self._together(encoded, asks, others, order)
        errors = [r for _, r in sorted(results.items()) if isinstance(r, EndpointError)]
        if len(errors) == len(results) and len({error.kind for error in errors}) == 1:
            if self.served.others and isinstance(errors[0], Rejected) and errors[0].status == 404:
                raise Rejected(f"{errors[0]}. The endpoint lists: {_some(self.served.others)}", 404)
            raise errors[0]
        return [self._reply(results[i], ask) for i, ask in enumerate(asks)]

    def rank(self, encoded: EncodedImages, asks: Sequence[Ask], options: Sequence[Sequence[str]]) -> list[list[float]]:
        raise NotSupported(
            f"{self.served.name}: a chat endpoint gives no probability of a text that it has not written itself, so a "
            "served model cannot rank options"
        )

    def describe(self) -> Mapping[str, object]:
        tally = self.client.tally
        return {
            "adapter": "openai",
            "endpoint": self.client.url,
            "model": self.served.name,
            "answered_as": self.client.answered_as,
            "server": {k: v for k, v in self.served.facts.items() if isinstance(v, str | int | float | None)},
            "weights": "not shown by the endpoint: known by the model's name alone",
            "concurrency": self.client.concurrency,
            "request_changes": list(self.client.changes),
            "requests": tally.requests,
            "retries": tally.retries,
            "replies": tally.replies,
            "tokens": asdict(tally.usage),
            "logprobs": "refused by the server" if self.client.logprobs_refused else dict(self._logprobs),
        }

    def close(self) -> None:
        self.client.close()

    def _together(
        self, encoded: ServedImages, asks: Sequence[Ask], which: Sequence[int], order: int
    ) -> dict[int, Completion | EndpointError]:
        futures: dict[int, Future[Completion]] = {}
        for i in which:
            request = Request(asks[i].max_new_tokens, top_logprobs=TOP_LOGPROBS if asks[i].candidates else 0)
            futures[i] = self.client.submit([_message(encoded, asks[i])], request, order)
        results: dict[int, Completion | EndpointError] = {}
        for i, future in futures.items():
            try:
                results[i] = future.result()
            except EndpointError as error:
                results[i] = error
        return results

    def _reply(self, result: Completion | EndpointError, ask: Ask) -> Reply:
        if isinstance(result, EndpointError):
            return Reply.failed(str(result))
        if result.finish not in STOPS:
            why = {"content_filter": "the server's content filter cut it off"}.get(result.finish, "it is no answer")
            return Reply.failed(f"the reply ended with {result.finish!r}: {why}")
        return Reply(result.text, STOPS[result.finish], self._chances(result, ask))

    def _chances(self, completion: Completion, ask: Ask) -> dict[str, float]:
        if not ask.candidates:
            return {}
        problem = completion.logprobs_problem
        if completion.logprobs and problem is None:
            problem = first_token_problem(completion.logprobs[0], completion.text)
        what = "used" if completion.logprobs else "not offered"
        with self._lock:
            self._logprobs[what if problem is None else f"unusable: {problem}"] += 1
        if problem is not None or not completion.logprobs:
            return {}
        return candidate_logprobs(completion.logprobs[0], ask.candidates)


def _of_the_request(error: EndpointError) -> bool:
    return isinstance(error, NoAnswer) or (isinstance(error, Rejected) and error.status in (400, 413, 422))


def _message(encoded: ServedImages, ask: Ask) -> Message:
    if ask.image is None:
        return {"role": "user", "content": ask.prompt}
    if not 0 <= ask.image < len(encoded):
        raise IndexError(f"the ask names image {ask.image} of {len(encoded)}")
    picture = {"type": "image_url", "image_url": {"url": encoded.urls[ask.image]}}
    return {"role": "user", "content": [picture, {"type": "text", "text": ask.prompt}]}
