"""The DeepSpeed engine behind a few functions; nothing else in `training` knows DeepSpeed."""
