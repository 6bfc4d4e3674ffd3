"""Driving text environments with a sampler: the turn loop and the env runner."""
