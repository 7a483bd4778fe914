"""The chat format: ChatML, in which the assistant's turns are marked, so that the loss can be on them alone."""

from __future__ import annotations

from dataprep.tokenizer.special_tokens import SpecialTokens


def chat_template(tokens: SpecialTokens) -> str:
    """The Jinja template of a tokenizer directory.

    A turn is `<start>role\\ncontent<end>\\n`. `{% generation %}` goes around what the assistant writes, its end-of-turn
    token included: `apply_chat_template(return_assistant_tokens_mask=True)` and TRL's `assistant_only_loss` read that.
    """
    start, end = (_jinja_string(token) for token in (tokens.start_of_turn, tokens.end_of_turn))
    return (
        "{% for message in messages %}"
        f"{{{{ {start} + message['role'] + '\\n' }}}}"
        "{% if message['role'] == 'assistant' %}"
        f"{{% generation %}}{{{{ message['content'] + {end} }}}}{{% endgeneration %}}"
        f"{{% else %}}{{{{ message['content'] + {end} }}}}{{% endif %}}"
        "{{ '\\n' }}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ {start} + 'assistant\\n' }}}}{{% endif %}}"
    )


def _jinja_string(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
