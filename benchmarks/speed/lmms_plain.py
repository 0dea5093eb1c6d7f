"""AGE-VLM as a plain lmms-eval model: each request's image is encoded anew. What its speed is compared with."""

from __future__ import annotations

from typing import Any

from lmms_eval.api.model import lmms

from agevlm.vlm.contract import Ask
from agevlm.vlm.hf.reference import plain_generate
from agevlm.vlm.hf.session import HfVlm


class PlainAgeVlm(lmms):
    """One request at a time, nothing shared: the checkpoint's own processor and `generate`."""

    is_simple = True

    def __init__(self, vlm: HfVlm) -> None:
        super().__init__()
        self.vlm = vlm

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Greedy answers, in the order of the requests."""
        answers = []
        for request in requests:
            context, settings, doc_to_visual, doc_id, task, split = request.args
            (image,) = doc_to_visual(self.task_dict[task][split][doc_id])
            ids, _ = plain_generate(self.vlm, image, Ask(context, 0, settings["max_new_tokens"]))
            answers.append(self.vlm.tokenizer.decode(ids, skip_special_tokens=True))
        return answers

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Not part of the comparison."""
        raise NotImplementedError("this model class generates alone")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Not part of the comparison."""
        raise NotImplementedError("this model class generates alone")
