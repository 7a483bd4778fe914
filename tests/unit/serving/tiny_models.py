"""Tiny random models and a small tokenizer, made on the spot: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "hello there, how are you today? I am fine, thank you.",
    "system user assistant \n ünïcödé 日本語 text",
] * 4


def tiny_tokenizer(vocab_size: int = 400) -> Any:
    """A byte-level BPE tokenizer with ChatML's control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def llama_config(vocab_size: int = 400, **settings: Any) -> LlamaConfig:
    """Two layers, hidden size 64, grouped-query attention."""
    return LlamaConfig(
        **{
            "vocab_size": vocab_size,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "initializer_range": 0.2,  # far from uniform, so that greedy answers differ from prompt to prompt
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": None,
            **settings,
        }
    )


def tiny_policy(seed: int = 0, **settings: Any) -> Any:
    """A random Llama causal LM."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(llama_config(**settings)).eval()


def save_policy(directory: Path, seed: int = 0, **settings: Any) -> Any:
    """Write a policy and its tokenizer; returns the model."""
    tokenizer = tiny_tokenizer()
    model = tiny_policy(seed, vocab_size=len(tokenizer), **settings)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model


def save_reward_model(directory: Path, seed: int = 1) -> Any:
    """Write a reward model and its tokenizer; returns the model."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    model = LlamaForSequenceClassification(llama_config(vocab_size=len(tokenizer), num_labels=1)).eval()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model
