"""A slow, readable twin of `dataprep.pii`: regular expressions for the forms, plain Python for the checks."""

from __future__ import annotations

import ipaddress
import re

from dataprep.pii.numbers import IBAN_LENGTH_OF

_EMAIL = re.compile(
    r"(?<![\w.!#$%&'*+/=?^{|}~-])[A-Za-z0-9_](?:[\w.!#$%&'*+/=?^{|}~-]{0,62}[A-Za-z0-9_-])?"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,}(?![A-Za-z0-9_-])",
    re.ASCII,
)


def is_email(text: str) -> bool:
    return _EMAIL.fullmatch(text) is not None


def is_public_address(text: str) -> bool:
    """By the standard library, but for the ranges registered since and the rule for versions."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.version == 4:
        octets = [int(octet) for octet in text.split(".")]
        return address.is_global and not address.is_multicast and max(octets) >= 100
    assigned = ipaddress.ip_network("2000::/3")
    return address.is_global and address in assigned and address not in ipaddress.ip_network("3fff::/20")


def is_card(text: str) -> bool:
    """Luhn's checksum as ISO/IEC 7812-1, annex B, describes it: from the right, every second digit doubled."""
    digits = [int(c) for c in text if c.isdigit()]
    total = 0
    for place, digit in enumerate(reversed(digits)):
        total += sum(divmod(2 * digit, 10)) if place % 2 else digit
    return total % 10 == 0 and 13 <= len(digits) <= 19


def is_iban(text: str) -> bool:
    """ISO 13616: the first four characters to the end, letters as numbers from 10 on, the whole modulo 97."""
    plain = text.replace(" ", "")
    country = 26 * (ord(plain[0]) - 65) + ord(plain[1]) - 65
    number = "".join(str(int(c, 36)) for c in plain[4:] + plain[:4])
    return len(plain) == IBAN_LENGTH_OF[country] and int(number) % 97 == 1
