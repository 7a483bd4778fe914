"""Preference data: pairs, how they are made and encoded, and the baselines that a reward model must beat."""
