"""Personal data and secrets in text, replaced by typed placeholders: `<EMAIL_ADDRESS>`, `<PHONE_NUMBER>` and so on.

Compiled loops over the text buffer find spans: `scan.py` says where to look, `addresses.py`, `numbers.py` and
`secrets.py` what each kind is. Begin with `redact.py`.
"""
