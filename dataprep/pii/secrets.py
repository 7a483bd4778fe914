"""What secrets look like: keys and tokens of known services, JSON web tokens and private keys.

A service's key is a prefix and a number of characters of an alphabet, as the service documents it. Private keys are PEM
blocks (RFC 7468). JSON web tokens are three base64url parts, which begin with "eyJ" (RFC 7519). AWS secret access keys
have no prefix: they are 40 characters of base64, one of them a digit, right behind their name
(`aws_secret_access_key = "`). Passwords have no form of their own and can't be told from other words.

Each function gives where the match ends that begins at a byte, or -1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from dataprep.pii.bytes import is_alnum, is_word

_UNDERSCORE, _DASH, _DOT, _NEWLINE, _SPACE = 0x5F, 0x2D, 0x2E, 0x0A, 0x20
_ALNUM, _DASHED, _UPPER_ALNUM = 0, 1, 2  # alphabets: letters and digits; these, "_" and "-"; capitals and digits


@dataclass(frozen=True)
class KeyFormat:
    """The form of a service's keys: a prefix, then `least` to `most` characters of an alphabet."""

    prefix: str
    least: int
    most: int
    alphabet: int = _ALNUM


KEY_FORMATS = (
    KeyFormat("AKIA", 16, 16, _UPPER_ALNUM),  # AWS access keys, long-lived and temporary
    KeyFormat("ASIA", 16, 16, _UPPER_ALNUM),
    KeyFormat("AIza", 35, 35, _DASHED),  # Google
    *(KeyFormat(f"gh{kind}_", 36, 255) for kind in "pousr"),  # GitHub
    KeyFormat("github_pat_", 82, 82, _DASHED),
    KeyFormat("glpat-", 20, 64, _DASHED),  # GitLab
    *(KeyFormat(f"xox{kind}-", 20, 255, _DASHED) for kind in "abeprs"),  # Slack
    *(KeyFormat(f"{kind}_{stage}_", 16, 255) for kind in ("sk", "rk") for stage in ("live", "test")),  # Stripe
    KeyFormat("sk-", 32, 255, _DASHED),  # OpenAI, Anthropic and those who followed them
    KeyFormat("hf_", 34, 40),  # Hugging Face
    KeyFormat("npm_", 36, 36),
    KeyFormat("pypi-", 85, 400, _DASHED),
    KeyFormat("dop_v1_", 64, 64),  # DigitalOcean
    KeyFormat("shpat_", 32, 32),  # Shopify
)
_encoded = [key.prefix.encode() for key in KEY_FORMATS]
PREFIX_DATA = np.frombuffer(b"".join(_encoded), np.uint8)
PREFIX_OFFSETS = np.cumsum([0, *map(len, _encoded)]).astype(np.int64)
PREFIX_RULES = np.array([(key.least, key.most, key.alphabet) for key in KEY_FORMATS], np.int64)  # [prefix, 3]
MIN_TOKEN = min(len(key.prefix) + key.least for key in KEY_FORMATS)  # bytes of the shortest key

_BEGIN, _PRIVATE, _END = (np.frombuffer(text, np.uint8) for text in (b"-----BEGIN ", b"PRIVATE KEY", b"-----END "))
_MAX_LABEL = 60  # bytes of a PEM label
_MAX_PRIVATE_KEY = 20_000  # bytes within which its end must stand
_MIN_JWT_PART = 10  # characters
_AWS_SECRET = 40  # characters
_AWS_NAME = np.frombuffer(b"secretaccesskey", np.uint8)  # in any case, with "_", "-" or spaces in it or not
_AWS_NAME_GAP = 8  # bytes between the name and the key: quotes, "=", ":", spaces
_PLUS, _SLASH = 0x2B, 0x2F


@numba.njit(cache=True)
def service_key(data, i, begin, stop, prefixes):
    """Where a service's key ends that begins at byte `i`, or -1. `prefixes`: pointers to the tables, their length."""
    prefix_data, prefix_offsets, rules, num_prefixes = prefixes
    if i > begin and is_word(data[i - 1]):
        return -1
    for prefix in range(num_prefixes):
        first = prefix_offsets[prefix]
        length = prefix_offsets[prefix + 1] - first
        least, most, alphabet = rules[3 * prefix], rules[3 * prefix + 1], rules[3 * prefix + 2]
        if i + length + least > stop or data[i] != prefix_data[first]:
            continue
        k = 1
        while k < length and data[i + k] == prefix_data[first + k]:
            k += 1
        if k < length:
            continue
        end = i + length
        digits = 0
        while end < stop and end - i - length <= most and _is_in(data[end], alphabet):
            digits += 0x30 <= data[end] <= 0x39
            end += 1
        count = end - i - length
        if least <= count <= most and digits and not (end < stop and is_word(data[end])):
            return end
    return -1


@numba.njit(cache=True)
def aws_secret_key(data, i, done, begin, stop):
    """(start, end) of the AWS secret access key around the digit at byte `i`, from `done` on; (..., -1) for none."""
    start = i
    while start > done and i - start <= _AWS_SECRET and _is_base64(data[start - 1]):
        start -= 1
    end = i
    while end < stop and end - start <= _AWS_SECRET and _is_base64(data[end]):
        end += 1
    if end - start != _AWS_SECRET or (start > begin and _is_base64(data[start - 1])):
        return start, -1
    k = start
    while k > begin and start - k < _AWS_NAME_GAP and not is_alnum(data[k - 1]):
        k -= 1
    for letter in range(_AWS_NAME.size - 1, -1, -1):
        while k > begin and (data[k - 1] == _UNDERSCORE or data[k - 1] == _DASH or data[k - 1] == _SPACE):
            k -= 1
        if k == begin or data[k - 1] | 0x20 != _AWS_NAME[letter]:
            return start, -1
        k -= 1
    return start, end


@numba.njit(cache=True)
def _is_base64(byte):
    return is_alnum(byte) or byte == _PLUS or byte == _SLASH


@numba.njit(cache=True)
def _is_in(byte, alphabet):
    if alphabet == _UPPER_ALNUM:
        return 0x41 <= byte <= 0x5A or 0x30 <= byte <= 0x39
    return is_alnum(byte) or (alphabet == _DASHED and (byte == _UNDERSCORE or byte == _DASH))


@numba.njit(cache=True)
def web_token(data, i, begin, stop):
    """Where a JSON web token ends that begins at byte `i`, or -1."""
    if i + 3 > stop or data[i] != 0x65 or data[i + 1] != 0x79 or data[i + 2] != 0x4A:  # eyJ
        return -1
    if i > begin and is_word(data[i - 1]):
        return -1
    for part in range(3):
        if part:
            if i >= stop or data[i] != _DOT:
                return -1
            i += 1
        first = i
        while i < stop and _is_in(data[i], _DASHED):
            i += 1
        if i - first < _MIN_JWT_PART:
            return -1
    return i


@numba.njit(cache=True)
def private_key(data, i, stop):
    """Where a PEM private key ends whose first line begins at byte `i`, or -1. Without its last line it is none."""
    if not _stands(data, i, stop, _BEGIN):
        return -1
    i += _BEGIN.size
    label_end = i
    while label_end < stop and label_end - i < _MAX_LABEL and data[label_end] != _DASH and data[label_end] != _NEWLINE:
        label_end += 1
    found = False
    for k in range(i, label_end):
        found = found or _stands(data, k, label_end, _PRIVATE)
    if not found:
        return -1
    i = label_end
    last = min(stop, i + _MAX_PRIVATE_KEY)
    while i < last and not _stands(data, i, last, _END):
        i += 1
    if i == last:
        return -1
    i += _END.size
    while i < stop and data[i] != _DASH and data[i] != _NEWLINE:
        i += 1
    while i < stop and data[i] == _DASH:
        i += 1
    return i


@numba.njit(cache=True)
def _stands(data, i, stop, text):
    if i + text.size > stop:
        return False
    for k in range(text.size):
        if data[i + k] != text[k]:
            return False
    return True
