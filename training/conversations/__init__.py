"""Conversations: reading them, splitting them by prompt, and rendering them into token ids with an answer mask."""
