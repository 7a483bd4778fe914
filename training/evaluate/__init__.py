"""The evaluate stage: models side by side on the same held-out tokens, answers, prompts and pairs."""
