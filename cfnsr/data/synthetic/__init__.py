"""The synthetic control: clips that are made, so that their best possible accuracy is known."""
