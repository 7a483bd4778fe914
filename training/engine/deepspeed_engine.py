"""The DeepSpeed engine of our own training loops. This is the only file that calls DeepSpeed.

`build_engine` builds the engine from the settings that `deepspeed_config.py` makes. The other functions ask an engine
what it is, tell it which pass of a step comes next, take the whole model out of it, and save and load it.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed as dist

from cluster.contracts.errors import StageFailed
from training.checkpoint.store import FileWriter
from training.engine.host_snapshot import HostBuffers
from training.models import layers_of

CHECKPOINT_TAG = "engine"  # of what each rank saved
UNIVERSAL_TAG = "universal"  # of what `convert_to_universal` makes of it
_SUM = "raymill_gradient_sum"  # attribute of a parameter
_BEGUN = "raymill_sums_begun"  # attribute of an engine


def load_deepspeed() -> Any:
    """Import `deepspeed`, quietly and without it compiling anything. Call this before any other import of it.

    On CPU it would build a shared-memory kernel at the first process group (half a minute, and it needs a
    compiler); gloo is used instead.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    try:
        with _silenced_stderr():
            import deepspeed
    except ImportError as error:
        raise StageFailed(f"DeepSpeed is asked for and can't be imported ({error}); run `make setup`") from error
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # of calls DeepSpeed makes
    return deepspeed


@contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Drop what subprocesses write to stderr: at its import, DeepSpeed tries to link a library it can do without."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def weight_decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: decay on matrices (embeddings included), none on biases and norms."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def build_engine(
    model: torch.nn.Module,
    *,
    config: Mapping[str, Any],
    parameters: Iterable[Any] | None = None,
) -> Any:
    """A `DeepSpeedEngine` over `model` by a config from `deepspeed_config`; the process group must be up.

    `parameters` are tensors or AdamW parameter groups; without them, decay groups by the config's own
    weight decay. Sets the engine's type against the config at once, so a run that isn't DeepSpeed's stops here.
    """
    deepspeed = load_deepspeed()
    if parameters is None:
        parameters = weight_decay_groups(model, config["optimizer"]["params"]["weight_decay"])
    if config["bf16"]["enabled"]:
        model = model.to(torch.bfloat16)
    zero_stage = config["zero_optimization"]["stage"]
    if zero_stage == 3 and (classes := leaf_classes(model)):
        # A layer's weights are gathered at once, not those of each module in it, whose hooks cost 5% on a CPU.
        deepspeed.utils.set_z3_leaf_modules(model, classes)
    engine, _, _, _ = deepspeed.initialize(model=model, model_parameters=list(parameters), config=dict(config))
    assert_engine(engine, zero_stage=zero_stage, world_size=dist.get_world_size())
    guard_steps(engine)
    return engine


def guard_steps(engine: Any) -> None:
    """Have a new engine apply no gradient that isn't finite, and know the norm of every step's gradients.

    Call it before anything is loaded into the engine. Libraries that build an engine of their own leave DeepSpeed's
    ways as they are: at ZeRO-0 in fp32 it writes nan into every weight.
    """
    zero_stage = engine.zero_optimization_stage()
    if zero_stage == 0 and dist.get_world_size() == 1:
        engine.enable_backward_allreduce = False  # one rank has nothing to add up, and would copy all gradients twice
    if not engine.zero_optimization():
        if engine.bfloat16_enabled():
            _undo_first_step(engine.optimizer)
        else:
            _guard_plain_optimizer(engine)
    elif zero_stage < 3:
        _forget_bad_gradients(engine.optimizer)


def leaf_classes(model: torch.nn.Module) -> list[type[torch.nn.Module]]:
    """The classes of layers whose weights ZeRO-3 may gather at once. Empty where a model's layers don't allow it.

    Two things are asked of a layer: that it runs once in a pass, which is so in models that have as many layers as
    their config says, and that it shares its weights with no other module.
    """
    layers = layers_of(model)
    if len({id(layer) for layer in layers}) != getattr(getattr(model, "config", None), "num_hidden_layers", None):
        return []
    inside = {id(module) for layer in layers for module in layer.modules()}
    of_layers = {id(p) for layer in layers for p in layer.parameters()}
    others = (module for module in model.modules() if id(module) not in inside)
    if any(id(p) in of_layers for module in others for p in module.parameters(recurse=False)):
        return []
    return sorted({type(layer) for layer in layers}, key=lambda kind: kind.__name__)


def _undo_first_step(optimizer: Any) -> None:
    """Take back the step on gradients of zero by which DeepSpeed makes AdamW's state at ZeRO-0 in bf16.

    It decays the fp32 masters once, at the full rate, and counts as a step in AdamW's bias correction.
    """
    for masters, weights in zip(optimizer.fp32_groups, optimizer.fp16_groups, strict=True):
        for master, weight in zip(masters, weights, strict=True):
            master.data.copy_(weight.data)
    optimizer.optimizer.state.clear()  # made again by the first step that counts


def _guard_plain_optimizer(engine: Any) -> None:
    """Give ZeRO-0 in fp32 what DeepSpeed's other optimizers have: a gradient that isn't finite is not applied.

    There the engine steps torch's own optimizer, clips without keeping the norm, and would write nan into every weight.
    """
    optimizer, max_norm = engine.optimizer, engine.gradient_clipping() or math.inf
    apply = optimizer.step
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def step(*arguments: Any, **keywords: Any) -> None:
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.overflow = not math.isfinite(float(norm))
        optimizer._global_grad_norm = float("inf") if optimizer.overflow else norm
        if not optimizer.overflow:
            apply(*arguments, **keywords)

    engine.clip_fp32_gradients = lambda: None
    optimizer.step = step


def _forget_bad_gradients(optimizer: Any) -> None:
    """Have ZeRO-1 and ZeRO-2 drop all gradients of a step that was not applied, offloaded ones too.

    With an offloaded optimizer DeepSpeed keeps their sum in `averaged_gradients`, where a nan would outlive every later
    step.
    """
    apply = optimizer.step

    def step(*arguments: Any, **keywords: Any) -> Any:
        result = apply(*arguments, **keywords)
        if optimizer.overflow:
            _forget_sums(optimizer)
        return result

    optimizer.step = step


def _forget_sums(optimizer: Any) -> None:
    for group in optimizer.averaged_gradients:
        optimizer.averaged_gradients[group] = None


def set_global_batch_size(engine: Any, sequences: int) -> None:
    """How many sequences the next optimizer step has, over all ranks; a multiple of micro batch times ranks."""
    if engine.train_batch_size() != sequences:
        engine.set_train_batch_size(sequences)


def begin_pass(engine: Any, *, last: bool) -> None:
    """Say whether the coming forward and backward pass is the last of an optimizer step.

    DeepSpeed would tell by counting passes over the whole run. That goes wrong after a resume, and where steps have
    different numbers of passes. In bf16 below ZeRO-2, the gradients of the passes so far are summed in fp32, and given
    back, rounded once, for the last pass to add to. From ZeRO-2 on DeepSpeed does the same by itself
    (`accumulate_in_fp32`).
    """
    engine.set_gradient_accumulation_boundary(last)
    if engine.bfloat16_enabled() and engine.zero_optimization_stage() < 2:
        begun = _accumulate_in_fp32(engine.module, last=last, begun=getattr(engine, _BEGUN, False))
        setattr(engine, _BEGUN, begun)


def _accumulate_in_fp32(model: torch.nn.Module, *, last: bool, begun: bool) -> bool:
    """Move what a pass left in `grad` to an fp32 sum beside it. Before the last pass, give the sums back to `grad`.

    `begun` says whether there are sums of earlier passes of this step; what is returned is the same for the pass to
    come. A parameter need not be part of every pass. Steps of one pass make no sums. Others keep the sums' tensors from
    step to step (4 bytes a parameter), because large tensors are expensive to make.
    """
    for parameter in model.parameters():
        if parameter.grad is not None:
            if getattr(parameter, _SUM, None) is None:
                setattr(parameter, _SUM, torch.zeros_like(parameter, dtype=torch.float32))
            getattr(parameter, _SUM).add_(parameter.grad)
            parameter.grad, begun = None, True
    if not (begun and last):
        return begun
    for parameter in model.parameters():
        summed = getattr(parameter, _SUM, None)
        if summed is not None:
            parameter.grad = summed.to(parameter.dtype, copy=True)
            summed.zero_()
    return False


def gradient_norm(engine: Any) -> float:
    """The global norm of the last step's gradients, before clipping. Not finite where the step was not applied."""
    return float(engine.get_global_grad_norm())


def engine_record(engine: Any) -> dict[str, Any]:
    """What trains, as found at run time: class, ZeRO stage and world size."""
    stage = engine.zero_optimization_stage() if hasattr(engine, "zero_optimization_stage") else None
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    return {"class": type(engine).__name__, "zero_stage": stage, "world_size": world_size}


def assert_engine(engine: Any, *, zero_stage: int, world_size: int) -> dict[str, Any]:
    """`engine_record(engine)`. Raises `StageFailed` unless it is DeepSpeed's, at this ZeRO stage, on this many ranks.

    Libraries above DeepSpeed fall back to plain DDP, or to one process, without a word; this is how we notice.
    """
    found = engine_record(engine)
    wanted = {"class": "DeepSpeedEngine", "zero_stage": zero_stage, "world_size": world_size}
    if found != wanted:
        raise StageFailed(f"the training engine is {found}, and {wanted} was asked for")
    return found


def set_lr(engine: Any, lr: float) -> None:
    """Set the learning rate of all parameter groups for the next step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def full_state_dict(engine: Any) -> dict[str, torch.Tensor]:
    """The whole model's weights as CPU tensors by name on rank 0, an empty dict on the others. All ranks call it.

    Under ZeRO-3 one module's parameters are gathered at a time. So rank 0 needs host memory for one copy of the model,
    and each device needs memory for the largest module.
    """
    module = engine.module
    is_main = dist.get_rank() == 0
    if engine.zero_optimization_stage() < 3:
        return {name: t.detach().cpu().clone() for name, t in module.state_dict().items()} if is_main else {}
    deepspeed = load_deepspeed()
    state: dict[str, torch.Tensor] = {}
    for prefix, child in module.named_modules(remove_duplicate=False):
        own = dict(child.named_parameters(recurse=False, remove_duplicate=False))
        with deepspeed.zero.GatheredParameters(list(own.values()), modifier_rank=None):
            if is_main:
                state.update({_join(prefix, n): p.detach().cpu().clone() for n, p in own.items()})
        if is_main:
            state.update({_join(prefix, n): b.detach().cpu().clone() for n, b in _saved_buffers(child)})
    return state


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _saved_buffers(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, buffer in module.named_buffers(recurse=False):
        if name not in module._non_persistent_buffers_set:
            yield name, buffer


def engine_files(
    engine: Any, buffers: HostBuffers | None = None, *, scratch: Path | None = None
) -> dict[str, FileWriter]:
    """This rank's part of weights, optimizer and random state: files by name, not written yet. All ranks call it.

    What rank 0 has, every rank needs at loading: `CheckpointStore.load(ranks=(0, rank))`. With `buffers` the files
    hold a snapshot of this moment, and may be written while the engine trains on; without, the engine's own
    tensors, which must not change before they are written. An optimizer offloaded to NVMe is copied to a directory
    below `scratch`, which is removed once the files are forgotten. Weights that are not trained, as of a model with
    adapters, are left out: whoever loads the files has them already.
    """
    if buffers is not None:
        buffers.begin()
    files: dict[str, FileWriter] = {}
    directory = tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True)
    with _collecting(engine, Path(directory.name), files, buffers):
        engine.save_checkpoint(
            directory.name, tag=CHECKPOINT_TAG, save_latest=False, exclude_frozen_parameters=_has_frozen(engine)
        )
    # DeepSpeed writes scripts beside its files, and copies what it keeps on NVMe, past its checkpoint engine.
    copied = [path for path in Path(directory.name).rglob("*") if path.is_file() and path.suffix != ".py"]
    for path in copied:
        files[path.relative_to(directory.name).as_posix()] = partial(_copy_file, path, directory)
    if not copied:
        directory.cleanup()
    files[random_state_name(dist.get_rank())] = partial(torch.save, _random_state(engine))
    return files


def _copy_file(source: Path, keeps_alive: object, sink: BinaryIO) -> None:
    with open(source, "rb") as stream:
        shutil.copyfileobj(stream, sink, 1 << 20)


@contextmanager
def _collecting(
    engine: Any, directory: Path, files: dict[str, FileWriter], buffers: HostBuffers | None
) -> Iterator[None]:
    """Have what the engine would write below `directory` put into `files` instead."""
    checkpoint_engine = engine.checkpoint_engine

    class Collector(type(checkpoint_engine)):  # type: ignore[misc]
        def save(self, state_dict: Any, path: str) -> None:
            content = state_dict if buffers is None else buffers.copy(state_dict)
            files[Path(path).relative_to(directory).as_posix()] = partial(torch.save, content)

    engine.checkpoint_engine = Collector(None)
    try:
        yield
    finally:
        engine.checkpoint_engine = checkpoint_engine


def save_engine(engine: Any, directory: Path) -> None:
    """Write `engine_files` into a local directory of this rank's own. All ranks call it."""
    for name, write in engine_files(engine).items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        with open(directory / name, "wb") as sink:
            write(sink)


def load_engine(engine: Any, directory: Path) -> None:
    """Bring a new engine of the same model, ZeRO stage and world size to the state that `engine_files` had."""
    _load_checkpoint(engine, directory, CHECKPOINT_TAG)
    _load_random_state(directory)


def convert_to_universal(directory: Path, *, zero_stage: int) -> None:
    """Make what all ranks of an engine saved, gathered in `directory`, loadable by any number of ranks.

    DeepSpeed's own conversion: for each parameter, the ranks' pieces of master weights and AdamW's moments are put
    together and written as one file each. It runs in this process; needs disk for twice the checkpoint.
    """
    load_deepspeed()
    with _silenced_stderr():
        from deepspeed.checkpoint import ds_to_universal
    options = argparse.Namespace(
        input_folder=str(directory / CHECKPOINT_TAG),
        output_folder=str(directory / UNIVERSAL_TAG),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        # Below stage 3 the conversion asks for a record that only Megatron's models bring; an empty one will do.
        inject_missing_state=zero_stage < 3,
    )
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        ds_to_universal.main(options)


def saved_weights(directory: Path, *, zero_stage: int) -> dict[str, torch.Tensor]:
    """The whole model's weights from all ranks' files in `directory`: fp32 masters, or at stage 0 what trained."""
    load_deepspeed()
    if zero_stage == 0:
        saved = torch.load(directory / CHECKPOINT_TAG / "mp_rank_00_model_states.pt", "cpu", weights_only=False)
        return dict(saved["module"])
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        return dict(get_fp32_state_dict_from_zero_checkpoint(str(directory), tag=CHECKPOINT_TAG))


def load_resized_engine(engine: Any, directory: Path, *, seed: int) -> None:
    """Bring a new engine of the same model and ZeRO stage to a state saved by another number of ranks.

    `directory` has all ranks' files, beyond stage 0 after `convert_to_universal`. Ranks that the checkpoint has a
    random state of go on with it; for others one is drawn from `seed` and the rank.
    """
    if engine.zero_optimization_stage() == 0:
        _load_checkpoint(engine, directory, CHECKPOINT_TAG)
    else:
        groups = [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
        engine._config.load_universal_checkpoint = True  # a setting of the engine's, but one that only loading asks for
        try:
            _load_checkpoint(engine, directory, UNIVERSAL_TAG)
        finally:
            engine._config.load_universal_checkpoint = False
        # Loading at stage 3 gives all parameter groups the settings of the first, so norms would be decayed, and
        # one tensor to count their steps, so it would count each step once per group.
        for group, settings in zip(engine.optimizer.param_groups, groups, strict=True):
            group.update(settings)
        for state in engine.optimizer.optimizer.state.values():
            state["step"] = state["step"].clone()
    if (directory / random_state_name(dist.get_rank())).exists():
        _load_random_state(directory)
    else:
        torch.manual_seed(seed + dist.get_rank())


def _load_checkpoint(engine: Any, directory: Path, tag: str) -> None:
    loaded, _ = engine.load_checkpoint(str(directory), tag=tag, load_module_strict=not _has_frozen(engine))
    if loaded is None:
        raise StageFailed(f"DeepSpeed found no checkpoint in {directory}")
    if engine.zero_optimization_stage() in (1, 2):
        _forget_sums(engine.optimizer)


def _has_frozen(engine: Any) -> bool:
    return any(not parameter.requires_grad for parameter in engine.module.parameters())


def _load_random_state(directory: Path) -> None:
    random_state = torch.load(directory / random_state_name(dist.get_rank()), weights_only=True)
    torch.set_rng_state(random_state["cpu"])
    if "cuda" in random_state:
        torch.cuda.set_rng_state(random_state["cuda"])


def _random_state(engine: Any) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if engine.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def random_state_name(rank: int) -> str:
    """The file of a checkpoint with a rank's random state."""
    return f"random_state_rank_{rank:05d}.pt"
