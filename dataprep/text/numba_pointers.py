"""Bare pointers for compiled loops over text.

An array that is passed to a compiled Numba function costs atomic reference counts at every call, which take several
times as long as decoding one character. A pointer costs nothing, so small functions (`decode`, `flags_of`) are inlined.
The outermost loop holds the arrays and takes their addresses; what it calls gets pointers and never keeps them.
"""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic


@intrinsic
def pointer_to(typing_context: Any, array: Any) -> tuple[Signature, Any]:
    """The address of a contiguous array's first element, for code that Numba compiles.

    Indexing it is neither bounds-checked nor wrapped, and it does not keep the array alive: Numba frees an array after
    the last line that names it. So only take the address of a kernel's argument, which its Python caller holds, or
    of an array that is named again at the kernel's end.
    """
    signature = types.CPointer(array.dtype)(array)  # type: ignore[attr-defined]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return signature, generate
