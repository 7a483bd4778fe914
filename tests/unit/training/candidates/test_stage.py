"""The candidates stage with the serving engine in this process, on tiny models."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster import candidates_stage
from cluster.contracts.artifacts import Artifact, Manifest, StageContext, StageResult
from cluster.contracts.errors import InputError
from cluster.contracts.progress import SilentProgress
from cluster.contracts.storage import read_table
from tests.chat_fixtures import conversation, make_conversations, make_model_directory
from training.candidates.artifact import PromptCandidates, read_candidates
from training.candidates.config import CandidatesConfig
from training.conversations.reading import QUARANTINE_FILE
from training.launch.workers import run_in_process

LONG = "how " * 200


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of the same kind, and conversations, one with a prompt that doesn't fit their positions."""
    root = tmp_path_factory.mktemp("candidates")
    for seed, name in enumerate(("a", "b")):
        make_model_directory(root / name)
        model = AutoModelForCausalLM.from_pretrained(root / name)
        torch.manual_seed(seed)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
        model.save_pretrained(root / name)
    rows = [conversation(number) for number in range(12)]
    rows.append({"messages": [{"role": "user", "content": LONG}, {"role": "assistant", "content": "So."}]})
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_conversations(root / "talks", [root / "rows.jsonl"], heldout_fraction=0.3)
    return root


def make(root: Path, output: str, models: Sequence[str] = ("a", "b"), **settings: Any) -> StageResult:
    config = CandidatesConfig(
        models={name: name for name in models},
        conversations="talks",
        **{"answers_per_prompt": 3, "max_new_tokens": 12, "prompts_per_part": 4, "split": "both", **settings},
    )
    inputs = {f"models.{name}": Artifact(str(root / name), Manifest("sft", f"of-{name}", {}, {})) for name in models}
    inputs["conversations"] = Artifact(str(root / "talks"), Manifest("conversations", "talks", {}, {}))
    context = StageContext("candidates", SilentProgress(), root / "scratch", root / "logs", seed=3)
    return candidates_stage.run(config, inputs, str(root / output), context, launch=run_in_process)


def answers_of(found: Sequence[PromptCandidates], model: str) -> dict[tuple[str, int], list[int]]:
    return {(p.prompt.prompt_id, c.number): c.answer_ids for p in found for c in p.candidates if c.model == model}


@pytest.fixture(scope="module")
def both(root: Path) -> StageResult:
    return make(root, "both")


def test_every_model_answers_every_prompt_that_fits(both: StageResult, root: Path) -> None:
    found = read_candidates(str(root / "both"))
    assert len(found) == 12
    assert all([(c.model, c.number) for c in p.candidates] == [(m, n) for m in "ab" for n in range(3)] for p in found)
    assert len(read_candidates(str(root / "both"), "train")) + len(read_candidates(str(root / "both"), "heldout")) == 12
    assert both.metrics["num_answers"] == 12 * 2 * 3
    assert both.metrics["quarantined_by_reason"] == {"prompt_too_long": 2}  # one row, by either model
    quarantined = read_table(str(root / "both" / QUARANTINE_FILE)).to_pylist()
    assert {row["offset"] for row in quarantined} == {sum(len(json.dumps(conversation(n))) + 1 for n in range(12))}
    written = {f.name: f.size for f in both.files}
    assert written == {path.name: path.stat().st_size for path in (root / "both").iterdir() if path.is_file()}


def test_an_answers_logprobs_are_those_of_a_plain_forward_pass(both: StageResult, root: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(root / "a")
    tokenizer = AutoTokenizer.from_pretrained(root / "a")
    for found in read_candidates(str(root / "both"))[:4]:
        prompt = tokenizer.apply_chat_template(found.prompt.messages, add_generation_prompt=True, return_dict=False)
        candidate = found.candidates[0]
        assert candidate.num_prompt_tokens == len(prompt)
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + candidate.answer_ids])).logits[0, len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(logits, -1)[range(len(candidate.answer_ids)), candidate.answer_ids]
        assert candidate.token_logprobs == pytest.approx(logprobs.tolist(), abs=1e-4)
        assert candidate.logprob == pytest.approx(float(logprobs.sum()), abs=1e-3)


def test_an_answer_depends_on_its_model_prompt_and_number_alone(both: StageResult, root: Path) -> None:
    """Fewer answers, the other model left out, other parts: the same tokens, up to the last bits of logits."""
    make(root, "alone", models=("b",), answers_per_prompt=2, prompts_per_part=5)
    alone, before = (answers_of(read_candidates(str(root / name)), "b") for name in ("alone", "both"))
    assert alone.keys() == {key for key in before if key[1] < 2}
    same = [alone[key] == before[key] for key in alone]
    assert sum(same) >= len(same) - 1
    assert len({tuple(ids) for ids in before.values()}) > 30  # and the seeds do draw different answers


def test_greedy_answers_are_those_of_transformers(root: Path) -> None:
    make(root, "greedy", models=("a",), temperature=0.0, answers_per_prompt=1)
    model = AutoModelForCausalLM.from_pretrained(root / "a")
    tokenizer = AutoTokenizer.from_pretrained(root / "a")
    for found in read_candidates(str(root / "greedy")):
        (candidate,) = found.candidates
        prompt = tokenizer.apply_chat_template(found.prompt.messages, add_generation_prompt=True, return_dict=False)
        ends = [tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id]
        whole = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=ends)
        assert candidate.answer_ids == whole[0, len(prompt) :].tolist()
        assert candidate.answer == tokenizer.decode(candidate.answer_ids, skip_special_tokens=True)
        assert (candidate.finish_reason == "stop") == (candidate.answer_ids[-1] in ends)


def test_a_model_that_can_be_asked_nothing_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"model 'a' can be asked none of 13 prompts .* at most 6"):
        make(root, "none", models=("a",), max_new_tokens=250)


def test_what_is_asked_does_not_depend_on_the_server(root: Path) -> None:
    """Else a part that is committed would hold other prompts than one that a resume asks with other replicas."""
    with pytest.raises(InputError, match=r"its server takes 64; raise server.max_batch_tokens \(64\)"):
        make(root, "small_cache", models=("a",), server={"max_batch_tokens": 64}, max_new_tokens=48)
