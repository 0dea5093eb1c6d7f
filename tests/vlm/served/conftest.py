"""Servers on loopback, whatever proxies and keys the environment names."""

import pytest

from agevlm.vlm.served.client import Client
from agevlm.vlm.served.transport import Clock
from tests.vlm.served.server import MODEL, serving

KEY = "sk-test-4f1d2c9b7a6e5d3c"


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("AGEVLM_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server():
    with serving() as state:
        yield state


class FakeTime:
    """A clock that sleeping moves on; remembers each sleep."""

    def __init__(self):
        self.now, self.slept = 1000.0, []
        self.clock = Clock(lambda: self.now, lambda: self.now, self.sleep)

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time():
    return FakeTime()


@pytest.fixture
def client(server, time):
    """A client of the server that waits for nothing."""
    made = []

    def make(**settings):
        made.append(Client(server.url, MODEL, **{"clock": time.clock, **settings}))
        return made[-1]

    yield make
    for one in made:
        one.close()
