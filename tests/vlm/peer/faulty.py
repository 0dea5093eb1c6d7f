"""A plug-in of lmms-eval whose wrappers fail in every way that real ones do; what a question says decides which.

Loaded in child processes alone.
"""

from __future__ import annotations

import os
import signal
import time

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger


class Model:
    """Says how large the picture is."""

    def generate(self, prompt, image):
        if "raise" in prompt:
            raise ValueError(f"planted fault on {prompt!r}")
        return f"{prompt} {image.size if image else 'blind'}"


class Faulty(lmms):
    is_simple = True

    def __init__(self, pretrained="", dtype="none", device="none", batch_size=0, word="", **kwargs):
        super().__init__()
        assert not kwargs, kwargs
        self.model = Model()
        self.settings = f"{dtype} {device} {batch_size} {word}"
        self.calls = 0

    def loglikelihood(self, requests):
        raise NotImplementedError

    def generate_until_multi_round(self, requests):
        raise NotImplementedError

    def visual(self, request):
        prompt, settings, doc_to_visual, number, task, split = request.args
        visuals = doc_to_visual(self.task_dict[task][split][number])
        return prompt, settings, visuals[0] if visuals else None

    def generate_until(self, requests):
        self.calls += 1
        answers = [self.one(*self.visual(r)) for r in requests]
        return [a for a in answers if a != "dropped"]

    def one(self, prompt, settings, image):
        tokens = settings.pop("max_new_tokens")  # as wrappers do
        if "settings" in prompt:
            return self.settings
        if "tokens" in prompt:
            return GenerationResult(str(tokens), TokenCounts(output_tokens=1))
        if "drop" in prompt:
            return "dropped"
        if "nothing" in prompt:
            return None
        if "environment" in prompt:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "TORCHELASTIC_RUN_ID", "CUDA_VISIBLE_DEVICES")
            return " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
        if "fork" in prompt and os.fork() == 0:
            time.sleep(120)  # holds the pipe
            os._exit(0)
        if "die" in prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        if "log" in prompt:
            logger.error("Error planted in the log in generating")
            return ""
        if "print" in prompt:
            print("Exception: planted on stdout")
            return ""
        if "silent" in prompt:
            return ""
        if "escape" in prompt:
            raise RuntimeError("planted outside of generate")
        try:
            return self.model.generate(prompt, image)
        except Exception:  # no word about it
            return "" if "text" not in prompt else "I cannot answer."


class FaultyChat(Faulty):
    is_simple = False

    def visual(self, request):
        _, doc_to_messages, settings, number, task, split = request.args
        content = doc_to_messages(self.task_dict[task][split][number])[0]["content"]
        images = [part["url"] for part in content if part["type"] == "image"]
        return content[-1]["text"] + " (chat)", settings, images[0] if images else None


class Unloadable(Faulty):
    def __init__(self, **kwargs):
        raise OSError("no weights to be found")
