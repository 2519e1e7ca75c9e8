"""The networks of the paper, and `registry`, which lists every system of its two tables."""
