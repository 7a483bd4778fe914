"""What e-mail and IP addresses look like.

**E-mail** (ASCII): a local part of letters, digits and `.!#$%&'*+/=?^_{|}~-` that neither begins nor ends in
punctuation other than `_`, "@", then a host name whose last label is of two letters or more.

**IP**: an address that is reachable from the whole internet. Private, loopback, link-local, documentation, multicast
and reserved ranges name no person and stay (the IANA special-purpose registries, RFC 6890).

*IPv4* is four decimal numbers without leading zeros, with no digit, letter or further dotted number beside them. Most
of what looks so is a version or a section ("3.8.11.1"). So either one of the numbers must be 100 or more, or a word for
addresses ("IP", "DNS", "ping", ...) must stand shortly before on the same line, with no word for versions behind it:
"ping 8.8.8.8". "Host" is such a word only where nothing but numbers, "at", "is" or "and" stands between, and "server"
only where more than a space does ("server: 8.8.8.8"), since programs of that name have versions.

*IPv6* is any form of RFC 4291, section 2.2, but for those with an IPv4 address at the end, within 2000::/3, which is
all that is assigned.

Each function gives where the match ends that begins at a byte, or -1; `email` gives both its ends.
"""

from __future__ import annotations

import numba
import numpy as np

from dataprep.pii.bytes import hex_value, is_alnum, is_digit, is_letter, is_word

_DOT, _DASH, _COLON, _UNDERSCORE, _NEWLINE = 0x2E, 0x2D, 0x3A, 0x5F, 0x0A
_LINKS = np.frombuffer(b":=\t(>,\"'", np.uint8)
_LEAST_LARGEST_OCTET = 100
_CONTEXT_BYTES = 32  # before an address of small numbers, among which a word for addresses is looked for
_ADDRESS_WORDS, _HOST_WORDS, _SERVER_WORDS, _LINKING_WORDS, _VERSION_WORDS = (
    np.frombuffer(b"".join(b"\0" + word for word in words.encode().split()) + b"\0", np.uint8)
    for words in (
        "ip ips ipv4 address addresses addr dns nameserver nameservers resolver resolvers ping gateway traceroute",
        "host hosts",
        "server servers",
        "at is are and",
        "v ver version versions release releases firmware section sections build",
    )
)
_MAX_LOCAL_PART, _MAX_HOST = 64, 253  # RFC 5321, section 4.5.3.1


@numba.njit(cache=True)
def email(data, at, begin, stop):
    """(start, end) of the address around the "@" at byte `at`, from byte `begin` on; (..., -1) where there is none."""
    start = at
    while start > begin and at - start < _MAX_LOCAL_PART and _is_local(data[start - 1]):
        start -= 1
    if start > begin and _is_local(data[start - 1]):
        return start, -1  # too long
    while start < at and not (is_alnum(data[start]) or data[start] == _UNDERSCORE):
        start += 1
    last = data[at - 1]
    if start == at or not (is_alnum(last) or last == _UNDERSCORE or last == _DASH):
        return start, -1
    end = at + 1
    label = end
    good = -1
    while end < stop and end - at <= _MAX_HOST:
        byte = data[end]
        if is_alnum(byte) or (byte == _DASH and end > label):
            end += 1
        elif byte == _DOT and end > label and data[end - 1] != _DASH and end + 1 < stop and is_alnum(data[end + 1]):
            end += 1
            label = end
        else:
            break
    if end > label and label > at + 1 and end - label >= 2 and (end == stop or data[end] != _UNDERSCORE):
        good = end
        for k in range(label, end):
            if not is_letter(data[k]):
                good = -1
    return start, good


@numba.njit(cache=True)
def _is_local(byte):
    if is_alnum(byte):
        return True
    return byte in (
        0x21, 0x23, 0x24, 0x25, 0x26, 0x27, 0x2A, 0x2B, 0x2D, 0x2E, 0x2F, 0x3D, 0x3F, 0x5E, 0x5F, 0x7B, 0x7C, 0x7D, 0x7E
    )  # fmt: skip


@numba.njit(cache=True)
def ipv4(data, i, begin, stop):
    """Where a public IPv4 address ends that begins at byte `i`, or -1."""
    if i > begin and (is_word(data[i - 1]) or data[i - 1] == _DOT):
        return -1
    start = i
    address = largest = 0
    for octet in range(4):
        if octet:
            if i >= stop or data[i] != _DOT:
                return -1
            i += 1
        first, value = i, 0
        while i < stop and i - first < 4 and is_digit(data[i]):
            value = 10 * value + data[i] - 0x30
            i += 1
        if i == first or value > 255 or (data[first] == 0x30 and i - first > 1):
            return -1
        address = address << 8 | value
        largest = max(largest, value)
    if i < stop and (is_word(data[i]) or (data[i] == _DOT and i + 1 < stop and is_digit(data[i + 1]))):
        return -1
    if not _is_public_v4(address):
        return -1
    return i if largest >= _LEAST_LARGEST_OCTET or _is_announced(data, start, begin) else -1


@numba.njit(cache=True)
def _is_announced(data, i, begin):
    """Whether the last word before byte `i` that is for addresses or for versions is one for addresses."""
    first = max(begin, i - _CONTEXT_BYTES)
    end = i
    is_near, is_linked = True, False  # nothing but links between it and the number; one of these is no space
    while end > first:
        if data[end - 1] == _NEWLINE:
            return False
        start = end
        while start > begin and end - start < _CONTEXT_BYTES and is_alnum(data[start - 1]):
            start -= 1
        if start == end:
            for link in _LINKS:
                is_linked |= data[end - 1] == link
            end -= 1
            continue
        if _is_listed(data, start, end, _ADDRESS_WORDS):
            return True
        if is_near and _is_listed(data, start, end, _HOST_WORDS):
            return True
        if is_near and is_linked and _is_listed(data, start, end, _SERVER_WORDS):
            return True
        if _is_listed(data, start, end, _LINKING_WORDS):
            is_linked = True
        else:
            for k in range(start, end):
                is_near &= is_digit(data[k])
        if _is_listed(data, start, end, _VERSION_WORDS):
            return False
        end = start
    return False


@numba.njit(cache=True)
def _is_listed(data, start, end, words):
    """Whether `data[start:end]`, in lower case, is one of `words`, which zero bytes stand around."""
    length = end - start
    for at in range(1, words.size - length):
        if words[at - 1] == 0 and words[at + length] == 0:
            k = 0
            while k < length and data[start + k] | 0x20 == words[at + k]:
                k += 1
            if k == length:
                return True
    return False


@numba.njit(cache=True)
def _is_public_v4(address):
    first, second, third = address >> 24, address >> 16 & 255, address >> 8 & 255
    if first in (0, 10, 127) or first >= 224:
        return False
    if first == 100:
        return not 64 <= second <= 127
    if first == 169:
        return second != 254
    if first == 172:
        return not 16 <= second <= 31
    if first == 192:
        return not (second == 168 or (second == 0 and third in (0, 2)))
    if first == 198:
        return not (second in (18, 19) or (second == 51 and third == 100))
    return not (first == 203 and second == 0 and third == 113)


@numba.njit(cache=True)
def ipv6(data, i, begin, stop):
    """Where a public IPv6 address ends that begins at byte `i`, or -1."""
    if i > begin and (is_word(data[i - 1]) or data[i - 1] == _COLON or data[i - 1] == _DOT):
        return -1
    if data[i] != 0x32 and data[i] != 0x33:
        return -1
    first_groups = 0  # the first two groups, 32 bits
    groups, gap, end = 0, False, -1
    while i < stop and groups < 8:
        start, value = i, 0
        while i < stop and i - start < 5 and hex_value(data[i]) >= 0:
            value = value << 4 | hex_value(data[i])
            i += 1
        if i == start or i - start > 4:
            break
        if groups == 0 and i - start < 4:
            return -1
        if groups < 2 and not gap:
            first_groups |= value << 16 * (1 - groups)
        groups += 1
        end = i
        if i + 1 >= stop or data[i] != _COLON:
            break
        if data[i + 1] == _COLON:
            if gap:
                return -1
            gap = True
            i += 2
            end = i
        else:
            i += 1
    if groups == 8 if gap else groups < 8:
        return -1
    if end < stop and is_word(data[end]):
        return -1
    if end + 1 < stop and data[end] == _COLON and (hex_value(data[end + 1]) >= 0 or data[end + 1] == _COLON):
        return -1
    return end if _is_public_v6(first_groups) else -1


@numba.njit(cache=True)
def _is_public_v6(first_groups):
    """Whether an address is public, told by its first 32 bits."""
    if first_groups >> 29 != 1 or first_groups == 0x20010DB8 or first_groups >> 12 == 0x3FFF0:
        return False
    return first_groups >> 9 != 0x20010000 >> 9
