"""Finds personal data and secrets in texts, at next to no cost for texts without any.

All that is looked for holds a digit, an "@" or two dashes in a row. A vectorised pass over blocks of bytes finds the
blocks that have one of these, and only there does the slow loop go from byte to byte. Where several kinds fit at one
place, the one that is checked most strictly wins: secret, IBAN, IP address, card, phone number.

Shape letters: D documents, M matches.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from dataprep.pii.addresses import email, ipv4, ipv6
from dataprep.pii.bytes import is_alnum, is_digit
from dataprep.pii.kinds import CREDIT_CARD, EMAIL_ADDRESS, IBAN_CODE, IP_ADDRESS, PHONE_NUMBER, SECRET
from dataprep.pii.numbers import IBAN_LENGTH_OF, american_phone, credit_card, iban, international_phone
from dataprep.pii.secrets import (
    MIN_TOKEN,
    PREFIX_DATA,
    PREFIX_OFFSETS,
    PREFIX_RULES,
    aws_secret_key,
    private_key,
    service_key,
    web_token,
)
from dataprep.text.column import TextColumn
from dataprep.text.numba_pointers import pointer_to
from dataprep.text.spans import Spans

_BLOCK = 128  # bytes looked at together
_AT, _DASH, _PLUS, _OPEN, _UNDERSCORE = 0x40, 0x2D, 0x2B, 0x28, 0x5F
_MAX_TOKEN_LEFT = 64  # how many bytes before its first digit a token may begin


@dataclass(frozen=True)
class Matches(Spans):
    """All matches, document after document, none of which overlap."""

    kinds: npt.NDArray[np.int8]  # [M] index into `dataprep.pii.kinds.KINDS`


def find(column: TextColumn, wanted: Collection[int]) -> Matches:
    """All matches of the kinds `wanted`, given as indices into `dataprep.pii.kinds.KINDS`."""
    wanted_bits = sum(1 << kind for kind in set(wanted))
    doc_offsets = np.zeros(len(column.offsets), np.int64)
    capacity = 256
    columns: list[npt.NDArray[Any]] = [np.empty(capacity, dtype) for dtype in (np.int64, np.int64, np.int8)]
    document = count = 0
    while True:
        document, count = _find(
            column.data, column.offsets, wanted_bits, PREFIX_DATA, PREFIX_OFFSETS, PREFIX_RULES.reshape(-1),
            IBAN_LENGTH_OF, document, count, doc_offsets, *columns,
        )  # fmt: skip
        if document == len(column):
            starts, ends, kinds = (values[:count] for values in columns)
            return Matches(doc_offsets, starts, ends, kinds)
        # Out of room: go on with the document it stopped in. A match takes five bytes or more.
        capacity = max(2 * capacity, count + int(column.offsets[document + 1] - column.offsets[document]))
        columns = [np.concatenate([values[:count], np.empty(capacity - count, values.dtype)]) for values in columns]


@numba.njit(cache=True)
def _find(
    data_array, offsets, wanted, prefix_data, prefix_offsets, prefix_rules, iban_lengths, document, n, doc_offsets,
    starts, ends, kinds,
):  # fmt: skip
    """(document, matches so far): the number of documents when done, else the one that there is no room for."""
    data = pointer_to(data_array)
    prefixes = (
        pointer_to(prefix_data), pointer_to(prefix_offsets), pointer_to(prefix_rules), prefix_offsets.size - 1
    )  # fmt: skip
    iban_lengths_p = pointer_to(iban_lengths)
    for d in range(document, offsets.size - 1):
        begin, stop = offsets[d], offsets[d + 1]
        first = n
        done = begin  # one past the last match, or past the token looked at
        block = begin
        while block < stop:
            last = min(block + _BLOCK, stop)
            if not _has_trigger(data, block, last, stop):
                block = last
                continue
            i = max(block, done)
            while i < last:
                byte = data[i]
                kind, start, end = -1, i, -1
                if is_digit(byte):
                    kind, start, end = _at_digit(data, i, done, begin, stop, wanted, prefixes, iban_lengths_p)
                elif byte == _AT and wanted & 1 << EMAIL_ADDRESS:
                    kind = EMAIL_ADDRESS
                    start, end = email(data, i, done, stop)
                elif byte == _DASH and wanted & 1 << SECRET:
                    kind = SECRET
                    end = private_key(data, i, stop)
                if end < 0:
                    i += 1
                    while is_digit(byte) and i < last and is_digit(data[i]):
                        i += 1
                    continue
                if n == starts.size:
                    return d, first
                starts[n], ends[n], kinds[n] = start, end, kind
                n += 1
                i = done = end
            block = max(last, done)
        doc_offsets[d + 1] = n
    return offsets.size - 1, n


@numba.njit(cache=True)
def _has_trigger(data, i, last, stop):
    """Whether `data[i:last]` has a digit, an "@" or two dashes in a row."""
    found = 0
    end = min(last, stop - 1)
    for k in range(i, end):  # vectorised
        byte = data[k]
        found += (byte - np.uint8(0x30) <= np.uint8(9)) | (byte == _AT) | ((byte == _DASH) & (data[k + 1] == _DASH))
    if end < last:
        found += is_digit(data[end]) or data[end] == _AT
    return found > 0


@numba.njit(cache=True)
def _at_digit(data, i, done, begin, stop, wanted, prefixes, iban_lengths):
    """(kind, start, end) of the match that the digit at byte `i` is in; (-1, ..., -1) where there is none.

    No match begins before byte `done`, where the last one ended.
    """
    token = i
    while token > done and i - token < _MAX_TOKEN_LEFT and _is_token_byte(data[token - 1]):
        token -= 1
    if wanted & 1 << SECRET:
        start, end = _secret(data, token, i, begin, stop, prefixes)
        if end < 0:
            start, end = aws_secret_key(data, i, done, begin, stop)
        if end > 0:
            return SECRET, start, end
    if wanted & 1 << IBAN_CODE and i - token == 2:
        end = iban(data, token, begin, stop, iban_lengths)
        if end > 0:
            return IBAN_CODE, token, end
    if wanted & 1 << IP_ADDRESS and token == i:
        end = ipv4(data, i, begin, stop)
        if end < 0:
            end = ipv6(data, i, begin, stop)
        if end > 0:
            return IP_ADDRESS, i, end
    if wanted & 1 << CREDIT_CARD:
        end = credit_card(data, i, begin, stop)
        if end > 0:
            return CREDIT_CARD, i, end
    if wanted & 1 << PHONE_NUMBER:
        if i > done and data[i - 1] == _PLUS:
            end = international_phone(data, i - 1, begin, stop)
            if end > 0:
                return PHONE_NUMBER, i - 1, end
        if i > done and data[i - 1] == _OPEN:
            end = american_phone(data, i - 1, begin, stop)
            if end > 0:
                return PHONE_NUMBER, i - 1, end
        end = american_phone(data, i, begin, stop)
        if end > 0:
            return PHONE_NUMBER, i, end
    return -1, i, -1


@numba.njit(cache=True)
def _secret(data, token, i, begin, stop, prefixes):
    """(start, end) of the secret that begins at byte `token`; (..., -1) where there is none."""
    while token < i and not is_alnum(data[token]):
        token += 1
    end = i
    while end < stop and end - token < MIN_TOKEN and _is_token_byte(data[end]):
        end += 1
    if end - token < MIN_TOKEN:
        return token, -1
    end = service_key(data, token, begin, stop, prefixes)
    return token, end if end > 0 else web_token(data, token, begin, stop)


@numba.njit(cache=True)
def _is_token_byte(byte):
    return is_alnum(byte) or byte == _UNDERSCORE or byte == _DASH
