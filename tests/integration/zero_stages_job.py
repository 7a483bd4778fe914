"""What `torchrun` starts in `test_pretrain.py`: runs of two workers under ZeRO 0 to 3, in one pair of processes.

Of each stage: the short run of the tests, one of 50 steps, and one that goes on from the checkpoint of one worker. Then
runs in which the loss of one rank goes wrong.
"""

import os
import sys
from pathlib import Path

from cluster.contracts.artifacts import StageContext, open_artifact
from cluster.contracts.progress import SilentProgress
from tests.integration.poison import poisoned_loss
from tests.integration.test_pretrain import BAD_STEPS, resized_config, tiny_config
from training.launch.workers import run_in_process
from training.pretrain.stage import run

if __name__ == "__main__":
    root = Path(sys.argv[1])
    inputs = {"tokens": open_artifact(str(root / "tokens")), "tokenizer": open_artifact(str(root / "tokenizer"))}
    context = StageContext("base", SilentProgress(), root / "scratch", root / "logs")
    for stage in range(4):
        for name, config in (
            (f"zero{stage}", tiny_config(num_workers=2, zero_stage=stage)),
            (f"two{stage}", resized_config(num_workers=2, zero_stage=stage)),
            (f"one_then_two{stage}", resized_config(num_workers=2, zero_stage=stage)),
        ):
            run(config, inputs, str(root / name), context, launch=run_in_process)
    rank = int(os.environ["RANK"])
    for name, bad in BAD_STEPS.items():
        with poisoned_loss(bad.factors(num_workers=2) if rank == 1 else {}):
            run(bad.config(num_workers=2), inputs, str(root / f"two_{name}"), context, launch=run_in_process)
