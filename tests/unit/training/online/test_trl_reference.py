"""Rewards, advantages, returns and losses against TRL's PPO, on frozen numbers.

They were made by executing, on CPU in float32, the source lines of `PPOTrainer.train` of trl 1.12.0
(`trl.experimental.ppo`, the last release with it) from `logr = ref_logprobs - logprobs` to the advantages, and from
`vpredclipped = ...` to `pg_clipfrac`, with the inputs below, kl_coef 0.1, gamma 0.99, lam 0.95, both clip ranges 0.2.
All answers fill their row, since TRL puts the score of a shorter one a slot after its end and we do not.
"""

import pytest
import torch

from training.online import kl
from training.online.advantages import gae, whiten
from training.online.losses import policy_loss, token_mean, value_loss
from training.online.rewards import token_rewards

LOGPROBS_BA = torch.tensor(
    [[-0.25, -0.89, -1.05, -1.21, -1.79], [-0.99, -0.46, -1.33, -0.24, -1.78], [-0.42, -0.23, -0.24, -0.34, -1.5]]
)
REFERENCE_BA = torch.tensor(
    [
        [0.155, -0.158, -0.99, -0.475, -1.181],
        [-0.456, -0.736, -1.468, -0.456, -1.396],
        [-0.717, 0.313, -0.42, 0.143, -0.921],
    ]
)
VALUES_BA = torch.tensor(
    [[-0.42, -0.08, -0.98, -1.25, -0.19], [0.28, 0.13, 0.33, -0.08, -0.92], [-1.89, 1.01, -0.69, 0.91, 0.11]]
)
SCORES_B = torch.tensor([0.61, 0.33, -0.88])
NEW_LOGPROBS_BA = torch.tensor(
    [
        [-0.67, -1.07, -0.81, -1.178, -1.652],
        [-0.457, -0.68, -1.85, 0.218, -1.918],
        [-0.16, -0.545, -0.135, -0.665, -1.392],
    ]
)
NEW_VALUES_BA = torch.tensor(
    [[-0.765, -0.323, -1.253, -1.271, 0.143], [0.019, 0.088, 0.129, 0.22, -0.968], [-1.686, 0.749, 0.06, 0.742, 0.458]]
)

# (KL estimator, whether rewards were whitened) -> what TRL made of it
TRL = {
    ("k1", False): {
        "rewards": [
            [0.040500, 0.073200, 0.006000, 0.073500, 0.670900],
            [0.053400, -0.027600, -0.013800, -0.021600, 0.368400],
            [-0.029700, 0.054300, -0.018000, 0.048300, -0.822100],
        ],
        "returns": [
            [0.588579, 0.586963, 0.597845, 0.695077, 0.670900],
            [0.265917, 0.219119, 0.244959, 0.279340, 0.368400],
            [-0.535346, -0.590793, -0.649588, -0.719440, -0.822100],
        ],
        "advantages": [
            [0.624720, 0.310840, 1.147767, 1.485183, 0.489031],
            [-0.314911, -0.220088, -0.380108, 0.028193, 0.881822],
            [0.942697, -1.772795, -0.264841, -1.799117, -1.158394],
        ],
    },
    ("k1", True): {
        "rewards": [
            [0.063967, 0.172493, -0.050534, 0.173489, 2.156168],
            [0.106780, -0.162047, -0.116247, -0.142134, 1.152216],
            [-0.169016, 0.109767, -0.130186, 0.089854, -2.798870],
        ],
        "returns": [
            [1.900696, 1.957139, 1.949129, 2.191959, 2.156168],
            [0.615225, 0.533770, 0.722468, 0.895986, 1.152216],
            [-2.233807, -2.248576, -2.471226, -2.537038, -2.798870],
        ],
        "advantages": [
            [0.853131, 0.729266, 1.118912, 1.342930, 0.864258],
            [-0.014178, 0.015764, 0.010827, 0.265724, 0.744588],
            [-0.310799, -1.584051, -0.938703, -1.666377, -1.431290],
        ],
    },
    ("k3", False): {
        "rewards": [
            [-0.009430, -0.034724, -0.000184, -0.035048, 0.587041],
            [-0.017174, -0.003481, -0.000910, -0.002174, 0.321585],
            [-0.004004, -0.017816, -0.001527, -0.013793, -0.900525],
        ],
        "returns": [
            [0.275762, 0.307445, 0.415394, 0.507659, 0.587041],
            [0.208961, 0.233599, 0.234711, 0.254738, 0.321585],
            [-0.675921, -0.767583, -0.760884, -0.855292, -0.900525],
        ],
        "advantages": [
            [0.455307, 0.167635, 1.108091, 1.446098, 0.531143],
            [-0.260148, -0.097204, -0.282775, 0.118457, 0.964582],
            [0.938917, -1.852420, -0.260004, -1.840952, -1.136726],
        ],
    },
    ("k3", True): {
        "rewards": [
            [-0.010874, -0.095146, 0.019933, -0.096228, 1.976434],
            [-0.036675, 0.008946, 0.017514, 0.013303, 1.091996],
            [0.007203, -0.038815, 0.015457, -0.025410, -2.979805],
        ],
        "returns": [
            [1.271466, 1.367677, 1.606946, 1.753204, 1.976434],
            [0.833098, 0.917957, 0.949150, 0.994786, 1.091996],
            [-2.305955, -2.512657, -2.594032, -2.822471, -2.979805],
        ],
        "advantages": [
            [0.654783, 0.546409, 1.052859, 1.237902, 0.865925],
            [0.148733, 0.253137, 0.178096, 0.380644, 0.797271],
            [-0.282049, -1.663101, -0.943558, -1.756372, -1.470681],
        ],
    },
}
TRL_LOSSES = {"pg_loss": -0.041066, "vf_loss": 0.662149, "pg_clipfrac": 0.400000, "vf_clipfrac": 0.266667}
MASK_BA = torch.ones(3, 5, dtype=torch.bool)


def ours(estimator: str, whiten_rewards: bool) -> dict[str, torch.Tensor]:
    penalty_BA = kl.ESTIMATORS[estimator](LOGPROBS_BA, REFERENCE_BA)
    rewards_BA = token_rewards(SCORES_B, penalty_BA, MASK_BA, kl_coef=0.1)
    if whiten_rewards:
        rewards_BA = whiten(rewards_BA, MASK_BA, shift_mean=False)
    advantages_BA, returns_BA = gae(rewards_BA, VALUES_BA, MASK_BA, gamma=0.99, gae_lambda=0.95)
    return {"rewards": rewards_BA, "returns": returns_BA, "advantages": whiten(advantages_BA, MASK_BA)}


@pytest.mark.parametrize(("estimator", "whiten_rewards"), TRL)
def test_rewards_returns_and_advantages_are_trls(estimator, whiten_rewards):
    found = ours(estimator, whiten_rewards)
    for name, expected in TRL[estimator, whiten_rewards].items():
        assert torch.allclose(found[name], torch.tensor(expected), atol=2e-6), name


def test_losses_and_clip_fractions_are_trls():
    made = ours("k1", False)
    loss_BA, clipped_BA = policy_loss(NEW_LOGPROBS_BA, LOGPROBS_BA, made["advantages"], clip_range=0.2, dual_clip=None)
    value_loss_BA, value_clipped_BA = value_loss(NEW_VALUES_BA, VALUES_BA, made["returns"], clip_range=0.2)
    found = {
        "pg_loss": token_mean(loss_BA, MASK_BA, 15),
        "vf_loss": token_mean(value_loss_BA, MASK_BA, 15),
        "pg_clipfrac": clipped_BA.float().mean(),
        "vf_clipfrac": value_clipped_BA.float().mean(),
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(TRL_LOSSES, abs=2e-6)
