"""The quality_classifier stage: trains a fastText model of good and bad documents.

`dataprep/filters/quality.py` applies it.
"""
