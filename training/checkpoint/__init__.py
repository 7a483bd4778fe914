"""Checkpoints that are whole or absent, written beside training or within it."""
