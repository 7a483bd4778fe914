"""Bar 4: how far the logits of an exported model lie from those of the model that was trained, for every LoRA target.

SFT trains adapters on a made-up model, tied and untied, at ZeRO 0 to 3, in this process. The stage itself holds each
export against the trained engine before it is committed; the logits and the rows that it does so with are noted here,
and the exported directory is loaded once more by plain transformers.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.figures import Figure
from benchmarks.post_training.parity import Case, make_inputs, run_ours

TARGETS: dict[str, dict[str, Any]] = {
    "all-linear": {},
    "attention": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "mlp": {"target_modules": ["gate_proj", "up_proj", "down_proj"], "modules_to_save": ["norm"]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "whole head": {"modules_to_save": ["lm_head"]},
    "whole embeddings and head": {"modules_to_save": ["embed_tokens", "lm_head"]},
}


def export_difference(root: Path, lora: dict[str, Any], *, zero_stage: int) -> float:
    """The largest difference of any logit between an SFT's trained model and its export, both fp32."""
    from transformers import AutoModelForCausalLM

    from training.post_training import adapters, trl_export

    seen: list[tuple[torch.Tensor, Sequence[Sequence[int]]]] = []

    def compare(exported: Any, logits: torch.Tensor, rows: Sequence[Sequence[int]], **keywords: Any) -> None:
        seen.append((logits, rows))
        adapters.compare_logits(exported, logits, rows, **keywords)  # type: ignore[arg-type]

    case = Case("sft", zero_stage=zero_stage, lora=True)
    with patch.object(trl_export, "compare_logits", compare):
        run_ours(root, case, lora={"rank": 4, **lora}, lr=0.05, epochs=0.5)
    trained_logits, rows = seen[-1]
    model = AutoModelForCausalLM.from_pretrained(root / case.name).eval()
    with torch.no_grad():
        exported = torch.cat([model(input_ids=torch.tensor([list(row)])).logits[0] for row in rows])
    return float((exported - trained_logits).abs().max())


def figures() -> list[Figure]:
    """The largest difference over all targets, tied and untied, ZeRO 0 to 3."""
    import torch.distributed as dist
    from transformers import AutoConfig, AutoModelForCausalLM

    os.environ["HF_HUB_OFFLINE"] = "1"
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="raymill-exports-") as directory:
        dist.init_process_group("gloo", store=dist.FileStore(f"{directory}/group", 1), rank=0, world_size=1)
        try:
            for tied, zero_stage, name in product((True, False), range(4), TARGETS):
                root = Path(directory) / f"{tied}-{zero_stage}-{name.replace(' ', '_')}"
                root.mkdir()
                make_inputs(root, num_conversations=20)
                if not tied:
                    config = AutoConfig.from_pretrained(root / "model", tie_word_embeddings=False)
                    torch.manual_seed(1)
                    AutoModelForCausalLM.from_config(config).save_pretrained(root / "model")
                label = f"{'tied' if tied else 'untied'}, ZeRO {zero_stage}, {name}"
                found[label] = export_difference(root, TARGETS[name], zero_stage=zero_stage)
        finally:
            dist.destroy_process_group()
    worst = max(found, key=found.__getitem__)
    note = f"{len(found)} exports; the largest: {worst}"
    return [
        Figure(
            "4",
            "largest logit difference of LoRA exports",
            "logit",
            found[worst],
            1e-5,
            at_most=True,
            module="post_training",
            note=note,
        )
    ]
