"""Classes of ASCII bytes, for compiled loops over text."""

from __future__ import annotations

import numba


@numba.njit(cache=True)
def is_digit(byte):
    return 0x30 <= byte <= 0x39


@numba.njit(cache=True)
def is_letter(byte):
    return 0x61 <= (byte | 0x20) <= 0x7A


@numba.njit(cache=True)
def is_alnum(byte):
    return is_digit(byte) or is_letter(byte)


@numba.njit(cache=True)
def is_word(byte):
    """Whether a byte belongs to a word. Beyond ASCII none does, since Chinese has no space around what it quotes."""
    return is_alnum(byte) or byte == 0x5F


@numba.njit(cache=True)
def hex_value(byte):
    """What a hexadecimal digit stands for, 0 to 15; -1 for another byte."""
    if is_digit(byte):
        return byte - 0x30
    lower = byte | 0x20
    return lower - 0x57 if 0x61 <= lower <= 0x66 else -1
