"""A ChatML tokenizer, a tiny Llama and some conversations, small enough to train on in seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.contracts.artifacts import Artifact, Manifest, StageContext
from cluster.contracts.progress import SilentProgress
from dataprep.tokenizer.chat_template import chat_template
from dataprep.tokenizer.special_tokens import SpecialTokens
from training.conversations.config import ConversationsConfig
from training.conversations.stage import run as read_and_split

SUBJECTS = ["red fox", "old king", "small boat", "green hill", "quiet town", "young pilot", "tall tower", "cold river"]
VERBS = ["sees", "finds", "paints", "follows", "forgets", "guards"]


def conversation(number: int) -> dict[str, Any]:
    """A short exchange, no two alike."""
    subject = SUBJECTS[number % len(SUBJECTS)]
    verb = VERBS[number // len(SUBJECTS) % len(VERBS)]
    answer = f"Every day the {subject} {verb} number {number} in a very old garden."
    return {
        "messages": [
            {"role": "user", "content": f"What about {subject} number {number}?"},
            {"role": "assistant", "content": answer},
        ]
    }


def write_conversations(path: Path, count: int) -> Path:
    """`count` conversations as JSON Lines."""
    path.write_text("".join(json.dumps(conversation(number)) + "\n" for number in range(count)))
    return path


def make_conversations(
    directory: Path, files: Sequence[Path], *, heldout_fraction: float = 0.2, split_seed: int = 0
) -> Artifact:
    """The artifact that the conversations stage makes of `files`."""
    config = ConversationsConfig(
        inputs=[str(file) for file in files], heldout_fraction=heldout_fraction, split_seed=split_seed
    )
    context = StageContext("conversations", SilentProgress(), directory, directory)
    result = read_and_split(config, {}, str(directory), context)
    return Artifact(str(directory), Manifest("conversations", directory.name, {}, {}, metrics=result.metrics))


def make_chat_tokenizer(vocab_size: int = 400) -> Any:
    """A byte-level BPE tokenizer with Raymill's special tokens and chat template."""
    tokens = SpecialTokens()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", tokens.start_of_turn, tokens.end_of_turn, "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (message["content"] for number in range(100) for message in conversation(number)["messages"])
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>", pad_token="<|pad|>"
    )
    fast.chat_template = chat_template(tokens)
    return fast


def make_model_directory(directory: Path) -> Path:
    """A two-layer Llama of hidden size 64 with its tokenizer, as a model directory."""
    tokenizer = make_chat_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
