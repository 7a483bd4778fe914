"""Lets a causal model answer chat prompts, by transformers' `generate`. For evaluation, where speed does not matter.

Shape letters: B prompts of a batch, T positions, A answer tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from training.inference.sequence_scores import padded


def generate_answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop_token_ids: Sequence[int],
    pad_token_id: int,
    max_new_tokens: int,
    temperature: float | None,
    seed: int,
    batch_size: int = 32,
) -> list[list[int]]:
    """Answer ids per prompt, the stop token included where the model gave it. `temperature` None takes the likeliest.

    The same model, prompts, order, batch size and seed give the same answers.
    """
    torch.manual_seed(seed)
    model.eval()
    how: dict[str, Any] = {"do_sample": False}
    if temperature is not None:
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    answers: list[list[int]] = []
    for start in range(0, len(prompts), batch_size):
        input_ids_BT, attention_mask_BT = padded(
            prompts[start : start + batch_size], pad_token_id, model.device, side="left"
        )
        with torch.inference_mode():
            output_BT = model.generate(
                input_ids=input_ids_BT,
                attention_mask=attention_mask_BT,
                max_new_tokens=max_new_tokens,
                eos_token_id=list(stop_token_ids),
                pad_token_id=pad_token_id,
                **how,
            )
        for answer_A in output_BT[:, input_ids_BT.shape[1] :].tolist():
            ends = (place + 1 for place, token in enumerate(answer_A) if token in stop_token_ids)
            answers.append(answer_A[: next(ends, None)])
    return answers
