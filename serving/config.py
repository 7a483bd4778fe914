"""What a spec says about the servers. Imports nothing heavy, since `raymill plan` loads it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cluster.contracts.config import Resources, StrictModel


class ServerConfig(Resources):
    """One deployment: its replicas, what each of them owns, and how far it batches.

    `cpus`, `gpus`, `threads` and `memory_gib` are those of one replica.
    """

    engine: Literal["torch", "vllm"] = Field("torch")
    """What generates; see `serving.engine`."""

    num_replicas: int = Field(1, ge=1)
    """Copies of the model, each with its own engine."""

    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto")
    """Weights; "auto": as they are stored."""

    max_batch_size: int = Field(64, ge=1)
    """Sequences that one forward pass takes together."""

    max_batch_tokens: int = Field(32_768, ge=64)
    """Tokens of one batch, padding included: the size of the policy's KV cache."""

    max_prefill_tokens: int = Field(4_096, ge=1)
    """Prompt tokens admitted between two decode steps (one longer prompt goes alone)."""

    max_model_len: int | None = Field(None, ge=2)
    """Longest prompt and answer together, tokens; None: what the model's config says."""

    max_ongoing_requests: int = Field(256, ge=1)
    """Calls a replica works on at once."""

    max_queued_requests: int = Field(1_024, ge=-1)
    """Calls that wait at each caller before new ones are refused (429); -1: no limit."""

    bucket_mib: int = Field(256, ge=1)
    """Weights travel to replicas in buckets of this size."""

    startup_timeout_s: float = Field(600.0, gt=0)
    """How long all replicas may take to become ready."""

    update_timeout_s: float = Field(300.0, gt=0)
    """How long replicas may take to switch to new weights."""

    request_timeout_s: float = Field(1_800.0, gt=0)
    """How long a batch of rollouts or scores may take."""

    health_check_period_s: float = Field(2.0, gt=0)
    """How often a dead replica is looked for."""

    @model_validator(mode="after")
    def _engine_is_there(self) -> ServerConfig:
        if self.engine == "vllm":
            raise ValueError("engine 'vllm' isn't there yet; use engine: torch, which runs on CPUs and GPUs")
        return self

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
    """Larger request bodies are answered 413."""

    max_ongoing_requests: int = Field(512, ge=1)
    """Requests the HTTP app works on at once."""

    max_queued_requests: int = Field(512, ge=-1)
    """Requests that wait beyond those; more are answered 429."""

    retry_after_s: int = Field(2, ge=1)
    """What a 429 tells the client to wait."""

    request_timeout_s: float = Field(300.0, gt=0)
    """An answer that takes longer is cut off."""

    default_max_tokens: int = Field(256, ge=1)
    """Answer length where the request names none."""

    max_choices: int = Field(16, ge=1)
    """Largest `n`, and most conversations of one score request."""
