"""The quality_classifier stage: trains a fastText model that tells good documents from others.

`stage.py` reads the documents and measures the model, `training.py` trains it. `dataprep/filters/quality.py` applies
it, in a clean stage.
"""
