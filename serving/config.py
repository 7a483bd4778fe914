"""What a spec says about the servers. Imports nothing heavy, since `raymill plan` loads it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.contracts.config import Resources, StrictModel


class ServerConfig(Resources):
    """One deployment: its replicas, what each of them owns, and how far it batches.

    `cpus`, `gpus`, `threads` and `memory_gib` are those of one replica.
    """

    engine: Literal["torch"] = "torch"
    """What computes the answers: a Hugging Face model under torch, on CPUs and GPUs. It is the only one."""

    num_replicas: int = Field(1, ge=1)
    """Copies of the model, each a process with its own engine and its own memory."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the weights. `auto` keeps the format in which they are stored."""

    max_batch_size: int = Field(64, ge=1)
    """Most sequences that one forward pass takes together."""

    max_batch_tokens: int = Field(32_768, ge=64)
    """Most tokens of one batch, padding included. It is the size of a policy's KV cache, so memory grows with it."""

    max_prefill_tokens: int = Field(4_096, ge=1)
    """Most prompt tokens that are admitted between two decoding steps. More fill the batch sooner and make answers
    under way wait longer. A longer prompt is admitted by itself.
    """

    max_model_len: int | None = Field(None, ge=2)
    """Most tokens of a prompt and its answer together. `null` takes what the model's positions and the KV cache allow.
    """

    max_ongoing_requests: int = Field(256, ge=1)
    """Most calls that one replica works on at the same time."""

    max_queued_requests: int = Field(1_024, ge=-1)
    """Most calls that wait at each caller; more are refused with status 429. -1 sets no limit."""

    bucket_mib: int = Field(256, ge=1)
    """Size of the pieces in which new weights travel to the replicas, in MiB."""

    startup_timeout_s: float = Field(600.0, gt=0)
    """Seconds that all replicas may take to become ready."""

    update_timeout_s: float = Field(300.0, gt=0)
    """Seconds that the replicas may take to switch to new weights."""

    request_timeout_s: float = Field(1_800.0, gt=0)
    """Seconds that one batch of rollouts or scores may take."""

    health_check_period_s: float = Field(2.0, gt=0)
    """Seconds between two checks whether a replica is alive."""

    @property
    def total_cpus(self) -> float:
        """CPUs that all replicas reserve together."""
        return self.num_replicas * self.cpus

    @property
    def total_gpus(self) -> float:
        """GPUs that all replicas reserve together."""
        return self.num_replicas * self.gpus


class HttpLimits(StrictModel):
    """What one HTTP request may ask for."""

    max_body_bytes: int = Field(1 << 20, ge=1024)
    """Largest request body, in bytes. Larger ones are answered with status 413."""

    max_ongoing_requests: int = Field(512, ge=1)
    """Most requests that the HTTP app works on at the same time."""

    max_queued_requests: int = Field(512, ge=-1)
    """Most requests that wait beyond those; more are answered with status 429. -1 sets no limit."""

    retry_after_s: int = Field(2, ge=1)
    """Seconds that a 429 tells the client to wait."""

    request_timeout_s: float = Field(300.0, gt=0)
    """Seconds after which an unfinished answer is cut off."""

    default_max_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens, where the request names no length."""

    max_choices: int = Field(16, ge=1)
    """Largest `n` of a request, and most conversations of one score request."""
