"""Chat templates: how a conversation becomes the text that a tokenizer reads.

Both mark what the assistant says, its end token included, as `{% generation %}`, which training turns into a loss mask.
The image token stands where the image part stands, with nothing added around it: taken out again, it leaves the text of
the conversation without the image.
"""

from __future__ import annotations

import json
from typing import Any

from agevlm.errors import CheckpointError

LLAMA3_HEADER = "<|start_header_id|>"
LLAMA3_END = "<|eot_id|>"

CONTENT = """\
{%- macro said(message) -%}
    {%- set parts = namespace(text='') -%}
    {%- if message['content'] is string -%}
        {%- set parts.text = message['content'] -%}
    {%- else -%}
        {%- for part in message['content'] or [] -%}
            {%- if part['type'] == 'image' -%}
                {%- set parts.text = parts.text + IMAGE -%}
            {%- elif part['type'] == 'text' -%}
                {%- set parts.text = parts.text + part['text'] -%}
            {%- else -%}
                {{- raise_exception("content of type '" + part['type'] + "': only image and text are understood") -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- parts.text | trim -}}
{%- endmacro -%}
"""
"""What a message says: a plain string, or parts in their order."""

LLAMA3 = """\
{{- BOS -}}
{%- for message in messages -%}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
    {%- if message['role'] == 'assistant' -%}
        {%- generation -%}{{- said(message) + END -}}{%- endgeneration -%}
    {%- else -%}
        {{- said(message) + END -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""
"""LLaMA 3's layout, without the date and the system text that Meta's own template adds."""

PLAIN = """\
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {{- said(message) + ' ' -}}
    {%- elif message['role'] == 'user' -%}
        {{- 'USER: ' + said(message) + ' ' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- 'ASSISTANT:' -}}
        {%- generation -%}{{- ' ' + said(message) + END -}}{%- endgeneration -%}
    {%- else -%}
        {{- raise_exception("role '" + message['role'] + "': only system, user and assistant are understood") -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- 'ASSISTANT:' -}}
{%- endif -%}
"""
"""LLaVA 1.5's layout. The space before an answer belongs to it: after "ASSISTANT:" the model says " Yes"."""


def chat_template(tokenizer: Any, image_token: str) -> str:
    """The chat template for a tokenizer: LLaMA 3's if it has that layout's special tokens, else the plain one.

    A BOS is written by LLaMA 3's only; with the plain one it is the tokenizer's business.

    Raises:
        CheckpointError: the tokenizer has no token that could end a turn.
    """
    words = {"IMAGE": image_token, "END": end_token(tokenizer), "BOS": tokenizer.bos_token or ""}
    # Jinja reads JSON's strings.
    setting = "".join(
        f"{{%- set {name} = {json.dumps(word, ensure_ascii=False)} -%}}\n" for name, word in words.items()
    )
    return setting + CONTENT + (LLAMA3 if _is_llama3(tokenizer) else PLAIN)


def end_token(tokenizer: Any) -> str:
    """What ends the assistant's turn: `<|eot_id|>` in LLaMA 3's layout, else the tokenizer's EOS.

    Raises:
        CheckpointError: there is neither.
    """
    if _is_llama3(tokenizer):
        return LLAMA3_END
    if not tokenizer.eos_token:
        raise CheckpointError("the tokenizer has no eos_token, so no answer could end: set tokenizer.eos_token")
    return str(tokenizer.eos_token)


def _is_llama3(tokenizer: Any) -> bool:
    vocabulary = tokenizer.get_vocab()
    return LLAMA3_HEADER in vocabulary and LLAMA3_END in vocabulary
