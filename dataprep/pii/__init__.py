"""Replaces personal data and secrets in text by typed placeholders: `<EMAIL_ADDRESS>`, `<PHONE_NUMBER>` and so on.

Begin with `redact.py`. Compiled loops over the text buffer find the spans: `scan.py` finds where to look, and
`addresses.py`, `numbers.py` and `secrets.py` say what each kind looks like.
"""
