"""A bad base model is refused with a sentence and its mend, every problem at once, without reading its weights."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from cluster.contracts.errors import CorruptArtifact, InputError
from cluster.contracts.model_needs import ModelNeeds
from tests.chat_fixtures import make_model_directory
from training.base_model.adapter_layers import light_findings
from training.base_model.check import model_findings
from training.base_model.directory import Finding
from training.base_model.tensor_headers import tensor_headers
from training.models import load_model, load_reward_model, load_under_new_head

SFT = ModelNeeds(chat_template=True, padding_token=True, max_length=128)
REWARD = ModelNeeds(chat_template=True, padding_token=True, max_length=128, new_head=True)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_directory(tmp_path_factory.mktemp("good") / "model")


@pytest.fixture
def model(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


def found(directory: Path, needs: ModelNeeds = SFT, role: Any = "policy") -> list[Finding]:
    return model_findings(str(directory), needs, role, scratch=directory.parent)


def change_json(path: Path, **values: Any) -> None:
    read = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**read, **values}.items() if v is not None}))


def drop_tensor(directory: Path, name: str) -> None:
    change_tensors(directory, lambda tensors: tensors.__delitem__(name))


def change_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


# Each spoils a good directory; the words are of the one sentence that says so, and whether `raymill plan` sees it too.
def no_config(directory: Path) -> None:
    (directory / "config.json").rename(directory / "config.jso")


def broken_config(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": ')


def inner_directory(directory: Path) -> None:
    (directory / "checkpoint-20").mkdir()
    (directory / "config.json").rename(directory / "checkpoint-20" / "config.json")


def no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def pickles_only(directory: Path) -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def gguf_only(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-q4.gguf")


def shards_without_index(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")


def shard_is_absent(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")
    places = dict.fromkeys(
        tensor_headers(str(directory / "model-00001-of-00002.safetensors")), "model-00001-of-00002.safetensors"
    )
    places["model.norm.weight"] = "model-00002-of-00002.safetensors"
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def cut_short(directory: Path) -> None:
    content = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(content[:-1000])


def no_safetensors(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"<html>404 Not Found</html>")


def git_lfs_pointer(directory: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    (directory / "model.safetensors").write_bytes(pointer)


def missing_tensor(directory: Path) -> None:
    drop_tensor(directory, "model.layers.1.mlp.up_proj.weight")


def wrong_shape(directory: Path) -> None:
    change_tensors(directory, lambda tensors: tensors.update({"model.norm.weight": torch.ones(32)}))


def quantised(directory: Path) -> None:
    change_json(directory / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


def remote_code(directory: Path) -> None:
    code = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    change_json(directory / "config.json", model_type="own_llama", auto_map=code)
    (directory / "own.py").write_text("raise SystemExit('this code was run')")


def unknown_type(directory: Path) -> None:
    change_json(directory / "config.json", model_type="lama")


def no_language_model(directory: Path) -> None:
    change_json(directory / "config.json", model_type="vit", architectures=["ViTModel"])


def reward_model(directory: Path) -> None:
    change_json(directory / "config.json", architectures=["LlamaForSequenceClassification"])


def no_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()


def broken_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{}")


def no_template(directory: Path) -> None:
    (directory / "chat_template.jinja").unlink()


def no_end_of_turn(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")


def no_padding(directory: Path) -> None:
    change_json(directory / "tokenizer_config.json", pad_token=None)


def short_context(directory: Path) -> None:
    change_json(directory / "config.json", max_position_embeddings=100)


def larger_tokenizer(directory: Path) -> None:
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    token = {"id": 400, "content": "<|more|>", "special": True, "normalized": False}
    tokenizer["added_tokens"].append({**token, "single_word": False, "lstrip": False, "rstrip": False})
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))


FAULTS = [
    (no_config, "has no config.json; give a directory as save_pretrained writes it", True),
    (broken_config, "has a config.json that can't be read", True),
    (inner_directory, "has no config.json; give the directory inside it that has one: checkpoint-20", True),
    (no_weights, "has no weights (model.safetensors", True),
    (pickles_only, "has its weights as pickles only (pytorch_model.bin), which can run code", True),
    (gguf_only, "has its weights as GGUF only (model-q4.gguf)", True),
    (shards_without_index, "and no model.safetensors.index.json", True),
    (shard_is_absent, "lacks weight files that model.safetensors.index.json names: model-00002-of-00002", True),
    (cut_short, "has a model.safetensors that has ", True),
    (no_safetensors, "has a model.safetensors that is no safetensors file, or cut short: it has 26 bytes", True),
    (git_lfs_pointer, "that is only the pointer that Git LFS leaves in place of a file", True),
    (missing_tensor, "lacks 1 tensors that its config asks for: model.layers.1.mlp.up_proj.weight", False),
    (wrong_shape, "model.norm.weight is [32] and should be [64]", False),
    (quantised, "is quantised (gptq)", True),
    (remote_code, "is of a type whose code lies in the directory itself, and such code is never run", False),
    (unknown_type, "has a config that transformers does not take", False),
    (no_language_model, "is of type 'vit', which is no causal language model", False),
    (reward_model, "is a reward model or classifier", False),
    (no_tokenizer, "holds no tokenizer (tokenizer.json)", True),
    (broken_tokenizer, "has a tokenizer that transformers does not load", False),
    (no_template, "has no chat template", False),
    (no_end_of_turn, "can't chat: the chat template writes no special token behind the assistant's last answer", False),
    (no_padding, "has no padding token; choose one that means nothing else by pad_token: <|pad|>", False),
    (
        short_context,
        "has 100 positions (max_position_embeddings), and max_length is 128; lower max_length to 100",
        False,
    ),
    (larger_tokenizer, "has 400 embeddings, and its tokenizer has ids up to 400", False),
]


@pytest.mark.parametrize(("spoil", "sentence", "seen_by_plan"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_a_bad_base_is_refused_with_one_sentence(
    model: Path, spoil: Callable[[Path], None], sentence: str, seen_by_plan: bool
) -> None:
    spoil(model)
    findings = [str(finding) for finding in found(model)]
    assert len(findings) == 1, findings
    assert sentence in findings[0]
    assert [str(finding) for finding in light_findings(str(model))] == (findings if seen_by_plan else [])


@pytest.mark.parametrize("needs", [SFT, REWARD, ModelNeeds()])
def test_a_good_base_passes(model: Path, needs: ModelNeeds) -> None:
    assert found(model, needs) == []


def test_what_the_settings_give_is_not_missed(model: Path, tmp_path: Path) -> None:
    no_template(model)
    no_padding(model)
    (tmp_path / "given.jinja").write_text("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
    given = replace(SFT, chat_template_file=str(tmp_path / "given.jinja"), pad_token="<|pad|>")
    assert found(model, given) == []
    assert "can't chat: stop_token '<|no|>' is no token" in str(found(model, replace(given, stop_token="<|no|>"))[0])
    assert "has no token '<|no|>' (pad_token)" in str(found(model, replace(given, pad_token="<|no|>"))[0])


def test_every_problem_is_told_at_once(model: Path) -> None:
    for spoil in (cut_short, no_template, no_padding, short_context, quantised, larger_tokenizer):
        spoil(model)
    findings = [str(finding) for finding in found(model, ModelNeeds(True, True, 128, lora_targets=("wq",)))]
    assert len(findings) == 7
    assert any("there are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in text for text in findings)


def test_code_of_a_known_type_in_the_directory_is_neither_run_nor_asked_for(model: Path) -> None:
    change_json(model / "config.json", auto_map={"AutoModelForCausalLM": "own.OwnModel"})
    (model / "own.py").write_text("raise SystemExit('this code was run')")
    assert found(model) == []
    load_model(model)


def test_what_needs_nothing_of_the_tokenizer_asks_for_nothing(model: Path) -> None:
    no_template(model)
    no_padding(model)
    short_context(model)
    assert found(model, ModelNeeds()) == []


def test_no_weights_are_read(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    content = (model / "model.safetensors").read_bytes()
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    (model / "model.safetensors").write_bytes(content[:-size])
    with open(model / "model.safetensors", "r+b") as stream:
        stream.truncate(len(content))  # the same length, a hole in place of the values
    assert found(model) == []


@pytest.mark.parametrize("tied", [True, False])
def test_a_reward_model_needs_its_head_and_a_new_one_does_without_the_old(tmp_path: Path, tied: bool) -> None:
    directory = make_model_directory(tmp_path / "model")
    config = AutoConfig.from_pretrained(directory, tie_word_embeddings=tied)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    if not tied:
        drop_tensor(directory, "lm_head.weight")
        assert "lacks 1 tensors that its config asks for: lm_head.weight" in str(found(directory)[0])
        with pytest.raises(InputError, match=r"lacks 1 tensors.*lm_head\.weight"):
            load_model(directory)
    assert found(directory, REWARD) == []
    load_under_new_head(directory, num_labels=1)
    assert "is no reward model but LlamaForCausalLM" in str(found(directory, ModelNeeds(), "reward")[0])

    config.num_labels, config.pad_token_id = 1, 0
    AutoModelForSequenceClassification.from_config(config).save_pretrained(directory)
    assert found(directory, ModelNeeds(), "reward") == []
    drop_tensor(directory, "score.weight")
    assert "score.weight" in str(found(directory, ModelNeeds(), "reward")[0])
    with pytest.raises(InputError, match=r"score\.weight"):
        load_reward_model(directory)


@pytest.mark.parametrize("spoil", [missing_tensor, wrong_shape, pickles_only, no_weights, cut_short])
def test_a_worker_does_not_load_what_the_check_refuses(model: Path, spoil: Callable[[Path], None]) -> None:
    spoil(model)
    for load in (load_model, lambda path: load_under_new_head(path, num_labels=1)):
        with pytest.raises(InputError):
            load(model)


@pytest.mark.parametrize(
    "model_type", ["gpt2", "gpt_neox", "qwen2", "qwen3_moe", "mixtral", "gemma3_text", "phi3", "opt"]
)
def test_models_that_transformers_saves_pass_whatever_their_tensors_are_called(tmp_path: Path, model_type: str) -> None:
    directory = make_model_directory(tmp_path / "model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    more = {
        "intermediate_size": 48,
        "ffn_dim": 48,
        "word_embed_proj_dim": 32,
        "moe_intermediate_size": 16,
        "head_dim": 8,
    }
    default = AutoConfig.for_model(model_type).to_dict()
    renamed = {default_name: sizes[name] for name, default_name in _GPT2_NAMES.items() if default_name in default}
    config = AutoConfig.for_model(
        model_type,
        vocab_size=400,
        max_position_embeddings=128,
        num_local_experts=4,
        num_experts=4,
        **{name: value for name, value in {**sizes, **more}.items() if name in default},
        **renamed,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    assert found(directory) == []
    names = sorted(tensor_headers(str(directory / "model.safetensors")))
    drop_tensor(directory, names[len(names) // 2])
    assert "its config asks for" in str(found(directory)[0]) or "does not load" in str(found(directory)[0])


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    directory = make_model_directory(tmp_path / "model")
    config = AutoConfig.for_model(
        "bert", vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    (sentence,) = map(str, found(directory))
    assert "is an encoder, whose predictions depend on the tokens that are to be predicted" in sentence


_GPT2_NAMES = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}


def test_heads_are_those_that_safetensors_reads(model: Path) -> None:
    headers = tensor_headers(str(model / "model.safetensors"))
    tensors = load_file(model / "model.safetensors")
    assert {name: header.shape for name, header in headers.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    assert {header.dtype for header in headers.values()} == {"F32"}
    save_file({"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros(0)}, model / "b.safetensors")
    assert tensor_headers(str(model / "b.safetensors"))["a"].dtype == "BF16"


@pytest.mark.parametrize(
    "content", [b"", b"\x01", b"\xff" * 16, (10**9).to_bytes(8, "little") + b"{}", (5).to_bytes(8, "little") + b"{nope"]
)
def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CorruptArtifact):
        tensor_headers(str(tmp_path / "x.safetensors"))
