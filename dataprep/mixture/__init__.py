"""The mixture stage: an index that says how often each range of token shards comes in training."""
