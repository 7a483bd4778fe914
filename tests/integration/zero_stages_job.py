"""What `torchrun` starts in `test_pretrain.py`: runs of two workers under ZeRO 0 to 3, in one pair of processes.

Of each stage: the short run of the tests, one of 50 steps, and one that goes on from the checkpoint of one worker.
"""

import sys
from pathlib import Path

from cluster.contracts.artifacts import StageContext, open_artifact
from cluster.contracts.progress import SilentProgress
from tests.integration.test_pretrain import resized_config, tiny_config
from training.pretrain import run
from training.workers import run_in_process

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
