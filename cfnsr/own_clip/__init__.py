"""What a trained network says of a clip of one's own."""

from pathlib import Path

#: The network that is kept in git, with its card.
PUBLISHED = Path(__file__).parent / "network"
