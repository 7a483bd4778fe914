"""Where the figures of a training run go: `metrics.jsonl`, and the trackers beside it."""
