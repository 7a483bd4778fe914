"""The mixture stage: how often each range of documents comes in training."""
