"""Runs to numbers: which epoch is reported, how certain it is, and the paper's tables."""
