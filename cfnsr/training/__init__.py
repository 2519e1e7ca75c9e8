"""One system on one fold with one seed: its training, what it leaves, and back from that."""
