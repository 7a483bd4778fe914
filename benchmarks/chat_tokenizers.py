"""Small tokenizers of several kinds, with the control tokens that a chat template writes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

Kind = Literal["byte_level", "metaspace_first", "metaspace_always", "prepended", "unigram"]
KINDS: tuple[Kind, ...] = ("byte_level", "metaspace_first", "metaspace_always", "prepended", "unigram")

# What templates write of tokens that are no control tokens in the models they come from.
PLAIN = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_CONTROL = re.compile(
    r"<\|[^|<>\s{}']+\|?>|<[^|<>\s{}'/]+\|>|<｜[^｜<>]+｜>"
    r"|</s>|<(?:start_of_turn|end_of_turn|bos|eos|end_of_utterance|image|start_of_image)>"
)
_CORPUS = [
    "hello there, what is the weather in Paris like? It is sunny, the assistant said to the user.",
    "system: be brief. It rains.  two  spaces\n\nand lines; im_start im_end end_of_turn",
]


def control_tokens_of(source: str) -> list[str]:
    """The control tokens that a template's text has in it."""
    return sorted(set(_CONTROL.findall(source)) - {"<s>", "</s>", *PLAIN})


def tokenizer_for(source: str, kind: Kind = "byte_level") -> Any:
    """A tokenizer with a chat template and its control tokens; `</s>` is its end of text, as a base model's."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_base(kind)),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in control_tokens_of(source)])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN])
    tokenizer.chat_template = source
    return tokenizer


@cache
def _base(kind: Kind) -> str:
    specials = ["<unk>", "<pad>", "<s>", "</s>"]
    if kind == "byte_level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        return _trained(tokenizer, specials, alphabet=pre_tokenizers.ByteLevel.alphabet())
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        letters = [chr(code) for code in range(33, 127)] + ["\n"]
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=specials, unk_token="<unk>", initial_alphabet=letters, show_progress=False
        )
        tokenizer.train_from_iterator(_CORPUS * 4, trainer)
        return tokenizer.to_str()
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if kind == "prepended":  # Llama 2's way: every piece between control tokens gets a space
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        scheme: Any = kind.removeprefix("metaspace_")
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        tokenizer.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme, split=False)]
        )
    return _trained(tokenizer, [*specials, *(f"<0x{byte:02X}>" for byte in range(256))], alphabet=[])


def _trained(tokenizer: Tokenizer, specials: Sequence[str], *, alphabet: Sequence[str]) -> str:
    letters = [chr(code) for code in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=len(specials) + 400,
        special_tokens=list(specials),
        initial_alphabet=list(alphabet) or letters,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    spec = json.loads(tokenizer.to_str())  # byte fallback's tokens are no control tokens
    spec["added_tokens"] = [token for token in spec["added_tokens"] if not token["content"].startswith("<0x")]
    return json.dumps(spec)
