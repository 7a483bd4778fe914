"""Trains a byte-level BPE vocabulary by the Hugging Face library, and saves the tokenizer directory around it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from dataprep.tokenizer.chat_template import chat_template
from dataprep.tokenizer.pretokenizer import PRE_TOKEN_PATTERN
from dataprep.tokenizer.special_tokens import SpecialTokens

_TRAINING_BATCH = 256  # texts handed to the trainer at once


def train_bpe(texts: Iterable[str], *, vocab_size: int, min_frequency: int, special_tokens: SpecialTokens) -> Tokenizer:
    """A byte-level BPE tokenizer (Sennrich et al., 2016; Radford et al., 2019) of at most `vocab_size` tokens.

    Its ids are those of the 256 bytes, then of the merges in the order they were learnt, then of the special tokens. It
    never fails on a text, and decodes to exactly what was encoded. It depends on the texts alone, neither on their
    order nor on the number of threads. Where the texts hold too few pairs that occur `min_frequency` times, it has
    fewer tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = special_tokens.in_order()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(specials),
        min_frequency=min_frequency,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_batches(texts), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path, *, special_tokens: SpecialTokens) -> None:
    """Write a directory that `AutoTokenizer.from_pretrained` loads: tokenizer.json, its config, the chat template."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special_tokens.end_of_text,
        eos_token=special_tokens.end_of_turn,
        pad_token=special_tokens.pad,
        extra_special_tokens=[special_tokens.start_of_turn],
        chat_template=chat_template(special_tokens),
        clean_up_tokenization_spaces=False,
    ).save_pretrained(directory)


def _batches(texts: Iterable[str]) -> Iterable[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _TRAINING_BATCH:
            yield batch
            batch = []
    yield batch
