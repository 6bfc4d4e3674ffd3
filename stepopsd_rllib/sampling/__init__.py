"""Samplers: prompts in; token ids, log-probs and finish reasons out. Importing loads no engine."""
