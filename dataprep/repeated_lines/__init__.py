"""The repeated_lines stage: lines that stand in many documents (menus, notices, footers) are cut.

`stage.py` is what the driver does, `part.py` what one task does with one part. `line_keys.py` says which lines are the
same, `line_counts.py` in how many documents a line stands.
"""
