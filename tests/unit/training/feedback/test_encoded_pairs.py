from itertools import compress
from pathlib import Path
from typing import Any

import torch
from trl.trainer.dpo_trainer import DataCollatorForPreference

from cluster.contracts.chat.encoder import ChatEncoder
from tests.chat_fixtures import make_chat_tokenizer, make_model_directory
from tests.unit.training.feedback.feedback_rows import asked, pair, said
from training.feedback.encoded_pairs import encode_pairs
from training.feedback.rows import PreferencePair
from training.inference.sequence_scores import pair_logprobs
from training.models import load_model
from training.post_training.answer_masks import MaskedPairs, mask_columns

SEVERAL: PreferencePair = {
    **pair("Will it rain?", "", "No idea at all."),  # type: ignore[typeddict-item]
    "chosen": [*said("Where is it?"), *asked("Here in the city."), *said("Then it will rain.")],
}


def words(tokenizer: Any, ids: list[int], mask: list[bool]) -> str:
    return str(tokenizer.decode(list(compress(ids, mask))))


def test_all_of_the_assistants_turns_count_and_nothing_said_in_between() -> None:
    tokenizer = make_chat_tokenizer()
    (found,) = encode_pairs(ChatEncoder(tokenizer), [SEVERAL], max_length=1000).pairs
    assert (
        words(tokenizer, found.chosen, found.chosen_answer_mask) == "Where is it?<|im_end|>Then it will rain.<|im_end|>"
    )
    assert words(tokenizer, found.rejected, found.rejected_answer_mask) == "No idea at all.<|im_end|>"
    assert "Here in the city." in tokenizer.decode(found.chosen)
    assert found.rejected_mask is None


def test_a_pair_has_the_tokens_of_its_own_tools_whatever_the_pair_before_it_has() -> None:
    tokenizer = make_chat_tokenizer()
    told = "{{ '<|im_start|>tools\\n' + (tools | tojson) + '<|im_end|>\\n' if tools else '' }}"
    encoder = ChatEncoder(tokenizer, chat_template=told + tokenizer.chat_template)
    without = pair("Will it rain?", "It will.", "No idea.")
    tools = [{"type": "function", "function": {"name": "weather"}}]
    rows = [without, pair("Will it rain?", "It will.", "Ask me later.", tools=tools)]
    together = encode_pairs(encoder, rows, max_length=1000).pairs
    assert together == [encode_pairs(encoder, [row], max_length=1000).pairs[0] for row in rows]
    assert "weather" in tokenizer.decode(together[1].prompt_ids)


def test_a_pair_is_left_out_whole_where_either_side_is_too_long_and_counted() -> None:
    encoder = ChatEncoder(make_chat_tokenizer())
    (whole,) = encode_pairs(encoder, [SEVERAL], max_length=1000).pairs
    assert len(encode_pairs(encoder, [SEVERAL], max_length=whole.length).pairs) == 1
    cut = encode_pairs(encoder, [SEVERAL, pair("a", "b", "c")], max_length=whole.length - 1)
    assert (len(cut.pairs), cut.num_too_long, cut.rows) == (1, 1, [pair("a", "b", "c")])


def test_trls_batch_carries_the_masks_and_log_probabilities_are_of_what_they_leave(tmp_path: Path) -> None:
    make_model_directory(tmp_path / "model")
    model = load_model(tmp_path / "model").eval()
    tokenizer = make_chat_tokenizer()
    pairs = encode_pairs(
        ChatEncoder(tokenizer), [SEVERAL, pair("Hello?", "Hello there.", "What?")], max_length=1000
    ).pairs
    rows = [
        {"prompt_ids": p.prompt_ids, "chosen_ids": p.chosen_ids, "rejected_ids": p.rejected_ids, **masks}
        for p, masks in zip(pairs, mask_columns(pairs), strict=True)
    ]
    batch = MaskedPairs(DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id))(rows)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logprobs = logits[:, :-1].log_softmax(-1).gather(2, batch["input_ids"][:, 1:, None])[..., 0]
    expected = (logprobs * batch["completion_mask"][:, 1:]).sum(1)
    found = pair_logprobs(model, pairs, pad_token_id=tokenizer.pad_token_id)
    torch.testing.assert_close(found.T.reshape(-1).float(), expected, rtol=0, atol=1e-4)
    assert mask_columns(pairs[1:]) == [{}]
