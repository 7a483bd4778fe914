"""A run is refused for its models before Ray starts, with all that is wrong; adapters reach stages merged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from cluster.contracts.artifacts import Artifact, Manifest
from cluster.contracts.errors import SpecError
from cluster.plan import PlannedStage, make_plan
from cluster.runner import run_spec
from cluster.spec import JobSpec, load_spec
from cluster.starting_models import check_models_and_settings, starting_models, whole_model
from cluster.terminal import quiet_terminal
from tests.chat_fixtures import make_model_directory, write_conversations
from tests.unit.training.base_model.test_adapters import make_adapter

SPEC = """
name: aligned
storage: store
resources: {cpus: 1, memory_gib: 0.1, disk_gib: 0.1}
stages:
  conversations: {inputs: [talks.jsonl]}
  sft: {model: ./base, conversations: conversations, max_length: 300, lora: {target_modules: [q_proj, wq]}}
  preferences: {conversations: conversations}
  reward_model: {model: ./base, preferences: preferences}
  dpo: {model: sft, preferences: preferences, max_length: 2000}
"""


def load(directory: Path, text: str = SPEC) -> JobSpec:
    write_conversations(directory / "talks.jsonl", 4)
    (directory / "spec.yaml").write_text(text)
    return load_spec(directory / "spec.yaml")


def _stage(spec: JobSpec, name: str) -> PlannedStage:
    return next(stage for stage in make_plan(spec) if stage.name == name)


def _model(stage: PlannedStage) -> dict[str, Artifact]:
    """The directory that a stage's `model` names, as the runner opens it."""
    return {"model": Artifact(stage.inputs["model"], Manifest("outside", stage.input_fingerprints["model"], {}, {}))}


def test_a_run_is_refused_before_ray_starts_with_every_problem_of_every_stage(tmp_path: Path) -> None:
    base = make_model_directory(tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    blocks = "model: ./base, trl: {packin: true, optim: adam}, deepspeed: {zero: 1}, preferences"
    spec = load(
        tmp_path, SPEC.replace("model: ./base, preferences", blocks)
    )  # names of files and heads of weights are right
    before = ray.is_initialized()  # a Ray of other tests' may stand in this process
    with quiet_terminal(tmp_path / "log") as terminal, pytest.raises(SpecError) as caught:
        run_spec(spec, terminal)
    assert ray.is_initialized() == before
    found = [(problem.path, problem.message.partition(" (")[0]) for problem in caught.value.problems]
    judged = [problem.message for problem in caught.value.problems if problem.path == "stages.reward_model"]
    assert len(judged) == 1
    for setting in ("trl.packin is no setting", "trl.optim: 'adam' is refused", "deepspeed.zero is no setting"):
        assert setting in judged[0]
    assert sorted(item for item in found if item[0] != "stages.reward_model") == [
        ("stages.reward_model.model", "has 256 positions"),
        ("stages.reward_model.model", "has no chat template"),
        ("stages.sft.model", "has 256 positions"),
        ("stages.sft.model", "has no chat template"),
        ("stages.sft.model", "has no modules called wq"),
    ]


def test_plan_refuses_what_file_names_tell_and_does_so_without_torch(tmp_path: Path) -> None:
    base = make_model_directory(tmp_path / "base")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    (base / "tokenizer.json").unlink()
    with pytest.raises(SpecError) as caught:
        load(tmp_path)
    assert [problem.path for problem in caught.value.problems] == ["stages.sft.model"] * 2 + [
        "stages.reward_model.model"
    ] * 2
    code = (
        "import sys\nfrom cluster.contracts.errors import SpecError\nfrom cluster.spec import load_spec\n"
        f"try:\n    load_spec({str(tmp_path / 'spec.yaml')!r})\nexcept SpecError as error:\n    print(error)\n"
        "print('heavy:', [name for name in ('torch', 'transformers', 'ray', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240)
    assert "pickles only (pytorch_model.bin)" in done.stdout
    assert done.stdout.endswith("heavy: []\n")


def test_an_adapter_reaches_the_stage_merged_once_and_its_base_is_in_the_fingerprint(tmp_path: Path) -> None:
    base = make_model_directory(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    text = SPEC.replace("./base", "./adapter").replace("300", "128").replace(", wq", "")
    spec = load(tmp_path, text)
    stage = _stage(spec, "sft")
    taken = starting_models(stage, _model(stage), storage_uri=spec.head.storage, scratch=tmp_path / "scratch")
    directory = Path(taken["model"].uri)
    assert directory.parent == tmp_path / "store" / "merged"
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {p.name for p in directory.iterdir()}
    assert not (directory / "adapter_config.json").exists()
    before = (directory / "model.safetensors").stat().st_mtime_ns
    again = starting_models(stage, _model(stage), storage_uri=spec.head.storage, scratch=tmp_path / "scratch")
    assert again["model"].uri == str(directory)
    assert (directory / "model.safetensors").stat().st_mtime_ns == before

    served = whole_model(  # as `raymill serve` asks for it
        _model(stage)["model"],
        "policy",
        fingerprint=stage.input_fingerprints["model"],
        storage_uri=spec.head.storage,
        scratch=tmp_path / "scratch",
    )
    assert served.uri == str(directory)

    content = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**content, "rope_theta": 20000.0}))
    changed = _stage(load(tmp_path, text), "sft")
    assert changed.fingerprint != stage.fingerprint
    assert adapter.exists()


def test_the_models_of_a_stage_are_checked_when_its_turn_comes(tmp_path: Path) -> None:
    make_model_directory(tmp_path / "base")
    spec = load(tmp_path, SPEC.replace("300", "128").replace(", wq", ""))
    stages = {stage.name: stage for stage in make_plan(spec)}
    check_models_and_settings([stages["dpo"]], tmp_path / "scratch", "spec.yaml")  # what sft will make is not there yet
    artifact = _model(stages["sft"])["model"]
    with pytest.raises(SpecError, match=r"stage dpo has 1 problem:\n.*has 256 positions"):
        starting_models(stages["dpo"], {"model": artifact}, storage_uri="store", scratch=tmp_path / "scratch")


def test_a_base_that_the_serving_engine_can_t_run_is_refused_before_a_model_is_trained_from_it(tmp_path: Path) -> None:
    base = make_model_directory(tmp_path / "base")
    evaluation = "  evaluate: {models: {after: dpo}, conversations: conversations}\n"
    text = SPEC.replace("300", "128").replace("2000", "128").replace(", wq", "") + evaluation
    text = text.replace("  reward_model: {model: ./base, preferences: preferences}\n", "")
    check_models_and_settings(make_plan(load(tmp_path, text)), tmp_path / "scratch", "spec.yaml")

    config = json.loads((base / "config.json").read_text())
    windowed = {**config, "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 8}
    (base / "config.json").write_text(json.dumps(windowed))
    with pytest.raises(SpecError, match=r"mistral has layers with .*full attention") as caught:
        check_models_and_settings(make_plan(load(tmp_path, text)), tmp_path / "scratch", "spec.yaml")
    assert [problem.path for problem in caught.value.problems] == ["stages.evaluate.models.after"]

    trained_only = text.replace(evaluation, "")
    check_models_and_settings(make_plan(load(tmp_path, trained_only)), tmp_path / "scratch", "spec.yaml")
