"""What a trained network says of a clip of one's own."""
