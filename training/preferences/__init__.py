"""The preferences stage: preference pairs made of conversations and texts."""
