"""Chat templates of the model families, and small tokenizers of both kinds to go with them.

What a template writes is a fact of its family; the Jinja is ours and holds only what a conversation
of text messages needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer, UnigramTrainer
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family's template and the tokens it is written with.

    Attributes:
        template: Jinja of the chat template.
        special: Control tokens that the tokenizer flags as special; the last one is eos.
        plain: Added tokens without that flag.
        turn_end: The token that closes a response.
        bos: Name of the first token, "" for none.
        kwargs: Arguments of the template.
        swallows: Whether its tokens take the white space behind them.
        rewrites: Part of what is said of a template under which chats cannot grow; "" if they can.
        thought: Whether the generation prompt opens a thought.
    """

    template: str
    special: tuple[str, ...]
    plain: tuple[str, ...] = ()
    turn_end: str = ""
    bos: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    swallows: bool = False
    rewrites: str = ""
    thought: bool = False


def _each(body: str, opening: str) -> str:
    return (
        "{%- for m in messages -%}" + body + "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- " + opening + " -}}{%- endif -%}"
    )


_LAST_THOUGHT = "m.content.split('</think>')[-1].lstrip('\\n')"
_CHATML = _each(
    "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}",
    "'<|im_start|>assistant\\n'",
)
_QWEN3 = """
{%- set ns = namespace(last=0) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
{%- if m.role != 'assistant' -%}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
{%- else -%}
{%- set words = m.content -%}{%- set thought = '' -%}
{%- if '</think>' in words -%}
{%- set thought = words.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
{%- set words = words.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if loop.index0 > ns.last -%}{{- '<think>\\n' + thought + '\\n</think>\\n\\n' -}}{%- endif -%}
{{- words + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}{%- endif -%}"""
_LLAMA2 = """
{%- if messages[0].role == 'system' -%}
{%- set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' -%}
{%- set rest = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- set rest = messages -%}{%- endif -%}
{%- for m in rest -%}
{%- if m.role == 'user' -%}
{{- bos_token + '[INST] ' + ((system if loop.first else '') + m.content).strip() + ' [/INST]' -}}
{%- else -%}{{- ' ' + m.content.strip() + ' ' + eos_token -}}{%- endif -%}
{%- endfor -%}"""
_LLAMA3 = "{{- bos_token -}}" + _each(
    "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim "
    "+ '<|eot_id|>' -}}",
    "'<|start_header_id|>assistant<|end_header_id|>\\n\\n'",
)
_GEMMA = "{{- bos_token -}}" + _each(
    "{%- if m.role == 'system' -%}{{ raise_exception('no system role') }}{%- endif -%}"
    "{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' "
    "+ m.content | trim + '<end_of_turn>\\n' -}}",
    "'<start_of_turn>model\\n'",
)
_PHI3 = _each("{{- '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' -}}", "'<|assistant|>\\n'")
_PHI4 = _each(
    "{{- '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' -}}",
    "'<|im_start|>assistant<|im_sep|>'",
)
# The system message belongs to the newest user message.
_MISTRAL = """
{%- if messages[0].role == 'system' -%}
{%- set system = messages[0].content + '\\n\\n' -%}{%- set rest = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- set rest = messages -%}{%- endif -%}
{{- bos_token -}}
{%- for m in rest -%}
{%- if m.role == 'user' -%}
{{- '[INST] ' + (system if loop.last else '') + m.content + '[/INST]' -}}
{%- else -%}{{- ' ' + m.content | trim + eos_token -}}{%- endif -%}
{%- endfor -%}"""
_DEEPSEEK_V3 = "{{- bos_token -}}" + _each(
    "{%- if m.role == 'user' -%}{{- '<｜User｜>' + m.content -}}"
    "{%- elif m.role == 'assistant' -%}"
    "{{- '<｜Assistant｜>' + m.content + '<｜end▁of▁sentence｜>' -}}"
    "{%- else -%}{{- m.content -}}{%- endif -%}",
    "'<｜Assistant｜>'",
)
_DEEPSEEK_R1 = "{{- bos_token -}}" + _each(
    "{%- if m.role == 'user' -%}{{- '<｜User｜>' + m.content -}}"
    "{%- elif m.role == 'assistant' -%}"
    "{{- '<｜Assistant｜>' + " + _LAST_THOUGHT + " + '<｜end▁of▁sentence｜>' -}}"
    "{%- else -%}{{- m.content -}}{%- endif -%}",
    "'<｜Assistant｜><think>\\n'",
)
_GLM4 = "{{- '[gMASK]<sop>' -}}" + _each(
    "{{- '<|' + m.role + '|>\\n' + m.content -}}", "'<|assistant|>'"
)
_GLM45 = "{{- '[gMASK]<sop>' -}}" + _each(
    "{%- if m.role == 'assistant' -%}{{- '<|assistant|>\\n<think></think>\\n' + "
    + _LAST_THOUGHT
    + " -}}{%- else -%}{{- '<|' + m.role + '|>\\n' + m.content -}}{%- endif -%}",
    "'<|assistant|>' + ('\\n<think></think>\\n' if enable_thinking is defined "
    "and not enable_thinking else '')",
)
_GPT_OSS = _each(
    "{{- '<|start|>' + m.role -}}"
    "{%- if m.role == 'assistant' -%}{{- '<|channel|>final' -}}{%- endif -%}"
    "{{- '<|message|>' + m.content + '<|end|>' -}}",
    "'<|start|>assistant'",
)
_KEEPS_THOUGHT = _each(
    "{{- '<|im_start|>' + m.role + '\\n' + ('<think>\\n' if m.role == 'assistant' else '') "
    "+ m.content + '<|im_end|>\\n' -}}",
    "'<|im_start|>assistant\\n<think>\\n'",
)

_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_THINK = ("<think>", "</think>")
_SEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
_SEEK_ROLES = ("<｜User｜>", "<｜Assistant｜>")
_GLM = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>")

FAMILIES: dict[str, Family] = {
    "chatml": Family(template=_CHATML, special=_IM, turn_end="<|im_end|>"),
    "qwen3": Family(
        template=_QWEN3,
        special=_IM,
        plain=_THINK,
        turn_end="<|im_end|>",
        rewrites="comes out as 'R",
    ),
    "qwen3 without thinking": Family(
        template=_QWEN3,
        special=_IM,
        plain=_THINK,
        turn_end="<|im_end|>",
        kwargs={"enable_thinking": False},
        rewrites="stands in front of the newest turn only",
    ),
    "llama 2": Family(
        template=_LLAMA2, special=("<unk>", "<s>", "</s>"), bos="<s>", turn_end="</s>"
    ),
    "llama 3": Family(
        template=_LLAMA3,
        special=(
            "<|begin_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|end_of_text|>",
            "<|eot_id|>",
        ),
        bos="<|begin_of_text|>",
        turn_end="<|eot_id|>",
    ),
    "gemma": Family(
        template=_GEMMA,
        special=("<bos>", "<start_of_turn>", "<end_of_turn>", "<eos>"),
        plain=("\n", "\n\n"),
        bos="<bos>",
        turn_end="<end_of_turn>",
    ),
    "phi 3": Family(
        template=_PHI3,
        special=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"),
        turn_end="<|end|>",
        swallows=True,
    ),
    "phi 4": Family(
        template=_PHI4,
        special=("<|im_start|>", "<|im_sep|>", "<|endoftext|>", "<|im_end|>"),
        turn_end="<|im_end|>",
    ),
    "mistral": Family(
        template=_MISTRAL,
        special=("<s>", "[INST]", "[/INST]", "</s>"),
        bos="<s>",
        turn_end="</s>",
    ),
    "deepseek v3": Family(
        template=_DEEPSEEK_V3,
        special=_SEEK,
        plain=_SEEK_ROLES,
        bos=_SEEK[0],
        turn_end=_SEEK[1],
    ),
    "deepseek r1": Family(
        template=_DEEPSEEK_R1,
        special=_SEEK,
        plain=(*_SEEK_ROLES, *_THINK),
        bos=_SEEK[0],
        turn_end=_SEEK[1],
        rewrites="stands in front of the newest turn only",
        thought=True,
    ),
    "glm 4": Family(template=_GLM4, special=_GLM, turn_end="<|user|>"),
    "glm 4.5": Family(
        template=_GLM45,
        special=_GLM,
        plain=_THINK,
        turn_end="<|user|>",
        rewrites="comes out as '<'",
    ),
    "glm 4.5 without thinking": Family(
        template=_GLM45,
        special=_GLM,
        plain=_THINK,
        turn_end="<|user|>",
        kwargs={"enable_thinking": False},
        rewrites="comes out as 'R",
    ),
    "gpt-oss": Family(
        template=_GPT_OSS,
        special=("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"),
        turn_end="<|end|>",
        rewrites="comes out as '<",
    ),
    "opens and keeps the thought": Family(
        template=_KEEPS_THOUGHT,
        special=_IM,
        plain=_THINK,
        turn_end="<|im_end|>",
        thought=True,
    ),
}

KINDS = ("byte-level", "metaspace", "metaspace everywhere", "unigram")
"""Byte-level BPE; SentencePiece BPE that puts a blank before the text, or before every section of
it; SentencePiece's unigram model, whose vocabulary holds the control tokens."""

_TEXTS = (
    "You see a fridge 1, a desk 2 and an apple 3. The fridge 1 is open. Nothing happens.",
    "<think> I should look in the fridge first. </think> <action> go to fridge 1 </action>",
    "<search> who wrote Hamlet? </search> <answer> Shakespeare </answer>",
    "system user assistant model [INST] [/INST] <<SYS>> final analysis im_start im_end end_of_turn",
    "Café, 日本語, עברית; 1 000 km?\n\nYour task is to: put a hot mug in the cabinet.\n",
)


@cache
def family_tokenizer(name: str, kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer of one kind with the tokens and the template of a family."""
    family = FAMILIES[name]
    trained = _trained(kind, family.special)
    trained.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False, rstrip=family.swallows)
            for token in family.special
        ]
    )
    trained.add_tokens([AddedToken(t, special=False, normalized=False) for t in family.plain])
    return PreTrainedTokenizerFast(
        tokenizer_object=trained,
        bos_token=family.bos or None,
        eos_token=family.special[-1],
        pad_token=family.special[-1],
        unk_token="<unk>" if "<unk>" in family.special or kind == "unigram" else None,
        chat_template=family.template,
        clean_up_tokenization_spaces=False,
    )


def _trained(kind: str, special: Sequence[str]) -> Tokenizer:
    if kind == "byte-level":
        tokenizer = Tokenizer(models.BPE())
        # A blank goes with the word behind it; several line breaks are one piece.
        cut = pre_tokenizers.Split(
            Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
            behavior="isolated",
        )
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])
        tokenizer.decoder = decoders.ByteLevel()
        trainer = BpeTrainer(
            vocab_size=400,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_TEXTS, trainer)
        return tokenizer
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        trainer = UnigramTrainer(
            vocab_size=300,
            special_tokens=["<unk>", *(token for token in special if token != "<unk>")],
            unk_token="<unk>",
            initial_alphabet=sorted({*"▁\n｜é", *"".join(_TEXTS)} | set(map(chr, range(33, 127)))),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_TEXTS * 20, trainer)
        return tokenizer
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token=None, byte_fallback=True))
    if kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        blanks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(blanks)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=600,
        special_tokens=pieces,
        initial_alphabet=["▁", *map(chr, range(33, 127))],
        show_progress=False,
    )
    words = [word for text in _TEXTS for word in text.replace(" ", " ▁").split(" ")]
    tokenizer.train_from_iterator(words, trainer)
    saved = json.loads(tokenizer.to_str())
    saved["added_tokens"] = []  # the trainer takes the bytes for control tokens
    return Tokenizer.from_str(json.dumps(saved))
