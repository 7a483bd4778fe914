"""The evaluate stage on tiny models, with the serving engine in this process."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.contracts.artifacts import Artifact, Manifest, StageContext, StageResult
from cluster.contracts.chat.encoder import ChatEncoder
from cluster.contracts.commit import committed_parts, remove_part
from cluster.contracts.progress import SilentProgress
from cluster.contracts.records import AnswerClient, Message
from cluster.contracts.tokens import ShardEntry, write_token_index, write_token_shard
from serving.answers import AnswerEngine
from serving.config import ServerConfig
from tests.chat_fixtures import (
    conversation,
    make_chat_tokenizer,
    make_conversations,
    make_model_directory,
    write_conversations,
)
from training.evaluate import stage
from training.evaluate.answering import SAMPLED, Answer
from training.evaluate.config import EvaluateConfig
from training.evaluate.judging import judged_values
from training.evaluate.measuring import answers_of, measured_key
from training.evaluate.reader import Reader
from training.models import load_under_new_head

TEXT = " ".join(str(message["content"]) for number in range(60) for message in conversation(number)["messages"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models: `plain`; `eager`, with noise on its weights; `other`, of another tokenizer. And data of all kinds."""
    root = tmp_path_factory.mktemp("evaluate")
    for name in ("plain", "eager"):
        make_model_directory(root / name)
    eager = AutoModelForCausalLM.from_pretrained(root / "eager")
    tokenizer = make_chat_tokenizer()
    with torch.no_grad():
        torch.manual_seed(5)
        for parameter in eager.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    eager.save_pretrained(root / "eager")
    _make_other(root / "other")
    write_conversations(root / "rows.jsonl", 60)
    make_conversations(root / "talks", [root / "rows.jsonl"], heldout_fraction=0.4)
    (root / "tokenizer" / "t1").mkdir(parents=True)
    tokenizer.save_pretrained(root / "tokenizer" / "t1")
    _make_tokens(root / "tokenize" / "k1", tokenizer)
    rows = [
        {
            "prompt": f"What about {n}?",
            "choices": ["Every day", "Never"],
            "answer": n % 2,
            "group": "odd" if n % 2 else "even",
        }
        for n in range(12)
    ]
    (root / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checks = [{"prompt": f"Say {n}", "checks": [{"check": "words", "at_most": 10_000}]} for n in range(5)]
    (root / "checks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in checks) + "{broken\n")
    return root


def _make_other(directory: Path) -> None:
    make_model_directory(directory)
    tokenizer = make_chat_tokenizer(vocab_size=300)
    model = AutoModelForCausalLM.from_pretrained(directory)
    model.resize_token_embeddings(len(tokenizer))
    for size in ("pad_token_id", "eos_token_id", "bos_token_id"):
        setattr(model.config, size, getattr(tokenizer, size))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _make_tokens(directory: Path, tokenizer: Any) -> None:
    directory.mkdir(parents=True)
    ids = np.array(tokenizer(TEXT)["input_ids"], np.uint16)
    with open(directory / "shard.arrow", "wb") as sink:
        write_token_shard(sink, ids, np.array([0, len(ids)], np.int64), np.zeros(1, np.int64), "test")
    size = (directory / "shard.arrow").stat().st_size
    write_token_index(str(directory), [ShardEntry("shard.arrow", size, "", 1, len(ids), heldout=True)])


def launch(function: Any, job: Any, group: Any, context: StageContext, **_: Any) -> Any:
    """One worker, without a process group."""
    context.scratch.mkdir(exist_ok=True)
    return function(
        SimpleNamespace(
            rank=0, world_size=1, device=torch.device("cpu"), scratch=context.scratch, progress=SilentProgress()
        ),
        job,
    )


@contextmanager
def engine() -> Iterator[AnswerClient]:
    yield AnswerEngine(ServerConfig())


def run(root: Path, output: str, models: Mapping[str, str], answering: Any = engine, **settings: Any) -> StageResult:
    config = EvaluateConfig(
        **{
            "models": models,
            "conversations": "talks",
            "max_new_tokens": 6,
            "num_samples": 2,
            "num_prompts": 20,
            "sequence_length": 64,
            **settings,
        }
    )
    inputs = {
        f"models.{name}": Artifact(str(root / path), Manifest("sft", path, {}, {})) for name, path in models.items()
    }
    if config.conversations is not None:
        inputs["conversations"] = Artifact(str(root / "talks"), Manifest("conversations", "talks", {}, {}))
    if config.tokens is not None:
        manifest = Manifest("tokenize", "k1", {}, {"tokenizer": "t1"})
        inputs["tokens"] = Artifact(str(root / "tokenize" / "k1"), manifest)
    for role in ("judge", "reward_model"):
        if getattr(config, role) is not None:
            inputs[role] = Artifact(str(root / getattr(config, role)), Manifest("sft", role, {}, {}))
    context = StageContext("evaluate", SilentProgress(), root / "scratch", root / "logs", seed=3)
    return stage.run(config, inputs, str(root / output), context, answering=answering, launch=launch)


@pytest.fixture(scope="module")
def measured(root: Path) -> dict[str, Any]:
    tasks = {
        "choice": {"kind": "multiple_choice", "inputs": [str(root / "choice.jsonl")]},
        "checks": {"kind": "checks", "inputs": [str(root / "checks.jsonl")], "max_new_tokens": 5},
        "refusals": {"kind": "refusals", "max_new_tokens": 5, "max_items": 6},
    }
    models = {"plain": "plain", "eager": "eager", "other": "other"}
    return run(root, "all", models, tokens="tokens", tasks=tasks, judge="plain").metrics


def test_every_figure_of_every_model_has_an_interval_around_it(measured: dict[str, Any]) -> None:
    for name, figures in measured["models"].items():
        for figure, (low, high) in measured["intervals"][name].items():
            assert low <= figures[figure] <= high, (name, figure)
        assert {"heldout_answer_loss", "finished_fraction", "task/choice/accuracy/odd"} <= measured["intervals"][
            name
        ].keys()


def test_a_model_of_another_tokenizer_is_compared_by_bytes_and_not_by_tokens(measured: dict[str, Any]) -> None:
    assert measured["vocabularies"]["plain"] == measured["vocabularies"]["eager"] != measured["vocabularies"]["other"]
    compared = {(row["model"], row["figure"]) for row in measured["differences"]}
    assert ("eager", "heldout_loss") in compared
    assert ("eager", "heldout_answer_loss") in compared
    assert ("other", "heldout_answer_bits_per_byte") in compared
    assert ("other", "heldout_answer_loss") not in compared
    assert "heldout_loss" not in measured["models"]["other"]
    assert measured["models"]["other"]["heldout_bits_per_byte"] > 1


def test_held_out_losses_are_those_of_plain_forward_passes(measured: dict[str, Any], root: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(root / "plain"), make_chat_tokenizer()
    ids = tokenizer(TEXT)["input_ids"]
    total, count = 0.0, 0
    for start in range(0, len(ids) - 1, 64):
        window = torch.tensor([ids[start : start + 65]])
        with torch.inference_mode():
            total += float(model(window, labels=window).loss) * (window.shape[1] - 1)
        count += window.shape[1] - 1
    figures = measured["models"]["plain"]
    assert figures["heldout_loss"] == pytest.approx(total / count, rel=1e-4)
    num_bytes = len(TEXT.encode()) - len(tokenizer.decode(ids[:1]).encode())
    assert figures["heldout_bits_per_byte"] == pytest.approx(total / math.log(2) / num_bytes, rel=1e-4)


def test_the_likeliest_choice_is_taken(measured: dict[str, Any], root: Path) -> None:
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(root / "plain"),
        AutoTokenizer.from_pretrained(root / "plain"),
    )
    right = []
    for number in range(12):
        messages = [{"role": "user", "content": f"What about {number}?"}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        scores = []
        for choice in ("Every day", "Never"):
            ids = tokenizer(choice)["input_ids"]
            with torch.inference_mode():
                logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
            scores.append(float(torch.log_softmax(logits, -1)[range(len(ids)), ids].sum()))
        right.append(scores[number % 2] > scores[1 - number % 2])
    assert measured["models"]["plain"]["task/choice/accuracy"] == pytest.approx(np.mean(right))
    by_group = [measured["models"]["plain"][f"task/choice/accuracy/{group}"] for group in ("even", "odd")]
    assert np.mean(by_group) == pytest.approx(np.mean(right))


def test_pairs_are_compared_whole_or_by_the_token(root: Path) -> None:
    """A long answer is less likely than a short one, but for a model that knows nothing no less by the token."""
    rows = [
        {"prompt": f"Go {n}", "chosen": "Every day the red fox sees a very old garden.", "rejected": "No"}
        for n in range(3)
    ]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = {"kind": "pairs", "inputs": [str(root / "pairs.jsonl")]}
    model = AutoModelForCausalLM.from_pretrained(root / "plain")
    tokenizer = AutoTokenizer.from_pretrained(root / "plain")
    means = []
    for text in ("Every day the red fox sees a very old garden.", "No"):
        messages = [{"role": "user", "content": "Go 0"}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        ids = tokenizer(text)["input_ids"] + [tokenizer.convert_tokens_to_ids("<|im_end|>")]
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        means.append(float(torch.log_softmax(logits, -1)[range(len(ids)), ids].mean()))
    tasks = {"whole": whole, "token": {**whole, "normalise_length": "tokens"}}
    figures = run(root, "pairs", {"a": "plain"}, conversations=None, tokens="tokens", tasks=tasks).metrics["models"][
        "a"
    ]
    assert figures["task/whole/accuracy"] == 0.0
    assert figures["task/token/accuracy"] == float(means[0] > means[1])


def test_generated_tasks_are_scored_and_bad_rows_counted(measured: dict[str, Any]) -> None:
    assert measured["models"]["plain"]["task/checks/accuracy"] == 1.0
    assert measured["intervals"]["plain"]["task/checks/accuracy"][0] < 0.7  # five items say little
    assert measured["quarantined_by_reason"] == {"bad_json": 1}
    assert {"task/refusals/refusals", "task/refusals/over_refusals"} <= measured["models"]["plain"].keys()


def test_every_model_but_the_baseline_is_judged(measured: dict[str, Any]) -> None:
    assert measured["judged"].keys() == {"eager", "other"}
    assert measured["judged"]["eager"]["num_judged"] == 20
    assert 0 <= measured["models"]["eager"]["judged_win_rate"] <= 1
    assert "judged_win_rate" not in measured["models"]["plain"]


class Judge(Reader):
    """Finds likely what a function says of (answer A, answer B, the letter)."""

    def logprobs(self, sequences: Any, masks: Any) -> Any:
        texts = [self.encoder.tokenizer.decode(ids) for ids in sequences]
        parts = [
            re.search(r"\[Answer A\]\n(.*)\n\n\[Answer B\]\n(.*)\n\nReply.*assistant\n([AB])", t, re.S) for t in texts
        ]
        return [float(self.model(*part.groups())) for part in parts if part is not None], [1] * len(texts)


def answer(text: str) -> Answer:
    return Answer("sampled", "i", "c", (Message(role="user", content="Well?"),), [], text, [], 0.0, "stop", 0)


def test_a_judge_that_goes_by_the_place_finds_ties_and_one_that_goes_by_the_answer_a_winner() -> None:
    encoder = ChatEncoder(make_chat_tokenizer())
    config = EvaluateConfig(models={"a": "a"}, tokens="t", max_length=4096)
    pairs = [(answer("so good"), answer("bad")), (answer("poor"), answer("a good one")), (answer("x"), answer("y"))]
    by_answer = Judge(lambda a, b, letter: "good" in (a if letter == "A" else b), encoder, None, config)
    values, num_by_place = judged_values(by_answer, pairs)
    assert (values.numerators_N.tolist(), num_by_place) == ([1.0, 0.0, 0.5], 0)
    by_place = Judge(lambda a, b, letter: letter == "A", encoder, None, config)
    values, num_by_place = judged_values(by_place, pairs)
    assert (values.numerators_N.tolist(), num_by_place) == ([0.5, 0.5, 0.5], 3)
    short = Judge(lambda a, b, letter: 0, encoder, None, EvaluateConfig(models={"a": "a"}, tokens="t", max_length=8))
    assert judged_values(short, pairs)[0].items == ()


def test_models_answer_the_same_prompts_side_by_side(measured: dict[str, Any]) -> None:
    assert [set(sample["answers"]) for sample in measured["samples"]] == [{"plain", "eager", "other"}] * 2
    assert all(sample["sampled_answers"].keys() == sample["answers"].keys() for sample in measured["samples"])


def test_a_model_against_itself_differs_in_nothing(root: Path) -> None:
    metrics = run(root, "twins", {"a": "plain", "b": "plain"}).metrics
    assert {row["figure"] for row in metrics["differences"]} >= {"heldout_answer_loss", "finished_fraction"}
    for row in metrics["differences"]:
        assert row["difference"] == 0
        assert row["outcome"] is None
        assert row["p"] == 1.0


def test_what_is_committed_is_not_measured_again(root: Path) -> None:
    models = {"a": "plain", "b": "eager"}
    first = run(root, "resumed", models).metrics
    remove_part(str(root / "resumed"), measured_key("b"))

    @contextmanager
    def refuse() -> Iterator[AnswerClient]:
        raise AssertionError("all answers are there")
        yield

    assert run(root, "resumed", models, answering=refuse).metrics == first
    assert measured_key("b") in committed_parts(str(root / "resumed"))


def test_tokens_alone_need_no_answers(root: Path) -> None:
    config = EvaluateConfig(models={"a": "plain"}, tokens="tokens")
    assert not config.asks_for_answers


def test_rewards_are_the_reward_models_and_decide_who_wins(root: Path) -> None:
    model = load_under_new_head(root / "plain", num_labels=1, pad_token_id=make_chat_tokenizer().pad_token_id)
    model.save_pretrained(root / "reward")
    make_chat_tokenizer().save_pretrained(root / "reward")
    models = {"plain": "plain", "twin": "plain", "other": "other"}
    metrics = run(root, "rewarded", models, reward_model="reward").metrics
    assert metrics["models"]["twin"]["reward_win_rate"] == 0.5
    assert metrics["models"]["twin"]["reward_mean"] == metrics["models"]["plain"]["reward_mean"]
    assert 0 <= metrics["models"]["other"]["reward_win_rate"] <= 1
    answers = answers_of(str(root / "rewarded"), "plain", SAMPLED)
    assert len(answers) == 20
    with torch.inference_mode():
        scores = [float(model(torch.tensor([a.prompt_ids + a.answer_ids])).logits[0, 0]) for a in answers]
    assert metrics["models"]["plain"]["reward_mean"] == pytest.approx(np.mean(scores), abs=1e-5)
