"""What a trained network attends to, whether that matters, and which modality it lives on."""
