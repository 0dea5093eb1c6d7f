"""`agevlm-eval` with the stub in place of a model, as a process of its own that can be killed.

Settings come by environment: STUB_LOG, STUB_DELAY; STUB_TORN="N FRACTION" kills the process in its Nth commit, when
that fraction of the commit's bytes is on disk.
"""

import os
import signal
from pathlib import Path

from agevlm.cli import eval_main
from agevlm.vlm.choice import ModelChoice
from benchmarks import append_only
from tests.benchmarks.runs.stub import StubVlm


def tear(spec: str) -> None:
    left, fraction = int(spec.split()[0]), float(spec.split()[1])
    plain = append_only.os.pwrite

    def torn(fd: int, data: bytes, offset: int) -> int:
        nonlocal left
        if data.startswith(b'{"key"'):
            left -= 1
        if left == 0:
            plain(fd, data[: int(len(data) * fraction)], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(fd, data, offset)

    append_only.os.pwrite = torn


def main() -> None:
    # Where the tests run in the background, shells have Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = Path(os.environ["STUB_LOG"])
    delay = float(os.environ.get("STUB_DELAY", "0"))
    ModelChoice.fingerprint = lambda self: StubVlm.fingerprint
    ModelChoice.folder = lambda self: Path("nowhere")
    ModelChoice.load = lambda self: StubVlm(log, delay)
    if "STUB_TORN" in os.environ:
        tear(os.environ["STUB_TORN"])
    eval_main()


if __name__ == "__main__":
    main()
