"""From messages to token ids: the one encoder that training and serving share.

Begin with `encoder.py`.

    encoder.py           `ChatEncoder`: ids of conversations and prompts, the loss mask, the tokens that end answers
    rendering.py         a chat template applied to messages: text, and where the template marks the assistant
    control_strings.py   keeps what people type text, also where it spells a control token; text to ids
    spans.py             where in a rendered conversation each of the assistant's turns begins and ends
    stop_tokens.py       with which tokens a template ends an answer
    exported.py          writes template, end of turn and padding token into a model directory

Nothing here imports a room; transformers and tokenizers are imported inside functions.
"""
