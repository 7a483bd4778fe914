"""Conversations: reading them, splitting them by prompt, and turning them into token ids."""
