"""Where a served model is: `openai:URL#NAME`, and the key to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from agevlm.errors import EndpointError

PREFIX = "openai:"
KEYS = ("AGEVLM_API_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the key; the first that is set counts."""


@dataclass(frozen=True)
class Address:
    """An endpoint and the model wanted there."""

    url: str
    """Base URL, without credentials and without a slash at its end; requests go to URL/chat/completions."""
    model: str | None
    """None: the only one that the endpoint serves."""


def parse_address(name: str) -> Address:
    """Read `openai:URL#NAME`.

    No error repeats the text: what should not be in it may be a password.

    Raises:
        EndpointError: no http URL, or one with credentials or a query, which would be written into run folders.
    """
    url, _, model = name.removeprefix(PREFIX).partition("#")
    usage = "give openai:URL#NAME, as in openai:http://localhost:8000/v1#NAME"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise EndpointError(
            f"the URL after openai: holds a user name or password, which would end up in run folders; leave it out and "
            f"put the key into the environment ({KEYS[-1]})"
        )
    if not usable:
        raise EndpointError(f"no http or https URL after openai:; {usage}")
    if parts.query or "?" in url:
        raise EndpointError(
            "the URL after openai: holds a query (?...), which would end up in run folders; leave it out (a key goes "
            f"into the environment: {KEYS[-1]})"
        )
    return Address(url.rstrip("/"), model or None)


def find_key(variables: Sequence[str] = KEYS) -> str | None:
    """The key from the first of these environment variables that is set; None if none is.

    Raises:
        EndpointError: it cannot stand in a header (a line break that was copied along, say).
    """
    for variable in variables:
        key = os.environ.get(variable, "").strip()
        if not key:
            continue
        if not all("!" <= character <= "~" for character in key):
            raise EndpointError(f"{variable} holds characters that no HTTP header can; set it again")
        return key
    return None
