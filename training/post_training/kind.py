"""The stages that TRL trains as kinds: what the runner and the report know of them."""

from __future__ import annotations

from cluster.contracts.stage_kind import StageKind
from training.post_training.config import DpoConfig, KtoConfig, RewardModelConfig, SftConfig
from training.post_training.report_figures import DPO_FIGURES, KTO_FIGURES, REWARD_MODEL_FIGURES, SFT_FIGURES

_CHECK_SETTINGS = "training.post_training.trl_arguments:check_blocks"

_SFT_EXAMPLE = """\
stages:
  sft:
    model: pretrain
    conversations: conversations
    epochs: 3
    lr: 1e-4
    max_length: 1024
    global_batch_size: 32
    micro_batch_size: 4
    lora: {rank: 16, alpha: 32}
    workers: {num_workers: 2, cpus: 1}
"""

SFT = StageKind(
    config=SftConfig,
    function="training.post_training.sft:run",
    runs_on_workers=True,
    check_settings=_CHECK_SETTINGS,
    import_ahead="training.engine.import_ahead:import_for_post_training",
    summary="fine-tune on conversations",
    makes=(
        "A Hugging Face model directory (adapters merged, or alone), with its loss on held-out answers before and "
        "after."
    ),
    example=_SFT_EXAMPLE,
    figures=SFT_FIGURES,
    model="policy",
    runs_without_ray=True,
)

_REWARD_MODEL_EXAMPLE = """\
stages:
  reward_model:
    model: sft
    preferences: preferences
    compare: every_token
    epochs: 1.5
    lr: 1e-4
    max_length: 512
    workers: {num_workers: 2, cpus: 1}
"""

REWARD_MODEL = StageKind(
    config=RewardModelConfig,
    function="training.post_training.reward_model:run",
    runs_on_workers=True,
    check_settings=_CHECK_SETTINGS,
    import_ahead="training.engine.import_ahead:import_for_post_training",
    summary="train a reward model on pairs, rankings or scores",
    makes=(
        "A Hugging Face sequence-classification directory that gives a conversation one score, with the mean and "
        "spread of its rewards (`reward_scale.json`), its accuracy on held-out pairs, also by subset, its calibration, "
        "and Kendall's tau with held-out rankings."
    ),
    example=_REWARD_MODEL_EXAMPLE,
    figures=REWARD_MODEL_FIGURES,
    model="reward",
    runs_without_ray=True,
)

_DPO_EXAMPLE = """\
stages:
  dpo:
    model: sft
    preferences: preferences
    beta: 0.1
    epochs: 1
    lr: 5e-6
    sft_loss_weight: 0.1
    workers: {num_workers: 2, cpus: 1}
"""

DPO = StageKind(
    config=DpoConfig,
    function="training.post_training.dpo:run",
    runs_on_workers=True,
    check_settings=_CHECK_SETTINGS,
    import_ahead="training.engine.import_ahead:import_for_post_training",
    summary="align by direct preference optimisation",
    makes="A Hugging Face model directory (adapters merged, or alone), with its accuracy on held-out pairs.",
    example=_DPO_EXAMPLE,
    figures=DPO_FIGURES,
    model="policy",
    runs_without_ray=True,
)

_KTO_EXAMPLE = """\
stages:
  kto:
    model: sft
    preferences: preferences
    beta: 0.1
    epochs: 1
    lr: 5e-6
    global_batch_size: 32
    micro_batch_size: 8
    workers: {num_workers: 2, cpus: 1}
"""

KTO = StageKind(
    config=KtoConfig,
    function="training.post_training.kto:run",
    check_settings=_CHECK_SETTINGS,
    runs_on_workers=True,
    import_ahead="training.engine.import_ahead:import_for_post_training",
    summary="align by thumbs up and down, without pairs",
    makes="A Hugging Face model directory (adapters merged, or alone), with its figures on held-out answers.",
    example=_KTO_EXAMPLE,
    figures=KTO_FIGURES,
    model="policy",
    runs_without_ray=True,
)
