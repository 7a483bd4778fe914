"""Whether this machine's CPU computes in bf16 by itself.

Where it does not, every product is emulated, and a step in bf16 takes many times as long as in fp32 (a benchmark of one
minute in fp32 had not ended after nine).
"""

from __future__ import annotations

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_X86_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
_ARM_FLAGS = frozenset({"bf16"})


def has_native_bf16(cpuinfo: Path = _CPUINFO) -> bool | None:
    """Whether the CPU has instructions for bf16; None where the system does not list what it has."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return not _X86_FLAGS.isdisjoint(value.split())
        if name.strip() == "Features":
            return not _ARM_FLAGS.isdisjoint(value.split())
    return None
