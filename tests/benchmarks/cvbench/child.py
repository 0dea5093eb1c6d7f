"""`agevlm-eval` with the ranking stub in place of a model, as a process of its own that can be killed."""

import os
import signal
from pathlib import Path

from agevlm.cli import eval_main
from agevlm.vlm.choice import ModelChoice
from tests.benchmarks.cvbench.stub import CvStub
from tests.benchmarks.runs.child import tear

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ModelChoice.fingerprint = lambda self: CvStub.fingerprint
    ModelChoice.folder = lambda self: Path("nowhere")
    ModelChoice.load = lambda self: CvStub(Path(os.environ["STUB_LOG"]), float(os.environ.get("STUB_DELAY", "0")))
    if "STUB_TORN" in os.environ:
        tear(os.environ["STUB_TORN"])
    eval_main()
