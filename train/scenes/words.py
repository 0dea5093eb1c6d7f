"""The tokenizer of the scenes world: one token a word."""

from __future__ import annotations

from typing import Any

SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
IMAGE = "<image>"
USER, ASSISTANT = "<user>", "<assistant>"

CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- set said = namespace(text='') -%}
    {%- if message['content'] is string -%}
        {%- set said.text = message['content'] -%}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- set said.text = said.text + ('<image>' if part['type'] == 'image' else part['text']) -%}
        {%- endfor -%}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {{- '<assistant>' -}}{%- generation -%}{{- said.text | trim + '</s>' -}}{%- endgeneration -%}
    {%- else -%}
        {{- '<user>' + said.text | trim -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<assistant>' -}}
{%- endif -%}
"""
"""One token for each change of speaker: at this size every token counts."""


def build_tokenizer() -> Any:
    """A word-level tokenizer over `agevlm.scenes.language.vocabulary`: lower case, marks apart, BOS in front."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from agevlm.scenes.language import vocabulary

    words = [*SPECIAL.values(), IMAGE, USER, ASSISTANT, *vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    bos = SPECIAL["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **SPECIAL,
        extra_special_tokens={"image_token": IMAGE, "user_token": USER, "assistant_token": ASSISTANT},
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )
