"""A spec is refused with all that is wrong with it, each with its place, the value and what is allowed."""

from pathlib import Path
from textwrap import dedent
from typing import Literal

import pytest

from cluster.contracts.errors import SpecError
from cluster.contracts.storage import expand
from cluster.fingerprint import settings_fingerprint
from cluster.spec import JobSpec, load_spec, stage_inputs
from cluster.submit import staged_job
from tests.stub_models import write_stub_model

GOOD = """
    name: test
    storage: out
    stages:
      words:
        kind: tokenizer
        documents: unique
        vocab_size: 300
      clean:
        inputs: [pages.jsonl]
      unique:
        kind: dedupe
        parts: clean
    """


def _load(tmp_path: Path, text: str, **overrides: object) -> JobSpec:
    (tmp_path / "pages.jsonl").write_text("{}")
    (tmp_path / "spec.yaml").write_text(dedent(text))
    return load_spec(tmp_path / "spec.yaml", overrides)


def _problems(tmp_path: Path, text: str) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        _load(tmp_path, text)
    return {problem.path: str(problem) for problem in caught.value.problems}


def test_stages_are_ordered_by_their_inputs_and_paths_are_relative_to_the_spec(tmp_path: Path) -> None:
    spec = _load(tmp_path, GOOD)
    assert list(spec.stages) == ["clean", "unique", "words"]
    assert spec.head.storage == str(tmp_path / "out")
    assert spec.stages["clean"].inputs == [str(tmp_path / "pages.jsonl")]  # type: ignore[attr-defined]
    assert spec.dependencies("words") == {"documents": "unique"}


def test_a_resolved_spec_loads_to_itself(tmp_path: Path) -> None:
    import yaml

    spec = _load(tmp_path, GOOD)
    again = _load(tmp_path, yaml.safe_dump(spec.as_dict()))
    assert again.as_dict() == spec.as_dict()


def test_all_problems_are_found_at_once(tmp_path: Path) -> None:
    found = _problems(
        tmp_path,
        """
        name: test
        storge: out
        resources: {cpus: many}
        stages:
          clean: {inputs: [absent.warc.gz], langages: [en]}
          unique: {kind: dedupe, parts: clear}
          words: {kind: tokeniser, documents: unique}
          shards: {kind: tokenize, documents: unique, tokenizer: clean, heldout_fraction: a lot}
        """,
    )
    assert set(found) == {
        "storge",
        "storage",
        "resources.cpus",
        "stages.clean.inputs.0",
        "stages.clean.langages",
        "stages.unique.parts",
        "stages.words.kind",
        "stages.shards.tokenizer",
        "stages.shards.heldout_fraction",
    }
    assert "did you mean 'storage'" in found["storge"]
    assert "did you mean 'languages'" in found["stages.clean.langages"]
    assert "did you mean 'tokenizer'" in found["stages.words.kind"]
    assert "'clear'" in found["stages.unique.parts"]
    assert "clean" in found["stages.unique.parts"]
    assert "is a clean stage" in found["stages.shards.tokenizer"]
    assert "'many'" in found["resources.cpus"]


def test_a_misspelt_key_deep_inside_brings_no_false_contradictions(tmp_path: Path) -> None:
    found = _problems(
        tmp_path,
        GOOD
        + """
      base:
        kind: pretrain
        tokens: shards
        tokenizer: words
        model: tiny
        steps: 5
        global_batch_size: 6
        workers: {num_workers: 3, cpuss: 1}
      shards: {kind: tokenize, documents: unique, tokenizer: words}
    """,
    )
    assert set(found) == {"stages.base.workers.cpuss"}


def test_a_store_of_an_unknown_kind_is_one_problem_among_others(tmp_path: Path) -> None:
    found = _problems(tmp_path, GOOD.replace("[pages.jsonl]", "[s4://a/b, pages.jsonl]").replace("storage", "storge"))
    assert {"stages.clean.inputs.0", "storge"} <= set(found)


def test_a_submission_carries_files_whose_names_look_like_patterns_or_lists(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    for name in ("web[1].jsonl", "y.list"):
        (tmp_path / "odd" / name).write_text('{"text": "x"}')
    text = GOOD.replace("inputs: [pages.jsonl]", "inputs: [odd]\n        format: jsonl")
    with staged_job(_load(tmp_path, text)) as directory:
        staged = load_spec(directory / "spec.yaml").stages["clean"]
        files = [file.uri for pattern in staged.inputs for file in expand(pattern)]  # type: ignore[attr-defined]
        assert [file.rsplit("/", 1)[1] for file in files] == ["web[1].jsonl", "y.list"]


def test_a_similarity_in_place_of_bands_loads_again_once_resolved(tmp_path: Path) -> None:
    import yaml

    spec = _load(tmp_path, GOOD, **{"stages.unique.fuzzy": {"similarity": 0.8}})
    assert _load(tmp_path, yaml.safe_dump(spec.as_dict())).as_dict() == spec.as_dict()
    with pytest.raises(SpecError, match="either similarity, or bands and rows"):
        _load(tmp_path, GOOD, **{"stages.unique.fuzzy": {"similarity": 0.8, "bands": 9}})


def test_settings_that_contradict_others_are_all_named_beside_a_misspelt_key(tmp_path: Path) -> None:
    found = _problems(
        tmp_path,
        GOOD
        + """
      base:
        kind: pretrain
        tokens: shards
        tokenizer: words
        model: huge
        steps: 5
        warmup_steps: 9
        min_lr: 1.0
        batch_size: 3
        workers: {num_workers: 3}
      shards:
        kind: tokenize
        documents: unique
        tokenizer: words
      pairs:
        kind: preferences
        conversations: ./
        disturbed_per_answer: 0
        min_words: 9
        max_words: 5
    """,
    )
    assert set(found) == {
        "stages.base.batch_size",
        "stages.base.model",
        "stages.base.warmup_steps",
        "stages.base.min_lr",
        "stages.base.global_batch_size",
        "stages.pairs.disturbed_per_answer",
        "stages.pairs.max_words",
    }
    assert "'huge'" in found["stages.base.model"]


def test_a_missing_input_file_is_named(tmp_path: Path) -> None:
    found = _problems(tmp_path, "{name: t, storage: o, stages: {clean: {inputs: [absent.warc.gz]}}}")
    assert "absent.warc.gz" in found["stages.clean.inputs.0"]
    assert "matches no file" in found["stages.clean.inputs.0"]


def test_a_cycle_is_shown(tmp_path: Path) -> None:
    found = _problems(
        tmp_path,
        """
        name: test
        storage: out
        stages:
          a: {kind: sft, model: b, conversations: talks}
          b: {kind: sft, model: a, conversations: talks}
        """,
    )
    assert any("a -> b -> a" in text for text in found.values())


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("[1, 2]", "", "is not a mapping"),
        ("name: t\nstorage: o\n", "stages", "must be a mapping of at least one stage"),
        ("name: t\nname: u\n", "line 2, column 1", "given twice"),
        ("name: [t\n", "line 2, column 1", "expected"),
        ("{name: ../t, storage: o, stages: {clean: {inputs: [pages.jsonl]}}}", "name", "pattern"),
        ("{name: t, storage: o, stages: {clean: 3}}", "stages.clean", "mapping of settings"),
    ],
)
def test_malformed_specs_are_told_by_place(tmp_path: Path, text: str, path: str, message: str) -> None:
    found = _problems(tmp_path, text)
    assert message in found[path]


def test_settings_that_are_nan_or_infinite_are_refused_at_any_depth(tmp_path: Path) -> None:
    stages = (
        "{sft: {model: ./m/, conversations: ./c/, lr: .inf, epochs: .nan, lora: {alpha: .inf}}, clean: {inputs: []}}"
    )
    problems = _problems(tmp_path, f"{{name: t, storage: o, stages: {stages}}}")
    for setting in ("lr", "epochs", "lora.alpha"):
        assert "finite number" in problems[f"stages.sft.{setting}"]


def test_an_override_replaces_one_setting(tmp_path: Path) -> None:
    spec = _load(tmp_path, GOOD, **{"stages.words.vocab_size": 512, "name": "other"})
    assert spec.stages["words"].vocab_size == 512  # type: ignore[attr-defined]
    assert spec.head.name == "other"


def test_numbers_without_a_dot_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("{name: t, storage: o, seed: 1e3, stages: {clean: {inputs: [a.jsonl]}}}")
    (tmp_path / "a.jsonl").touch()
    assert load_spec(tmp_path / "spec.yaml").head.seed == 1000


def test_inputs_that_no_reader_takes_are_refused_with_their_place_in_the_spec(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.csv", "c.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "all.list").write_text("a.jsonl\ngone.jsonl\n")
    spec = tmp_path / "spec.yaml"
    spec.write_text("{name: t, storage: o, stages: {clean: {inputs: [c.jsonl, '*.csv', all.list]}}}")
    with pytest.raises(SpecError) as refused:
        load_spec(spec)
    assert [(p.path, p.value) for p in refused.value.problems] == [
        ("stages.clean.inputs.1", "*.csv"),
        ("stages.clean.inputs.2", "all.list"),
    ]
    assert "b.csv: unknown format" in refused.value.problems[0].message
    assert "gone.jsonl does not exist" in refused.value.problems[1].message
    assert load_spec(spec, {"stages.clean.format": "jsonl", "stages.clean.inputs": ["b.csv"]}).stages


def test_an_absent_or_binary_spec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="can't be read"):
        load_spec(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="UTF-8"):
        load_spec(tmp_path / "binary.yaml")


LISTS = """
    name: test
    storage: out
    stages:
      clean:
        inputs: [pages.jsonl]
        url_blocklist: {domain_files: [lists/domains.txt]}
        profiles:
          german: {languages: [de], bad_words: {files: [lists/de.txt]}}
    """


def test_files_that_settings_name_are_found_beside_the_spec_at_any_depth(tmp_path: Path) -> None:
    assert {path: "matches no file" in problem for path, problem in _problems(tmp_path, LISTS).items()} == {
        "stages.clean.url_blocklist.domain_files.0": True,
        "stages.clean.profiles.german.bad_words.files.0": True,
    }
    (tmp_path / "lists").mkdir()
    for name in ("domains.txt", "de.txt"):
        (tmp_path / "lists" / name).write_text("x")
    assert _load(tmp_path, LISTS).stages["clean"].reference_files() == {
        "url_blocklist.domain_files": (str(tmp_path / "lists" / "domains.txt"),),
        "url_blocklist.word_files": (),
        "profiles.german.bad_words.files": (str(tmp_path / "lists" / "de.txt"),),
    }


SETS = """
    name: test
    storage: out
    stages:
      conversations:
        sets:
          talks: {inputs: [talks/*.jsonl]}
          labels: {inputs: [labels.csv], template: {prompt: "{text}", answer: "{label}"}}
    """


def test_inputs_of_nested_settings_are_checked_resolved_and_no_part_of_the_settings(tmp_path: Path) -> None:
    assert _problems(tmp_path, SETS).keys() == {
        "stages.conversations.sets.talks.inputs.0",
        "stages.conversations.sets.labels.inputs.0",
    }
    (tmp_path / "talks").mkdir()
    (tmp_path / "talks" / "a.jsonl").write_text("{}")
    (tmp_path / "labels.csv").write_text("x")
    config = _load(tmp_path, SETS).stages["conversations"]
    assert config.raw_inputs() == {
        "inputs": [],
        "sets.talks.inputs": [str(tmp_path / "talks" / "*.jsonl")],
        "sets.labels.inputs": [str(tmp_path / "labels.csv")],
    }
    moved = config.with_files({"sets.labels.inputs": ["/elsewhere/labels.csv"]})
    assert moved.raw_inputs()["sets.labels.inputs"] == ["/elsewhere/labels.csv"]
    assert settings_fingerprint(moved, 0) == settings_fingerprint(config, 0)
    (tmp_path / "labels.csv").rename(tmp_path / "labels.txt")
    (problem,) = _problems(tmp_path, SETS.replace("labels.csv", "labels.txt")).values()
    assert "unknown format" in problem


def test_a_submission_carries_inputs_of_nested_settings(tmp_path: Path) -> None:
    (tmp_path / "talks").mkdir()
    (tmp_path / "talks" / "a.jsonl").write_text("{}")
    (tmp_path / "labels.csv").write_text("x")
    with staged_job(_load(tmp_path, SETS)) as directory:
        staged = load_spec(directory / "spec.yaml").stages["conversations"].raw_inputs()
        (labels,) = staged["sets.labels.inputs"]
        assert Path(labels).is_relative_to(directory)
        assert Path(labels).read_text() == "x"


def test_a_submission_carries_the_files_that_settings_name(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    for name in ("domains.txt", "de.txt"):
        (tmp_path / "lists" / name).write_text(name)
    with staged_job(_load(tmp_path, LISTS)) as directory:
        staged = load_spec(directory / "spec.yaml").stages["clean"].reference_files()
        (words,) = staged["profiles.german.bad_words.files"]
        assert Path(words).is_relative_to(directory)
        assert Path(words).read_text() == "de.txt"


def test_a_list_of_inputs_is_checked_and_ordered_item_by_item(tmp_path: Path) -> None:
    (tmp_path / "earlier").mkdir()
    more = """
      old: {kind: clean, inputs: [pages.jsonl]}
      newer:
        kind: dedupe
        parts: clean
        against: [%s]
    """
    spec = _load(tmp_path, GOOD + more % "old, unique, ./earlier")
    assert spec.dependencies("newer") == {"parts": "clean", "against.0": "old", "against.1": "unique"}
    assert stage_inputs(spec.stages["newer"])["against.2"] == str(tmp_path / "earlier")
    assert list(spec.stages).index("newer") > list(spec.stages).index("unique")
    found = _problems(tmp_path, GOOD + more % "old, words, absent, ./none")
    assert {f"stages.newer.against.{n}" for n in (1, 2, 3)} == set(found)
    assert "is a tokenizer stage" in found["stages.newer.against.1"]


MODELS = """
    name: models
    storage: out
    stages:
      sft: {model: ./base, conversations: ./}
      candidates:
        models: {tuned: sft, own: ./base%s}
        conversations: ./
"""


def test_a_mapping_of_inputs_is_checked_and_ordered_name_by_name(tmp_path: Path) -> None:
    write_stub_model(tmp_path / "base")
    spec = _load(tmp_path, MODELS % "")
    assert spec.dependencies("candidates") == {"models.tuned": "sft"}
    assert stage_inputs(spec.stages["candidates"])["models.own"] == str(tmp_path / "base")
    assert spec.stages["candidates"].models == {"tuned": "sft", "own": str(tmp_path / "base")}  # type: ignore[attr-defined]
    found = _problems(tmp_path, MODELS % ", gone: absent, self: candidates, far: ./none")
    assert {f"stages.candidates.models.{name}" for name in ("gone", "self", "far")} < set(found)
    assert "is a candidates stage" in found["stages.candidates.models.self"]


ROUNDS = """
    name: rounds
    storage: out
    stages:
      sft: {model: ./base, conversations: ./}
      preferences: {conversations: ./}
      reward_model: {model: sft, preferences: preferences}
      dpo: {model: sft, preferences: preferences}
      dpo2: {kind: dpo, model: dpo, preferences: preferences}
      sft2: {kind: sft, model: ppo, conversations: ./}
      ppo: {policy: dpo2, reward_model: reward_model, conversations: ./}
      reward_model2: {kind: reward_model, model: ppo, preferences: preferences}
    """


def test_a_stage_starts_from_any_stage_that_makes_a_causal_model(tmp_path: Path) -> None:
    write_stub_model(tmp_path / "base")
    spec = _load(tmp_path, ROUNDS)
    order = list(spec.stages)
    assert [name for name in order if name.startswith("dpo")] == ["dpo", "dpo2"]
    assert order.index("ppo") < order.index("sft2")
    assert order.index("ppo") < order.index("reward_model2")


def test_a_reward_model_is_no_start_and_a_policy_is_no_judge(tmp_path: Path) -> None:
    write_stub_model(tmp_path / "base")
    found = _problems(
        tmp_path,
        ROUNDS.replace("{kind: dpo, model: dpo,", "{kind: dpo, model: reward_model,").replace(
            "reward_model: reward_model,", "reward_model: sft,"
        ),
    )
    assert set(found) == {"stages.dpo2.model", "stages.ppo.reward_model"}
    assert "is a reward_model stage" in found["stages.dpo2.model"]
    assert "needed: pretrain or sft or dpo or kto or ppo" in found["stages.dpo2.model"]
    assert "needed: reward_model" in found["stages.ppo.reward_model"]


def test_a_stage_starts_from_a_model_of_another_packages_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from cluster.stage_kinds import STAGE_KINDS
    from training.post_training.config import DpoConfig

    class OrpoConfig(DpoConfig):
        """Of another package."""

        kind: Literal["orpo"] = "orpo"  # type: ignore[assignment]

    monkeypatch.setitem(STAGE_KINDS, "orpo", replace(STAGE_KINDS["dpo"], config=OrpoConfig))
    write_stub_model(tmp_path / "base")
    spec = _load(tmp_path, ROUNDS.replace("{kind: dpo, model: dpo,", "{kind: orpo, model: dpo,"))
    assert spec.stages["dpo2"].kind == "orpo"
    assert "ppo" in spec.stages
