"""Learner connectors: each reads episodes or columns and writes a column with a pure function."""
