"""What phone numbers, payment cards and IBANs look like.

**Phone**: an international number is "+", a country code and 8 to 15 digits in all (ITU-T E.164), in groups parted by
single spaces, dots, dashes or brackets. A North American one is "(415) 555-2671", "415-555-2671" or "1.415.555.2671",
where area code and exchange begin with 2 to 9. Parted by spaces alone, "415 555 2671", it counts only where no further
number stands beside it, as in a row of a table. Other national forms look like any number and are left alone.

**Card**: 13 to 19 digits, unbroken or in groups of three to six with the same space or dash between all. They have the
prefix and the length of a card scheme (ISO/IEC 7812), and their Luhn checksum holds.

**IBAN**: of a country in the SWIFT registry and of its length, unbroken or in groups of four parted by spaces, with 1
as its checksum modulo 97 (ISO 13616).

Each function gives where the match ends that begins at a byte, or -1.
"""

from __future__ import annotations

import numba
import numpy as np

from dataprep.pii.bytes import is_alnum, is_digit, is_word

_SPACE, _DASH, _DOT, _PLUS, _OPEN, _CLOSE = 0x20, 0x2D, 0x2E, 0x2B, 0x28, 0x29
_MIN_INTERNATIONAL, _MAX_INTERNATIONAL = 8, 15  # digits
_MAX_CARD = 19  # digits
_IBAN_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
    "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
    "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
    "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
    "YE30"
)
IBAN_LENGTH_OF = np.zeros(26 * 26, np.int64)  # by country, at 26 x its first letter + its second; 0: no country
for _entry in _IBAN_LENGTHS.split():
    IBAN_LENGTH_OF[26 * (ord(_entry[0]) - 65) + ord(_entry[1]) - 65] = int(_entry[2:])


@numba.njit(cache=True)
def international_phone(data, i, begin, stop):
    """Where an international phone number ends whose "+" is at byte `i`, or -1."""
    if i > begin and (is_word(data[i - 1]) or data[i - 1] == _PLUS):
        return -1
    i += 1
    if i >= stop or not 0x31 <= data[i] <= 0x39:
        return -1
    digits = group = single_digits = 0
    groups = 1
    is_open = False
    end = -1
    while i < stop:
        byte = data[i]
        if is_digit(byte):
            digits += 1
            group += 1
            if digits > _MAX_INTERNATIONAL:
                return -1
            end = i + 1
        elif byte == _OPEN and not is_open and digits <= 3 and i + 1 < stop and is_digit(data[i + 1]):
            is_open = True
            groups, group = groups + 1, 0
        elif byte == _CLOSE and is_open and group > 0:
            is_open = False
            if i + 2 < stop and data[i + 1] in (_SPACE, _DASH) and is_digit(data[i + 2]):
                i += 1
            groups, group = groups + 1, 0
        elif byte in (_SPACE, _DASH, _DOT) and i + 1 < stop and (is_digit(data[i + 1]) or data[i + 1] == _OPEN):
            single_digits += group == 1 and groups > 1
            if single_digits > 1:
                return -1  # digits one by one: no number that people write
            groups, group = groups + 1, 0
        else:
            break
        i += 1
    if digits < _MIN_INTERNATIONAL or is_open or (end < stop and is_word(data[end])):
        return -1
    return end


@numba.njit(cache=True)
def american_phone(data, i, begin, stop):
    """Where a North American number ends that begins at byte `i`, with a digit or a bracket, or -1."""
    if i > begin and (is_word(data[i - 1]) or data[i - 1] in (_DOT, _DASH, _PLUS)):
        return -1
    first = i
    if data[i] == 0x31 and i + 1 < stop and data[i + 1] in (_SPACE, _DASH, _DOT):
        i += 2
    bracketed = i < stop and data[i] == _OPEN
    i += bracketed
    if i + 3 > stop or not _is_code(data, i):
        return -1
    i += 3
    separator = np.int64(0)
    if bracketed:
        if i >= stop or data[i] != _CLOSE:
            return -1
        i += 1
        i += i < stop and data[i] == _SPACE
    else:
        if i >= stop or data[i] not in (_SPACE, _DASH, _DOT):
            return -1
        separator = np.int64(data[i])
        i += 1
    if i + 8 > stop or not _is_code(data, i) or data[i + 3] not in (_SPACE, _DASH, _DOT):
        return -1
    spaced = data[i + 3] == _SPACE
    if spaced and first - 1 > begin and data[first - 1] == _SPACE and is_digit(data[first - 2]):
        return -1
    if separator and data[i + 3] != separator:
        return -1
    i += 4
    for k in range(i, i + 4):
        if not is_digit(data[k]):
            return -1
    i += 4
    if i < stop and (is_word(data[i]) or (data[i] in (_DASH, _DOT) and i + 1 < stop and is_digit(data[i + 1]))):
        return -1
    if spaced and i + 1 < stop and data[i] == _SPACE and is_digit(data[i + 1]):
        return -1
    return i


@numba.njit(cache=True)
def _is_code(data, i):
    """Whether three digits stand at byte `i`, the first of them 2 to 9."""
    return 0x32 <= data[i] <= 0x39 and is_digit(data[i + 1]) and is_digit(data[i + 2])


@numba.njit(cache=True)
def credit_card(data, i, begin, stop):
    """Where a card number ends that begins at byte `i`, with a digit, or -1."""
    if i > begin and (
        is_word(data[i - 1]) or (data[i - 1] in (_DOT, _DASH) and i - 1 > begin and is_word(data[i - 2]))
    ):
        return -1
    prefix = np.int64(0)  # the first six digits
    digits = group = odd_sum = even_sum = 0  # sums for Luhn, by place from the left
    odd_doubled = even_doubled = 0
    separator = np.int64(0)
    end = -1
    while i < stop and digits <= _MAX_CARD:
        byte = np.int64(data[i])
        if is_digit(byte):
            value = byte - 0x30
            doubled = 2 * value - 9 * (value > 4)
            if digits < 6:
                prefix = 10 * prefix + value
            if digits & 1:
                odd_sum, odd_doubled = odd_sum + value, odd_doubled + doubled
            else:
                even_sum, even_doubled = even_sum + value, even_doubled + doubled
            digits += 1
            group += 1
            end = i + 1
        elif (
            byte in (_SPACE, _DASH)
            and 3 <= group <= 6
            and separator in (0, byte)
            and i + 1 < stop
            and is_digit(data[i + 1])
            and not (digits >= 13 and byte == _SPACE and _is_card_length(prefix, digits))
        ):
            separator, group = byte, 0
        else:
            break
        i += 1
    if digits < 13 or digits > _MAX_CARD or not _is_card_length(prefix, digits):
        return -1
    if separator and not 3 <= group <= 6:
        return -1
    if end < stop and (
        is_word(data[end]) or (data[end] in (_DASH, _DOT) and end + 1 < stop and is_alnum(data[end + 1]))
    ):
        return -1
    checksum = odd_sum + even_doubled if digits & 1 == 0 else even_sum + odd_doubled
    return end if checksum % 10 == 0 else -1


@numba.njit(cache=True)
def _is_card_length(prefix, digits):
    """Whether some scheme has cards with these first six digits and so many in all."""
    two, three, four = prefix // 10000, prefix // 1000, prefix // 100
    if prefix // 100000 == 4:  # Visa
        return digits in (13, 16, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720:  # Mastercard
        return digits == 16
    if two in (34, 37):  # American Express
        return digits == 15
    if two in (36, 38, 39) or 300 <= three <= 305:  # Diners Club
        return 14 <= digits <= 19
    if four == 6011 or 644 <= three <= 649 or two == 65 or two == 62 or 3528 <= four <= 3589:  # Discover, UnionPay, JCB
        return 16 <= digits <= 19
    return False


@numba.njit(cache=True)
def iban(data, i, begin, stop, length_of):
    """Where an IBAN ends that begins at byte `i`, or -1. `length_of` is a pointer to `IBAN_LENGTH_OF`."""
    if i > begin and is_word(data[i - 1]):
        return -1
    if i + 15 > stop or not (_is_capital(data[i]) and _is_capital(data[i + 1])):
        return -1
    if not (is_digit(data[i + 2]) and is_digit(data[i + 3])):
        return -1
    length = length_of[26 * (np.int64(data[i]) - 65) + np.int64(data[i + 1]) - 65]
    grouped = data[i + 4] == _SPACE
    remainder = np.int64(0)
    head = np.int64(0)  # the first four characters, as six digits; they count last
    count = 0
    while count < length:
        if i >= stop:
            return -1
        byte = np.int64(data[i])
        if grouped and count and count % 4 == 0 and byte == _SPACE:
            i += 1
            if i >= stop:
                return -1
            byte = np.int64(data[i])
        elif grouped and count and count % 4 == 0:
            return -1
        if is_digit(byte):
            value, scale = byte - 0x30, 10
        elif _is_capital(byte):
            value, scale = byte - 55, 100
        else:
            return -1
        if count < 4:
            head = head * scale + value
        else:
            remainder = (remainder * scale + value) % 97
        count += 1
        i += 1
    if count == 0 or (i < stop and is_word(data[i])):
        return -1
    return i if (remainder * 1_000_000 + head) % 97 == 1 else -1


@numba.njit(cache=True)
def _is_capital(byte):
    return 0x41 <= byte <= 0x5A
