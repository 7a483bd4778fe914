"""The candidates stage: several answers to each prompt, of one or several models, made by the serving engine."""
