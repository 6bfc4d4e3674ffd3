"""Sampling responses, and driving text environments with them. Importing it loads no engine."""
