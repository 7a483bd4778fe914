import subprocess
import sys

import pytest
from pydantic import ValidationError

from serving.config import ServerConfig


def test_the_config_module_loads_without_heavy_libraries() -> None:
    code = "import serving.config, sys; print({'ray', 'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_an_engine_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValidationError, match="Input should be 'torch'"):
        ServerConfig.model_validate({"engine": "vllm"})


def test_totals_count_all_replicas() -> None:
    config = ServerConfig(num_replicas=3, cpus=0.5, gpus=1)
    assert (config.total_cpus, config.total_gpus, config.num_threads) == (1.5, 3, 1)
