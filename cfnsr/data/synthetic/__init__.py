"""Clips that are made: drawn faces and synthetic voices of which everything is known."""
