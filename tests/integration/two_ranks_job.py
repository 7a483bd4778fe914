"""What `torchrun` starts in `test_post_training_trouble.py`: SFT of two ranks, on from checkpoints of one."""

import sys
from pathlib import Path

from tests.integration.test_post_training import context
from tests.integration.test_post_training_trouble import resized_config, sft_inputs
from training.launch.workers import run_in_process
from training.post_training import sft

if __name__ == "__main__":
    root = Path(sys.argv[1])
    for name in sys.argv[2:]:
        config = resized_config(name, num_workers=2)
        sft.run(config, sft_inputs(root), str(root / name), context(root, "sft"), launch=run_in_process)
