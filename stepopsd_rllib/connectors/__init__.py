"""Learner connectors: each reads episodes or columns, calls one pure function, and writes one column."""
