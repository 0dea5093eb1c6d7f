"""A causal language model from a folder or the hub as a judge: greedy, batched, its own chat template."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from agevlm.data.checkpoint_files import check_weights, find_folder, one_line, read_config
from agevlm.errors import CheckpointError
from agevlm.vlm.batching import AUTOMATIC, Batcher
from agevlm.vlm.contract import Fingerprint
from agevlm.vlm.fingerprint import fingerprint_folder
from benchmarks.judge.backends import Chat, Said
from benchmarks.judge.cases import MAX_TOKENS


def fingerprint(name: str, dtype: str) -> Fingerprint:
    """Content fingerprint of the folder as it would be loaded. Raises CheckpointError."""
    where = f"judge {name}"
    folder = find_folder(name, where)
    config = read_config(folder, where)
    check_weights(folder, where)
    quantisation = json.dumps(config.get("quantization_config"), sort_keys=True)
    settings = {"dtype": dtype, "quantisation": quantisation, "max_new_tokens": str(MAX_TOKENS)}
    return fingerprint_folder(folder, settings)


class LocalJudge:
    """A loaded language model."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int | None = None) -> None:
        from agevlm.vlm.hf.memory import is_out_of_memory, release_memory

        self.model, self.tokenizer = model, tokenizer
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._batcher = Batcher(batch_size or AUTOMATIC[model.device.type], is_out_of_memory, release_memory)

    @classmethod
    def load(cls, name: str, *, dtype: str, device: str, batch_size: int | None = None) -> LocalJudge:
        """Load a folder or hub id, from safetensors alone. Raises CheckpointError."""
        from transformers import AutoModelForCausalLM

        from agevlm.vlm.hf.checkpoint import find_device, load_pretrained, to_device

        where = f"judge {name}"
        target = find_device(device)
        folder = find_folder(name, where)
        check_weights(folder, where)
        parts = ("apply_chat_template", "eos_token")
        # The "processor" of a folder without images is its tokenizer.
        model, tokenizer = load_pretrained(AutoModelForCausalLM, folder, where, dtype=dtype, parts=parts)
        if not getattr(tokenizer, "chat_template", None):
            raise CheckpointError(f"{where}: has no chat template; an instruction-tuned model is needed")
        return cls(to_device(model, where, target), tokenizer, batch_size)

    def ask(self, chats: Sequence[Chat]) -> Iterator[tuple[int, Said]]:
        """See `Judge.ask`; replies come batch by batch, chats of like length together."""
        order = sorted(range(len(chats)), key=lambda place: sum(len(one["content"]) for one in chats[place]))
        while order:
            now, order = order[: self._batcher.size], order[self._batcher.size :]
            asked = [chats[place] for place in now]
            try:
                replies = self._batcher.map(asked, self._replies, lambda _, why: Said(None, error=why, kind="memory"))
            except Exception as error:
                # A template or a model that cannot take a chat: a reason in the log, not the end of the scoring.
                replies = [self._alone(chat) for chat in asked] if len(asked) > 1 else [_failed(error)]
            yield from zip(now, replies, strict=True)

    def _alone(self, chat: Chat) -> Said:
        """One chat of a batch that failed: the others are not to fail with it."""
        try:
            return self._replies([chat])[0]
        except Exception as error:
            return _failed(error)

    def remark(self) -> str:
        """See `Judge.remark`."""
        return ""

    def _replies(self, chats: Sequence[Chat]) -> list[Said]:
        import torch

        start = time.monotonic()
        # enable_thinking is Qwen3's; templates that do not know it take no notice.
        texts = [
            self.tokenizer.apply_chat_template(
                [dict(one) for one in chat], tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            for chat in chats
        ]
        inputs = self.tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        ).to(self.model.device)
        with torch.inference_mode():
            made = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        latency = round(time.monotonic() - start, 6)
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends]) | {self.tokenizer.eos_token_id}
        found = []
        for row, mask in zip(made[:, inputs["input_ids"].shape[1] :].tolist(), inputs["attention_mask"], strict=True):
            length = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
            finish = "stop" if length <= len(row) and row and row[length - 1] in ends else "length"
            text = self.tokenizer.decode(row[:length], skip_special_tokens=True)
            found.append(Said(text, finish, {"prompt": int(mask.sum()), "completion": length}, latency))
        return found

    def close(self) -> None:
        """See `Judge.close`."""
        from agevlm.vlm.hf.memory import release_memory

        self.model = None
        release_memory()


def _failed(error: Exception) -> Said:
    kind = type(error).__name__
    return Said(None, error=f"{kind}: {one_line(error)}", kind=kind)
