"""Every chat template that TRL ships, on tiny tokenizers: bar 1 of post-training.

`python -m benchmarks.chat_templates`. A template is right if, in its stock and its training form and for each kind of
tokenizer, the ids are those of `apply_chat_template` (which our server's must be too), the loss is on exactly the
assistant's words and the token that ends them, and an exported model stops there in transformers' plain `generate`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.chat_tokenizers import KINDS, Kind, tokenizer_for
from benchmarks.figures import Figure, print_figures
from cluster.contracts.chat.encoder import ChatEncoder, EncodedConversation
from cluster.contracts.chat.rendering import ChatRefused
from cluster.contracts.errors import InputError

_TRAINING = "_training"
_USER, _ANSWER = {"role": "user", "content": "What is the weather?"}, {"role": "assistant", "content": "It is sunny."}
_MORE = [{"role": "user", "content": " And in Paris? "}, {"role": "assistant", "content": "Rain, they say.\nAll day."}]
CONVERSATIONS: Mapping[str, list[dict[str, str]]] = {
    "one turn": [_USER, _ANSWER],
    "two turns": [_USER, _ANSWER, *_MORE],
    "a system message": [{"role": "system", "content": "Be brief."}, _USER, _ANSWER],
}
# What a template writes in the assistant's turn before its words; what the prompt gives of it already is left out.
_BEFORE_WORDS: Mapping[str, tuple[str, ...]] = {
    "glm4moe": ("<think></think>",),
    "gptoss": ("<|channel|>final<|message|>",),
    "muse_glimmer": ("to=user<|message|>",),
    "nemotron": ("</think>",),
    "qwen3": ("", "<think></think>"),
    "qwen3_5_nothink": ("",),
    "qwen3_5_think": ("", "</think>"),
    "qwen3_6": ("", "</think>"),
    "qwen3_8": ("", "</think>"),
    "qwen3_instruct_2507": ("",),
    "qwen3_vl": ("",),
}


@dataclass
class Checked:
    """What came out for one form of a template."""

    refused: str = ""  # why the template as a whole is refused, if it is
    wrong: list[str] = field(default_factory=list)  # all that is not as it should be
    rows_refused: dict[str, str] = field(default_factory=dict)  # conversation -> reason


@cache
def template_names() -> tuple[str, ...]:
    """The templates that TRL ships, without their training forms."""
    return tuple(sorted(path.stem for path in _directory().glob("*.jinja") if not path.stem.endswith(_TRAINING)))


def forms_of(name: str) -> dict[str, str]:
    """ "stock" and, where TRL has one, "training" -> the template."""
    paths = {"stock": _directory() / f"{name}.jinja", "training": _directory() / f"{name}{_TRAINING}.jinja"}
    return {form: path.read_text(encoding="utf-8") for form, path in paths.items() if path.exists()}


def check_ids_and_mask(name: str, source: str, kind: Kind) -> Checked:
    """Hold the encoder's ids against `apply_chat_template` and its masks against the words of the conversations."""
    tokenizer = tokenizer_for(source, kind)
    checked = Checked()
    encoder = ChatEncoder(tokenizer)
    try:
        _ = encoder.stop_tokens
    except InputError as error:
        checked.refused = str(error)
        return checked
    for title, messages in CONVERSATIONS.items():
        given = _in_the_templates_form(encoder, messages)
        try:
            encoded = encoder.encode(messages)  # type: ignore[arg-type]
        except ChatRefused as refused:
            checked.rows_refused[title] = refused.reason
            continue
        if encoded.input_ids_T != tokenizer.apply_chat_template(given, return_dict=False):
            checked.wrong.append(f"{title}: the ids are not apply_chat_template's")
        asked = tokenizer.apply_chat_template(given[:-1], add_generation_prompt=True, return_dict=False)
        if encoder.encode_prompt(messages[:-1]) != asked:  # type: ignore[arg-type]
            checked.wrong.append(f"{title}: the prompt's ids are not apply_chat_template's")
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        if not _is_words_and_end(name, encoder, encoded, answers):
            checked.wrong.append(f"{title}: the loss is on {learnt(encoder, encoded)}")
    return checked


def check_export(source: str, scratch: Path) -> Checked:
    """Export a model that always says what ends a turn, over a base that ends with `</s>`; `generate` must stop."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from serving.models import stop_token_ids
    from training.export import export_model

    checked = Checked()
    tokenizer = tokenizer_for(source)
    encoder = ChatEncoder(tokenizer)
    try:
        stops = encoder.stop_token_ids
    except InputError as error:
        checked.refused = str(error)
        return checked
    tokenizer.save_pretrained(scratch / "base")
    for number, stop in enumerate(stops):
        model = _model_that_says(stop, tokenizer)
        output = scratch / f"exported-{number}"
        uri, weights = str(scratch / "base"), model.state_dict()
        export_model(
            model, weights, tokenizer_uri=uri, output=str(output), scratch=scratch / str(number), encoder=encoder
        )
        loaded, loaded_tokenizer = AutoModelForCausalLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
        prompt = ChatEncoder(loaded_tokenizer).encode_prompt([_USER])  # type: ignore[list-item]
        if prompt != encoder.encode_prompt([_USER]):  # type: ignore[list-item]
            checked.wrong.append("the exported tokenizer gives other ids")
        given = {"input_ids": torch.tensor([prompt]), "attention_mask": torch.ones(1, len(prompt), dtype=torch.long)}
        answer = loaded.generate(**given, do_sample=False, max_new_tokens=5)[0, len(prompt) :].tolist()
        if answer != [stop]:
            checked.wrong.append(f"generate goes on behind {tokenizer.convert_ids_to_tokens(stop)!r}: {answer}")
        if not set(stops) <= set(stop_token_ids(str(output))):
            checked.wrong.append("the server does not stop where the template ends answers")
    return checked


def learnt(encoder: ChatEncoder, encoded: EncodedConversation) -> list[str]:
    """The texts that carry loss, one for each stretch of tokens."""
    stretches: list[list[int]] = []
    previous = False
    for token, answer in zip(encoded.input_ids_T, encoded.assistant_mask_T, strict=True):
        if answer and not previous:
            stretches.append([])
        if answer:
            stretches[-1].append(token)
        previous = answer
    return [encoder.tokenizer.decode(ids) for ids in stretches]


def measure(*, quick: bool = False) -> list[Figure]:
    """The share of templates that are right in all respects, or refused by name with the reason."""
    kinds = KINDS[:1] if quick else KINDS
    right, refused, wrong = [], {}, {}
    for name in template_names():
        found: list[Checked] = []
        for source in forms_of(name).values():
            found += [check_ids_and_mask(name, source, kind) for kind in kinds]
            with tempfile.TemporaryDirectory(prefix="raymill-template-") as directory:
                found.append(check_export(source, Path(directory)))
        problems = [problem for checked in found for problem in checked.wrong]
        reasons = {checked.refused for checked in found if checked.refused}
        if problems:
            wrong[name] = problems[0]
        elif reasons:
            refused[name] = next(iter(reasons))
        else:
            right.append(name)
    for name, what in [*refused.items(), *wrong.items()]:
        print(f"  {name}: {what}")
    total = len(template_names())
    note = f"{len(right)} of {total} right, refused by name: {', '.join(refused) or 'none'}; {len(kinds)} tokenizers"
    value = (len(right) + len(refused)) / total
    return [Figure("1", "chat templates right or refused", "share", value, 1.0, module="post_training", note=note)]


def _is_words_and_end(name: str, encoder: ChatEncoder, encoded: EncodedConversation, answers: Sequence[str]) -> bool:
    """Whether the loss is on the answers, with what the template writes before them, and one stop token each.

    White space is left out, since tokenizers decode it differently.
    """
    known = [key for key in _BEFORE_WORDS if name == key or (key == "nemotron" and name.startswith(key))]
    before = _BEFORE_WORDS[known[0]] if known else ("",)
    ends = encoder.stop_tokens
    stretches = learnt(encoder, encoded)
    return len(stretches) == len(answers) and all(
        _bare(stretch) in {_bare(lead + answer + end) for lead in before for end in ends}
        for stretch, answer in zip(stretches, answers, strict=True)
    )


def _bare(text: str) -> str:
    return "".join(text.replace("▁", " ").split())


def _in_the_templates_form(encoder: ChatEncoder, messages: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The messages as the template reads them: those of models that see take lists of parts alone."""
    if not encoder.template.contents_are_parts:
        return [dict(message) for message in messages]
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def _model_that_says(token: int, tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.model.embed_tokens.weight.fill_(1.0)
        model.model.norm.weight.fill_(1.0)
        model.lm_head.weight[token].fill_(1.0)
    return model


def _directory() -> Path:
    import trl

    return Path(trl.__file__).parent / "chat_templates"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one kind of tokenizer instead of all")
    print_figures(measure(quick=parser.parse_args().quick))
