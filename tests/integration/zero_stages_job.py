"""What `torchrun` starts in `test_pretrain.py`: the same run under ZeRO 0 to 3, in one pair of processes."""

import sys
from pathlib import Path

from cluster.contracts.artifacts import StageContext, open_artifact
from cluster.contracts.progress import SilentProgress
from tests.integration.test_pretrain import tiny_config
from training.pretrain import run
from training.workers import run_in_process

if __name__ == "__main__":
    root = Path(sys.argv[1])
    inputs = {"tokens": open_artifact(str(root / "tokens")), "tokenizer": open_artifact(str(root / "tokenizer"))}
    context = StageContext("base", SilentProgress(), root / "scratch", root / "logs")
    for zero_stage in range(4):
        output = str(root / f"zero{zero_stage}")
        run(tiny_config(num_workers=2, zero_stage=zero_stage), inputs, output, context, launch=run_in_process)
