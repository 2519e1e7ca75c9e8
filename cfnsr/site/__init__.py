"""The gallery: `figures/` as web pages that need no network."""
