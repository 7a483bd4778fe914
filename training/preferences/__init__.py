"""The preferences stage: feedback out of files, and pairs made of conversations and texts."""
