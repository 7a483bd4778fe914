"""The kinds of personal data that are found and replaced, as the spec, the metrics and the placeholders name them.

A new kind has its name here, and its search in `scan.py`. Kept apart from the kernels so that a job spec is checked
without loading Numba.
"""

from __future__ import annotations

from typing import Literal, get_args

PiiKind = Literal["email_address", "ip_address", "phone_number", "credit_card", "iban_code", "secret"]
KINDS: tuple[PiiKind, ...] = get_args(PiiKind)
EMAIL_ADDRESS, IP_ADDRESS, PHONE_NUMBER, CREDIT_CARD, IBAN_CODE, SECRET = range(len(KINDS))
