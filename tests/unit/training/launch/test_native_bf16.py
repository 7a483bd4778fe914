"""The flags that the kernel lists decide."""

from pathlib import Path

import pytest

from training.launch.native_bf16 import has_native_bf16


@pytest.mark.parametrize(
    ("line", "native"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 sse2", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("flags\t\t: fpu avx2 avx512f avx512bw", False),
        ("Features\t: fp asimd i8mm bf16", True),
        ("Features\t: fp asimd", False),
        ("model name\t: with bf16 in its name", None),
    ],
)
def test_the_flags_decide(line: str, native: bool | None, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\n{line}\n")
    assert has_native_bf16(tmp_path / "cpuinfo") is native


def test_a_system_without_the_list_is_unknown(tmp_path: Path) -> None:
    assert has_native_bf16(tmp_path / "absent") is None
